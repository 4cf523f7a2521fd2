package extensions

import (
	"context"
	"strings"
	"time"

	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
)

// emptyTrash deletes what is in the trash, beside everything else: a process
// that an uninstalled handler has left behind can work in there, and make files
// as fast as they are removed. The loop calls it only when nothing is being
// unpacked.
func (m *Manager) emptyTrash(ctx context.Context) {
	names := m.store.Trash()
	if len(names) == 0 || !m.emptying.CompareAndSwap(false, true) {
		return
	}
	// wait: nobody waits for it; it ends with the context and the bound of one
	// removal
	go func() {
		defer m.emptying.Store(false)
		store.Delete(ctx, names)
	}()
}

// removeAgain removes again what a process that outlived its handler has
// made anew. What has a state is somebody's installation, and not that.
func (m *Manager) removeAgain() {
	for dir, since := range m.removed {
		name, version, ok := plan.SplitDir(dir)
		h := m.handlers[strings.ToLower(name)]
		if h != nil && h.busy != nil {
			continue
		}
		installed := false
		if h != nil {
			_, installed = h.recs[version]
		}
		if !ok || installed || time.Since(since).Abs() > store.RemovedTime {
			delete(m.removed, dir)
			m.store.ForgetRemoved(dir)
			continue
		}
		base := m.store.Base(name, version)
		if _, err := folder.Root.Lstat(base); err != nil {
			continue
		}
		if _, err := folder.Root.Lstat(base + "/config/HandlerState"); err == nil {
			continue
		}
		if err := store.Discard(base, m.store.TrashName(m.store.Sub("tmp"))); err != nil {
			m.log.Warn().Err(err).Str("handler", name).Str("version", version).Msg("directory of a removed handler exists again and could not be removed")
			continue
		}
		m.log.Warn().Str("handler", name).Str("version", version).Msg("directory of a removed handler existed again, removed")
	}
}

// noteRemoved notes what the last step of a handler has removed.
func (m *Manager) noteRemoved(before, after map[string]store.Record) {
	for v, r := range before {
		if _, there := after[v]; !there {
			m.removed[r.Name+"-"+v] = time.Now()
		}
	}
}

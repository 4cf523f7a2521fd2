package extensions

import (
	"context"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
)

// emptyTrash deletes the content of the trash in the background: a process that
// a removed handler has left running can create files there as fast as they are
// deleted. The loop calls it only while nothing is being unpacked.
func (m *Manager) emptyTrash(ctx context.Context) {
	names := m.store.Trash()
	if len(names) == 0 || !m.emptying.CompareAndSwap(false, true) {
		return
	}
	// wait: not waited for; it ends with the context, after the removal in
	// progress
	go func() {
		defer m.emptying.Store(false)
		defer crash.Guard()
		store.Delete(ctx, names)
	}()
}

// removeAgain removes the directory of a removed handler again if a leftover
// process has created it again. A directory with a HandlerState file is kept:
// another agent has installed the handler.
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

// noteRemoved notes which versions the last step of a handler has removed.
func (m *Manager) noteRemoved(before, after map[string]store.Record) {
	for v, r := range before {
		if _, there := after[v]; !there {
			m.removed[r.Name+"-"+v] = time.Now()
		}
	}
}

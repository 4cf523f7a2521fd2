package extensions

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/plan"
)

// A handler's directory is removed while things that the handler has started
// may still be at work in it. It is taken out of its place first, by a rename,
// so that it is gone at once whatever happens to its files; what is left of
// them goes later. A process that makes the directory anew by its full name is
// met by looking again for a while.

// graveTime is how long it is looked after a directory that was removed.
const graveTime = time.Hour

// removeHandler deletes everything of one handler version but its logs.
func (s store) removeHandler(name, version string) error {
	base := s.base(name, version)
	// The mark comes first: if we die in between, the next start looks.
	errs := []error{top.WriteFile(s.sub("gone", name+"-"+version), nil, 0o600)}
	// Only the directory that we linked to ourselves: a handler may have put
	// a link to anything in its place, and we are root.
	if target, err := top.Readlink(base); err == nil && s.exec != "" && target == s.execDir(name, version) {
		errs = append(errs, removeTree(target, s.trash(s.root.Path(s.exec))))
	}
	errs = append(errs, removeTree(base, s.trash(s.sub("tmp"))))
	for _, p := range []string{
		s.root.Path(s.lib + "/" + name + "__" + version + ".zip"),
		s.sub("packages", name+"-"+version+".zip"),
		s.sub("packages", name+"-"+version+".sha256"),
	} {
		errs = append(errs, top.RemoveAll(p))
	}
	errs = append(errs, top.RemoveAll(s.sub("saved", name+"-"+version)))
	return errors.Join(errs...)
}

const trashPrefix = ".azg-gone-"

// removeTree moves a tree to trash and deletes it there. That something is
// left in the trash, because somebody still writes or deletes in there
// (extensions/SPEC.md §10.8), is no error: it is emptied again and again.
func removeTree(dir, trash string) error {
	if err := discard(dir, trash); err != nil {
		return err
	}
	_ = top.RemoveAll(trash)
	return nil
}

// discard takes a tree out of its place, which takes no time whatever is in it.
func discard(dir, trash string) error {
	err := top.Rename(dir, trash)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// A mount point, or a directory that became one's working place only: it
	// has to go where it is.
	for range 3 {
		if err = top.RemoveAll(dir); err == nil || errors.Is(err, host.ErrBusy) {
			return err
		}
	}
	return err
}

// trashNow are the names of what removals and interrupted installations have
// left. Nothing may be unpacked at that moment; later it gets other names.
func (s store) trashNow() []string {
	var out []string
	entries, _ := top.ReadDir(s.sub("tmp")) // what can't be listed stays
	for _, e := range entries {
		out = append(out, s.sub("tmp", e.Name()))
	}
	if s.exec != "" {
		left, _ := s.root.Glob(s.exec + "/" + trashPrefix + "*")
		for _, name := range left {
			out = append(out, s.root.Path(name))
		}
	}
	return out
}

// emptyTrash deletes what is in the trash, beside everything else: a process
// that an uninstalled handler has left behind can work in there, and make files
// as fast as they are removed. The loop calls it only when nothing is being
// unpacked.
func (m *Manager) emptyTrash(ctx context.Context) {
	names := m.store.trashNow()
	if len(names) == 0 || !m.emptying.CompareAndSwap(false, true) {
		return
	}
	// wait: nobody waits for it; it ends with the context and the bound of one
	// removal
	go func() {
		defer m.emptying.Store(false)
		drop(ctx, names)
	}()
}

// drop deletes what is in the trash. What still resists is tried again.
func drop(ctx context.Context, names []string) {
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		_ = top.RemoveAll(name)
	}
}

// graves are the directories that were removed a short while ago, with the
// time when.
func (s store) graves() map[string]time.Time {
	out := map[string]time.Time{}
	entries, err := top.ReadDir(s.sub("gone"))
	if err != nil {
		return out
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			out[e.Name()] = fi.ModTime()
		}
	}
	return out
}

func (s store) forgetGrave(dir string) { _ = top.Remove(s.sub("gone", filepath.Base(dir))) }

// lookAtGraves removes again what a process that outlived its handler has
// made anew. What has a state is somebody's installation, and not that.
func (m *Manager) lookAtGraves() {
	for dir, since := range m.graves {
		name, version, ok := plan.SplitDir(dir)
		h := m.handlers[strings.ToLower(name)]
		if h != nil && h.busy != nil {
			continue
		}
		installed := false
		if h != nil {
			_, installed = h.recs[version]
		}
		if !ok || installed || time.Since(since).Abs() > graveTime {
			delete(m.graves, dir)
			m.store.forgetGrave(dir)
			continue
		}
		base := m.store.base(name, version)
		if _, err := top.Lstat(base); err != nil {
			continue
		}
		if _, err := top.Lstat(base + "/config/HandlerState"); err == nil {
			continue
		}
		if err := discard(base, m.store.trash(m.store.sub("tmp"))); err != nil {
			m.log.Warn().Err(err).Str("handler", name).Str("version", version).Msg("directory of a removed handler exists again and could not be removed")
			continue
		}
		m.log.Warn().Str("handler", name).Str("version", version).Msg("directory of a removed handler existed again, removed")
	}
}

// buried notes what the last step of a handler has removed.
func (m *Manager) buried(before, after map[string]Record) {
	for v, r := range before {
		if _, there := after[v]; !there {
			m.graves[r.Name+"-"+v] = time.Now()
		}
	}
}

package store

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/folder"
)

// A handler's directory is removed while things that the handler has started
// may still be at work in it. It is taken out of its place first, by a rename,
// so that it is gone at once whatever happens to its files; what is left of
// them goes later. A process that makes the directory anew by its full name is
// met by looking again for a while.

// RemovedTime is how long it is looked after a directory that was removed.
const RemovedTime = time.Hour

// RemoveHandler deletes everything of one handler version but its logs.
func (s Store) RemoveHandler(name, version string) error {
	base := s.Base(name, version)
	// The mark comes first: if we die in between, the next start looks.
	errs := []error{folder.Root.WriteFile(s.Sub("gone", name+"-"+version), nil, 0o600)}
	// Only the directory that we linked to ourselves: a handler may have put
	// a link to anything in its place, and we are root.
	if target, err := folder.Root.Readlink(base); err == nil && s.exec != "" && target == s.execDir(name, version) {
		errs = append(errs, removeTree(target, s.TrashName(s.Root.Path(s.exec))))
	}
	errs = append(errs, removeTree(base, s.TrashName(s.Sub("tmp"))))
	for _, p := range []string{
		s.Root.Path(s.Lib + "/" + name + "__" + version + ".zip"),
		s.Sub("packages", name+"-"+version+".zip"),
		s.Sub("packages", name+"-"+version+".sha256"),
	} {
		errs = append(errs, folder.Root.RemoveAll(p))
	}
	errs = append(errs, folder.Root.RemoveAll(s.Sub("saved", name+"-"+version)))
	return errors.Join(errs...)
}

const trashPrefix = ".azg-gone-"

// removeTree moves a tree to trash and deletes it there. That something is
// left in the trash, because somebody still writes or deletes in there
// (extensions/SPEC.md §10.8), is no error: it is emptied again and again.
func removeTree(dir, trash string) error {
	if err := Discard(dir, trash); err != nil {
		return err
	}
	_ = folder.Root.RemoveAll(trash)
	return nil
}

// Discard takes a tree out of its place, which takes no time whatever is in it.
func Discard(dir, trash string) error {
	err := folder.Root.Rename(dir, trash)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// A mount point, or a directory that became one's working place only: it
	// has to go where it is.
	for range 3 {
		if err = folder.Root.RemoveAll(dir); err == nil || errors.Is(err, host.ErrBusy) {
			return err
		}
	}
	return err
}

// Trash are the names of what removals and interrupted installations have
// left. Nothing may be unpacked at that moment; later it gets other names.
func (s Store) Trash() []string {
	var out []string
	entries, _ := folder.Root.ReadDir(s.Sub("tmp")) // what can't be listed stays
	for _, e := range entries {
		out = append(out, s.Sub("tmp", e.Name()))
	}
	if s.exec != "" {
		left, _ := s.Root.Glob(s.exec + "/" + trashPrefix + "*")
		for _, name := range left {
			out = append(out, s.Root.Path(name))
		}
	}
	return out
}

// Removed are the directories that were removed a short while ago, with the
// time when.
func (s Store) Removed() map[string]time.Time {
	out := map[string]time.Time{}
	entries, err := folder.Root.ReadDir(s.Sub("gone"))
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

// ForgetRemoved ends the watch over a directory that was removed.
func (s Store) ForgetRemoved(dir string) { _ = folder.Root.Remove(s.Sub("gone", filepath.Base(dir))) }

// Delete deletes what is in the trash. What still resists is tried again.
func Delete(ctx context.Context, names []string) {
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		_ = folder.Root.RemoveAll(name)
	}
}

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

// Processes of a handler may still run while its directory is removed. So the
// directory is first renamed, which makes it disappear at once, and its files
// are deleted after that. In case a process creates the directory again, it is
// checked for some time (RemovedTime).

// RemovedTime is for how long it is checked whether the directory of a removed
// handler exists again.
const RemovedTime = time.Hour

// RemoveHandler deletes all files of one handler version except its logs.
func (s Store) RemoveHandler(name, version string) error {
	base := s.Base(name, version)
	// Write the marker first: if the agent ends during the removal, its next
	// start checks the directory.
	errs := []error{folder.Root.WriteFile(s.Sub("gone", name+"-"+version), nil, 0o600)}
	// Remove only a link target that the agent itself has created: a handler may
	// have replaced the link, and the agent runs as root.
	if target, err := folder.Root.Readlink(base); err == nil && s.exec != "" && target == s.execDir(name, version) {
		errs = append(errs, removeTree(target, s.TrashName(s.Root.Path(s.exec))))
	}
	errs = append(errs, removeTree(base, s.TrashName(s.Sub("tmp"))))
	for _, p := range []string{
		s.Root.Path(s.Lib + "/" + name + "__" + version + ".zip"),
		s.Sub("packages", name+"-"+version+".zip"),
		s.Sub("packages", name+"-"+version+".zip"+host.PartSuffix),
		s.Sub("packages", name+"-"+version+".sha256"),
	} {
		errs = append(errs, folder.Root.RemoveAll(p))
	}
	return errors.Join(errs...)
}

const trashPrefix = ".azg-gone-"

// removeTree moves a tree to trash and deletes it there. It is no error if
// something is left there because a process still writes or deletes files
// (extensions/SPEC.md §10.8): the trash is emptied again later.
func removeTree(dir, trash string) error {
	if err := Discard(dir, trash); err != nil {
		return err
	}
	_ = folder.Root.RemoveAll(trash)
	return nil
}

// Discard moves a tree to trash by renaming it, which takes no time. If that
// fails, it deletes the tree.
func Discard(dir, trash string) error {
	err := folder.Root.Rename(dir, trash)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// It can't be renamed, for example because it is a mount point: delete it in
	// place.
	for range 3 {
		if err = folder.Root.RemoveAll(dir); err == nil || errors.Is(err, host.ErrBusy) {
			return err
		}
	}
	return err
}

// Trash returns the paths of what removals and interrupted installations have
// left. It must not be called while something is being unpacked.
func (s Store) Trash() []string {
	var out []string
	entries, _ := folder.Root.ReadDir(s.Sub("tmp")) // an unreadable directory is left alone
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

// Removed returns the directories that were removed recently, with the time of
// the removal.
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

// ForgetRemoved deletes the marker of a removed directory.
func (s Store) ForgetRemoved(dir string) { _ = folder.Root.Remove(s.Sub("gone", filepath.Base(dir))) }

// Delete deletes the given trash until ctx ends. Errors are ignored, because the
// trash is emptied again later.
func Delete(ctx context.Context, names []string) {
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		_ = folder.Root.RemoveAll(name)
	}
}

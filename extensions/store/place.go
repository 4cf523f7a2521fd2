package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
)

// Place moves an unpacked package to its final directory. Files of an existing
// directory that are not in the package are first carried over, and then both
// directories are exchanged atomically. So even after a power cut there is a
// complete handler with its settings, states and mrseq.
func (s Store) Place(tmp, name, version string) error {
	if err := s.placeTree(tmp, name, version); err != nil {
		return fmt.Errorf("place package: %w", err)
	}
	return nil
}

func (s Store) placeTree(tmp, name, version string) error {
	base := s.Base(name, version)
	dir, link := base, false
	if at := handler.NoexecMount(s.Root.Path(s.Lib)); at != "" {
		if s.exec == "" {
			return fault.Prefixed(fault.CauseNoexec, fmt.Errorf("%s is mounted noexec; set Extensions.ExecDir to a directory on a file system that is not", at))
		}
		if bad := handler.NoexecMount(s.Root.Path(s.exec)); bad != "" {
			return fault.Prefixed(fault.CauseNoexec, fmt.Errorf("Extensions.ExecDir is on %s, which is also mounted noexec", bad))
		}
	}
	if s.exec != "" && s.exec != s.Lib {
		if err := s.Root.MkdirAll(s.exec, 0o755); err != nil {
			return err
		}
		dir, link = s.execDir(name, version), true
	}
	if err := CarryFrom(base, tmp); err != nil { // a link is not followed; its target is handled below
		return err
	}
	if link {
		// Next to its final place, under a name that is deleted with the trash
		// if the agent ends before the move.
		moved := s.TrashName(s.Root.Path(s.exec))
		if err := moveTree(tmp, moved); err != nil {
			return errors.Join(err, folder.Root.RemoveAll(moved))
		}
		tmp = moved
		if err := CarryFrom(dir, tmp); err != nil {
			return errors.Join(err, folder.Root.RemoveAll(tmp))
		}
	}
	// If the agent ended now, a directory without HandlerState would not be
	// recognized as a handler.
	if err := folder.MakeAll(tmp); err != nil {
		return err
	}
	if err := folder.Write(tmp, tmp+"/config/HandlerState", []byte("NotInstalled"), 0o600); err != nil {
		return err
	}
	// The record is synced and will say that the package is there. So sync the
	// files, too: they could be empty after a power cut.
	if err := syncTree(tmp); err != nil {
		return err
	}
	s.At("before the package has its name")
	if err := folder.Root.ReplaceDir(tmp, dir); err != nil {
		return err
	}
	s.At("after the package has its name")
	if !link {
		return nil
	}
	if target, err := folder.Root.Readlink(base); err == nil && target == dir {
		return nil
	}
	// Create the link, or replace another link or the directory that had the
	// handler before ExecDir was set.
	tmp = s.TrashName(s.Sub("tmp"))
	if err := folder.Root.Symlink(dir, tmp); err != nil {
		return err
	}
	s.At("before the link has its name")
	return folder.Root.ReplaceDir(tmp, base)
}

// TrashName returns a new path in dir that is deleted when the trash is emptied.
func (s Store) TrashName(dir string) string { return dir + "/" + trashPrefix + NewID() }

// CarryFrom carries files from the directory old to fresh (see carry). It does
// nothing if old does not exist or is a link.
func CarryFrom(old, fresh string) error {
	dir, name := filepath.Split(old)
	from, err := folder.Open(dir, name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, host.ErrUnsafe) {
		return nil
	}
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := folder.Open(fresh)
	if err != nil {
		return err
	}
	return errors.Join(carry(from, to), to.Close())
}

// syncTree writes a directory to the disk. It syncs the whole file system, which
// is faster than one call for each file.
func syncTree(dir string) error {
	f, err := folder.Root.OpenDir(dir, nil)
	if err != nil {
		return err
	}
	return errors.Join(f.SyncFS(), f.Close())
}

// moveTree renames a tree, or copies it to another file system.
func moveTree(from, to string) error {
	err := folder.Root.Rename(from, to)
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	src, err := folder.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := folder.Root.Mkdir(to, 0o755); err != nil {
		return err
	}
	dst, err := folder.Open(to)
	if err != nil {
		return err
	}
	if err := errors.Join(copyTree(src, dst), dst.Close()); err != nil {
		return err
	}
	return folder.Root.RemoveAll(from)
}

// CheckRoom returns an error if there is too little space to download a package
// of at most limit bytes.
func (s Store) CheckRoom(limit int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.Root.Path(s.Lib), &st); err != nil {
		return nil //nolint:nilerr // if there is no room, writing fails and says so
	}
	const least = 4 << 20 // the size of the package is not known yet
	if free := int64(st.Bavail) * st.Bsize; free < min(least, limit) {
		return fault.Prefixed(fault.CauseDiskLow, fmt.Errorf("%s has %d MiB free, at least %d MiB are needed", s.Lib, free>>20, least>>20))
	}
	return nil
}

// DropPackage deletes the downloaded package of a handler.
func (s Store) DropPackage(name, version string) {
	zip := s.Sub("packages", name+"-"+version+".zip")
	_ = folder.Root.Remove(zip)
	_ = folder.Root.Remove(SumFile(zip))
}

// partAge is how long the beginning of a package is kept after the last attempt
// to download the rest.
const partAge = 24 * time.Hour

// TidyPackages removes beginnings of packages that nobody continues.
func (s Store) TidyPackages() {
	entries, err := folder.Root.ReadDir(s.Sub("packages"))
	if err != nil {
		return
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), host.PartSuffix) && time.Since(fi.ModTime()).Abs() > partAge {
			_ = folder.Root.Remove(s.Sub("packages", e.Name()))
		}
	}
}

// Limits for carrying files from one directory to the next. They protect the
// agent. A handler with more files can't be unpacked again.
const (
	MaxCarried      = 1 << 20 // files
	maxCarriedDepth = 100
)

var errCarried = errors.New("the handler's directory has too many files to copy")

// A carrier links or copies files from one directory to another. The old one
// keeps all its files, because it is the handler until it is replaced.
type carrier struct {
	left int // how many more files it may handle
	// copies means to copy files to another file system, instead of creating
	// hard links.
	copies bool
}

// carry adds everything to fresh that is in old but not in fresh: settings,
// states, mrseq and other files of a handler are kept when its package is
// unpacked again (extensions/SPEC.md §2.5).
func carry(old, fresh *host.Dir) error {
	c := carrier{left: MaxCarried}
	return c.merge(old, fresh, 0)
}

// copyTree copies everything in from to the directory to.
func copyTree(from, to *host.Dir) error {
	c := carrier{left: MaxCarried, copies: true}
	return c.merge(from, to, 0)
}

func (c *carrier) merge(old, fresh *host.Dir, depth int) error {
	list, err := old.ReadDir()
	if err != nil {
		return err
	}
	if c.left -= len(list); c.left < 0 || depth > maxCarriedDepth {
		return fmt.Errorf("%s: %w", old.Name(), errCarried)
	}
	for _, e := range list {
		have, err := fresh.Lstat(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = c.give(old, fresh, e.Name(), depth)
		case err == nil && have.IsDir() && e.IsDir():
			err = c.folder(old, fresh, e.Name(), depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// give links or copies one entry of a directory to the other.
func (c *carrier) give(from, to *host.Dir, name string, depth int) error {
	fi, err := from.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return c.folder(from, to, name, depth)
	}
	if !c.copies {
		if err = from.Link(name, to, name); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	switch fi.Mode().Type() {
	case 0:
		return copyFile(from, to, name)
	case fs.ModeSymlink:
		target, err := from.Readlink(name)
		if err != nil {
			return err
		}
		return to.Symlink(target, name)
	default:
		return nil // sockets and FIFOs are created again by their users
	}
}

func (c *carrier) folder(from, to *host.Dir, name string, depth int) error {
	src, err := from.OpenDir(name)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := to.Mkdir(name, 0o700)
	made := err == nil
	if errors.Is(err, fs.ErrExist) {
		dst, err = to.OpenDir(name)
	}
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := c.merge(src, dst, depth+1); err != nil || !made {
		return err
	}
	// Change the owner only when it is complete.
	uid, gid, perm, err := src.Owner()
	if err != nil {
		return err
	}
	return dst.SetOwner(uid, gid, perm)
}

// copyFile copies one file with owner, mode and time.
func copyFile(from, to *host.Dir, name string) error {
	in, err := from.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := to.CreateProgram(name, 0o600)
	if err != nil {
		return err
	}
	_, err = host.WriteProgram(out, in)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && err == nil && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		err = out.Chown(int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = out.Chmod(fi.Mode().Perm())
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return to.Chtimes(name, fi.ModTime())
}

// SumFile returns the path of the file with the SHA-256 of a package.
func SumFile(zip string) string { return strings.TrimSuffix(zip, ".zip") + ".sha256" }

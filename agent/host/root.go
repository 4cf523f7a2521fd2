package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/secret"
)

// Secret is secret.Secret, so that code which handles passwords next to
// files needs one import.
type Secret = secret.Secret

// NewSecret wraps a text that must not be printed.
func NewSecret(s string) Secret { return secret.New(s) }

// Root is the directory that stands for "/". The agent runs with "/"; tests
// with t.TempDir(). It is a prefix, not a jail: absolute symlinks inside the
// tree that root made are followed (os.Root would refuse them even at "/").
//
// Every operation opens the directory that the name is in as OpenDir does, and
// works relative to its descriptor: a link or another directory that a local
// user puts on the way can't redirect it. Root("") takes complete paths.
type Root string

// Path is the name as the kernel must be given it.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// at opens the directory that name is in and returns its last component. With
// follow a symbolic link of that name is followed, if only root can have made
// it; one that somebody else can have made is returned as it is, and no
// operation follows it.
func (r Root) at(name string, follow bool) (*Dir, string, error) {
	name = path.Clean("/" + name)
	for range maxLinks {
		dir, base := path.Split(name)
		d, err := r.OpenDir(dir, nil)
		if err != nil {
			return nil, "", err
		}
		if base == "" {
			return d, ".", nil
		}
		if !follow {
			return d, base, nil
		}
		target, err := d.trustedLink(base)
		if err != nil {
			return d, base, nil //nolint:nilerr // no link, or not a trusted one
		}
		name = absolute(d.name, target)
		if err := d.Close(); err != nil {
			return nil, "", err
		}
	}
	return nil, "", &fs.PathError{Op: "open", Path: name, Err: unix.ELOOP}
}

// in runs f with the directory that name is in.
func (r Root) in(name string, follow bool, f func(d *Dir, base string) error) error {
	d, base, err := r.at(name, follow)
	if err != nil {
		return err
	}
	return errors.Join(f(d, base), d.Close())
}

// maxRead is the limit of ReadFile in bytes. No file that the agent reads
// whole is larger, and a sparse file of a terabyte must not exhaust its
// memory.
const maxRead = 64 << 20

// ReadFile reads a whole regular file of at most 64 MiB. A FIFO or a device
// is an error, but for /dev/null, which is how files are masked.
func (r Root) ReadFile(name string) ([]byte, error) { return r.ReadBounded(name, maxRead) }

// ReadBounded reads a whole regular file of at most limit bytes; a larger one
// is a TooLargeError.
func (r Root) ReadBounded(name string, limit int64) (b []byte, err error) {
	err = r.in(name, true, func(d *Dir, base string) error {
		if st, serr := d.Stat(base); serr == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			b = []byte{}
			return nil
		}
		b, _, err = d.ReadBounded(base, limit)
		return err
	})
	return b, err
}

// Open opens a regular file for reading, as Dir.Open does.
func (r Root) Open(name string) (*os.File, error) { return r.OpenFile(name, os.O_RDONLY, 0) }

// OpenFile opens a regular file, as Dir.OpenFile does.
func (r Root) OpenFile(name string, flag int, perm fs.FileMode) (f *os.File, err error) {
	err = r.in(name, flag&os.O_EXCL == 0, func(d *Dir, base string) error {
		f, err = d.OpenFile(base, flag, perm)
		return err
	})
	return f, err
}

// Append opens a file for writing at its end, and makes it if need be.
func (r Root) Append(name string, perm fs.FileMode) (*os.File, error) {
	return r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, perm)
}

// OpenDevice opens a block or character device without waiting for it.
func (r Root) OpenDevice(name string, flag int) (f *os.File, err error) {
	err = r.in(name, true, func(d *Dir, base string) error {
		if err := checked(base); err != nil {
			return err
		}
		// Its type first: to open a tape or a FIFO can have effects.
		st, err := d.Stat(base)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFBLK && st.Mode&unix.S_IFMT != unix.S_IFCHR {
			err = fmt.Errorf("%w: not a device", ErrUnsafe)
		}
		fd := -1
		if err == nil {
			fd, err = unix.Openat(d.fd(), base, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			return d.fail("open", base, err)
		}
		f = os.NewFile(uintptr(fd), path.Join(d.name, base))
		return nil
	})
	return f, err
}

// Resolve returns the name with links that root made resolved.
func (r Root) Resolve(name string) (full string, err error) {
	err = r.in(name, true, func(d *Dir, base string) error {
		full = path.Join(d.name, base)
		return nil
	})
	return full, err
}

// Exists reports whether name is there, whatever it is.
func (r Root) Exists(name string) bool {
	_, err := r.Lstat(name)
	return err == nil
}

// Lstat describes a name; a link itself, not its target.
func (r Root) Lstat(name string) (fs.FileInfo, error) { return r.stat(name, false) }

// Stat describes a name. A link that somebody other than root can have made is
// described itself, not its target.
func (r Root) Stat(name string) (fs.FileInfo, error) { return r.stat(name, true) }

func (r Root) stat(name string, follow bool) (fi fs.FileInfo, err error) {
	err = r.in(name, follow, func(d *Dir, base string) error {
		fi, err = d.lstat(base)
		return err
	})
	return fi, err
}

// ReadDir lists a directory, sorted by name, as Dir.ReadDir does.
func (r Root) ReadDir(name string) ([]fs.DirEntry, error) {
	d, err := r.OpenDir(path.Clean("/"+name), nil)
	if err != nil {
		return nil, err
	}
	list, err := d.ReadDir()
	return list, errors.Join(err, d.Close())
}

// Readlink is where a symbolic link points.
func (r Root) Readlink(name string) (target string, err error) {
	err = r.in(name, false, func(d *Dir, base string) error {
		target, err = d.Readlink(base)
		return err
	})
	return target, err
}

// Symlink makes a symbolic link, in the place of what has this name.
func (r Root) Symlink(target, name string) error {
	return r.in(name, false, func(d *Dir, base string) error { return d.Symlink(target, base) })
}

// Rename gives a file or directory another name and replaces what has it.
func (r Root) Rename(old, name string) error {
	return r.in(old, false, func(from *Dir, a string) error {
		return r.in(name, false, func(to *Dir, b string) error { return from.Rename(a, to, b) })
	})
}

// Exchange swaps two names in one step, as Dir.Exchange does.
func (r Root) Exchange(a, b string) error {
	return r.in(a, false, func(from *Dir, a string) error {
		return r.in(b, false, func(to *Dir, b string) error { return from.Exchange(a, to, b) })
	})
}

// Chmod sets the permission bits of a regular file or a directory.
func (r Root) Chmod(name string, perm fs.FileMode) error {
	return r.in(name, true, func(d *Dir, base string) error { return d.Chmod(base, perm) })
}

// Chown sets the owner of a regular file or a directory.
func (r Root) Chown(name string, uid, gid int) error {
	return r.in(name, true, func(d *Dir, base string) error { return d.Chown(base, uid, gid) })
}

// Chtimes sets when a file was last read and changed.
func (r Root) Chtimes(name string, at time.Time) error {
	return r.in(name, true, func(d *Dir, base string) error { return d.Chtimes(base, at) })
}

// Mkdir makes a directory with exactly perm; fs.ErrExist if there is something
// of this name.
func (r Root) Mkdir(name string, perm fs.FileMode) error {
	return r.in(name, false, func(d *Dir, base string) error {
		c, err := d.Mkdir(base, perm)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// MkdirAll makes a directory and its missing parents with exactly perm,
// whatever the umask. A directory that is there keeps its owner and mode.
func (r Root) MkdirAll(name string, perm fs.FileMode) error {
	name = path.Clean("/" + name)
	d, err := r.OpenDir(name, func(dir string) (Make, bool) {
		m := Make{Perm: perm, UID: os.Geteuid(), GID: os.Getegid()}
		if dir != name {
			m.Perm = max(perm, 0o755)
		}
		return m, true
	})
	if err != nil {
		return err
	}
	return d.Close()
}

// WriteFile replaces name by data with exactly perm and all or nothing: a
// temporary file beside it, fsync, rename, fsync of the directory. If name is
// a link that root made, its target is replaced. An existing file keeps its
// owner where only root can have put it there.
func (r Root) WriteFile(name string, data []byte, perm fs.FileMode) error {
	return r.write(name, data, perm, -1, -1, true)
}

// WriteFileAs is WriteFile with the owner set before the file gets its name.
func (r Root) WriteFileAs(name string, data []byte, perm fs.FileMode, uid, gid int) error {
	return r.write(name, data, perm, uid, gid, true)
}

// WriteFileLazy is WriteFile without fsync. Readers see the old or the new
// content, never a part, but a power cut may bring the old content back, or
// none. It is for files that are rewritten often and used only within one
// boot.
func (r Root) WriteFileLazy(name string, data []byte, perm fs.FileMode) error {
	return r.write(name, data, perm, -1, -1, false)
}

// tempMark is between the name of a file and the random part in the name of
// its temporary file.
const tempMark = ".azg-"

// TempPattern matches temporary files that are left if the agent is killed
// during WriteFile. The code that writes in a directory may remove them there.
const TempPattern = ".*" + tempMark + "*"

// PartSuffix is added to the name of a file for what a failed download has
// received of it and the next one continues. Who no longer wants the file
// removes it.
const PartSuffix = ".part"

func (r Root) write(name string, data []byte, perm fs.FileMode, uid, gid int, sync bool) error {
	return r.in(name, true, func(d *Dir, base string) error {
		if err := checked(base); err != nil {
			return err
		}
		if uid < 0 && d.Trusted() == nil {
			if st, err := d.Stat(base); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				uid, gid = int(st.Uid), int(st.Gid)
			}
		}
		return d.replace(d, base, data, perm, uid, gid, sync)
	})
}

// ReplaceDir renames the directory tmp to dst. An existing dst is exchanged
// with it in one step, so that it is never missing and a power cut leaves
// either the old or the new one; then the old one is removed as far as
// possible, and what is left of it is named tmp. Where the file system can't
// exchange names, see Aside. tmp must be complete and synced; both must be on
// one file system.
func (r Root) ReplaceDir(tmp, dst string) error {
	return r.in(tmp, false, func(from *Dir, a string) error {
		return r.in(dst, false, func(to *Dir, b string) error {
			err := from.RenameNew(a, to, b)
			if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.EINVAL) {
				err = from.Exchange(a, to, b)
				if errors.Is(err, errors.ErrUnsupported) {
					// The old one is renamed first, to a name that Aside finds.
					if err = to.RemoveAll(aside(b)); err == nil {
						err = to.Rename(b, to, aside(b))
					}
					if err == nil || errors.Is(err, fs.ErrNotExist) {
						err = from.Rename(a, to, b)
					}
				}
			}
			if err != nil {
				return err
			}
			to.Sync()
			_, _ = from.RemoveAll(a), to.RemoveAll(aside(b))
			return nil
		})
	})
}

// aside is the name of a directory while it is replaced on a file system that
// can't exchange two names.
func aside(name string) string { return "." + name + tempMark + "old" }

// Aside restores the old directory if a power cut interrupted ReplaceDir
// between its two renames; the new one may not be complete on disk.
func (r Root) Aside(dst string) error {
	return r.in(dst, false, func(d *Dir, base string) error {
		err := d.RenameNew(aside(base), d, base)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	})
}

// AsideAll is Aside for everything in a directory. Where the new directory has
// its name already, the old one is removed.
func (r Root) AsideAll(dir string) error {
	d, err := r.OpenDir(path.Clean("/"+dir), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := d.ReadDir()
	errs := []error{err}
	for _, e := range list {
		name := strings.TrimPrefix(strings.TrimSuffix(e.Name(), tempMark+"old"), ".")
		if aside(name) != e.Name() {
			continue
		}
		err := d.RenameNew(e.Name(), d, name)
		if errors.Is(err, fs.ErrExist) {
			err = d.RemoveAll(e.Name())
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, d.Close())...)
}

// OpenRoot opens a directory for code that works below it by path, without
// ever leaving it.
func (r Root) OpenRoot(name string) (*os.Root, error) {
	d, err := r.OpenDir(path.Clean("/"+name), nil)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", d.fd()))
	return root, errors.Join(err, d.Close())
}

// SyncDir makes renames and removals in a directory durable.
func (r Root) SyncDir(name string) {
	if d, err := r.OpenDir(path.Clean("/"+name), nil); err == nil {
		d.Sync()
		_ = d.Close()
	}
}

// Remove deletes a file or an empty directory; it is no error if there is
// none.
func (r Root) Remove(name string) error {
	err := r.in(name, false, func(d *Dir, base string) error { return d.Remove(base) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveAll deletes a tree, as Dir.RemoveAll does. It refuses the root itself.
func (r Root) RemoveAll(name string) error {
	if path.Clean("/"+name) == "/" {
		return fmt.Errorf("remove %q: path is the root directory", name)
	}
	err := r.in(name, false, func(d *Dir, base string) error { return d.RemoveAll(base) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Walk walks the tree below a directory, as Dir.Walk does.
func (r Root) Walk(name string, limit int, f func(rel string, in *Dir, fi fs.FileInfo, err error) error) error {
	d, err := r.OpenDir(path.Clean("/"+name), nil)
	if err != nil {
		return err
	}
	return errors.Join(d.Walk(limit, f), d.Close())
}

// Glob lists the names below the root that match a pattern of path.Match, as
// names of this root (with a leading slash), sorted. Directories that can't be
// read have no matches in them.
func (r Root) Glob(pattern string) ([]string, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	found := []string{"/"}
	for _, part := range split(pattern) {
		var next []string
		for _, dir := range found {
			if !strings.ContainsAny(part, `*?[\`) {
				if name := path.Join(dir, part); r.Exists(name) {
					next = append(next, name)
				}
				continue
			}
			list, err := r.ReadDir(dir)
			if err != nil {
				continue
			}
			for _, e := range list {
				if ok, _ := path.Match(part, e.Name()); ok { // the pattern is well-formed
					next = append(next, path.Join(dir, e.Name()))
				}
			}
		}
		found = next
	}
	return found, nil
}

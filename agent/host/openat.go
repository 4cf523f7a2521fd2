package host

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnsafe says that a path goes through something an unprivileged user
// could have planted: a symlink in a directory of theirs, a hard link, a
// FIFO where a file should be.
var ErrUnsafe = errors.New("unsafe path")

// A Dir is an open directory that was reached without following a symlink
// which somebody other than root could have made. All operations are relative
// to the descriptor, so that renaming the path has no effect on them, and
// follow no link in it, so that nothing outside is touched even if others can
// write there. A name is one component: a file or directory in this directory.
type Dir struct {
	f    *os.File
	name string
}

// Make says how a missing directory is made on the way.
type Make struct {
	Perm     fs.FileMode
	UID, GID int
}

// OpenDir opens a directory. mk says how to make a missing component, given
// its full name; if mk is nil or returns false, the error is fs.ErrNotExist. A
// symbolic link on the way is followed only where root owns both the link and
// the directory it is in, and nobody else can write there (/var/run, or
// ostree's /home). A name with ".." in it is refused.
func (r Root) OpenDir(name string, mk func(name string) (Make, bool)) (*Dir, error) {
	d, err := r.openTop()
	if err != nil {
		return nil, err
	}
	todo := split(name)
	if slices.Contains(todo, "..") {
		return nil, errors.Join(fmt.Errorf("open directory %s: %w: path has a \"..\" in it", name, ErrUnsafe), d.Close())
	}
	if len(todo) == 0 {
		return d, nil
	}
	if next, ok := d.beneath(todo); ok {
		return next, d.Close()
	}
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		next, err := d.child(part, mk)
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			var target string
			if target, err = d.trustedLink(part); err == nil {
				if hops++; hops > maxLinks {
					return nil, errors.Join(fmt.Errorf("open directory %s: %w: too many links", name, ErrUnsafe), d.Close())
				}
				todo = append(split(absolute(d.name, target)), todo...)
				next, err = r.openTop()
			}
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open directory %s: %w", path.Join(d.name, part), err), d.Close())
		}
		if err := d.Close(); err != nil {
			return nil, errors.Join(err, next.Close())
		}
		d = next
	}
	return d, nil
}

// maxLinks is how many symbolic links one name may lead through.
const maxLinks = 20

func (r Root) openTop() (*Dir, error) {
	fd, err := unix.Open(r.Path("/"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: r.Path("/"), Err: err}
	}
	return &Dir{f: os.NewFile(uintptr(fd), "/"), name: "/"}, nil
}

// absolute is the path that a link found in dir points to.
func absolute(dir, target string) string {
	if strings.HasPrefix(target, "/") {
		return path.Clean(target)
	}
	return path.Join(dir, target)
}

// beneath opens a directory in one step, where the kernel can refuse links by
// itself (openat2, Linux 5.6) and there are none. Everything else is left to
// the walk from component to component.
func (d *Dir) beneath(parts []string) (*Dir, bool) {
	how := unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(d.fd(), strings.Join(parts, "/"), &how)
	if err != nil {
		return nil, false
	}
	name := path.Join(d.name, path.Join(parts...))
	return &Dir{f: os.NewFile(uintptr(fd), name), name: name}, true
}

func split(name string) []string {
	var out []string
	for p := range strings.SplitSeq(name, "/") {
		if p != "" && p != "." {
			out = append(out, p)
		}
	}
	return out
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func (d *Dir) fd() int { return int(d.f.Fd()) }

func (d *Dir) child(part string, mk func(string) (Make, bool)) (*Dir, error) {
	c, err := d.openChild(part)
	if !errors.Is(err, unix.ENOENT) || mk == nil {
		return c, err
	}
	m, ok := mk(path.Join(d.name, part))
	if !ok {
		return nil, err
	}
	c, err = d.make(part, m)
	if errors.Is(err, unix.EEXIST) { // another process made it meanwhile; it stays as it is
		return d.openChild(part)
	}
	return c, err
}

func (d *Dir) openChild(part string) (*Dir, error) {
	fd, err := unix.Openat(d.fd(), part, dirFlags, 0)
	if err != nil {
		return nil, err
	}
	full := path.Join(d.name, part)
	return &Dir{f: os.NewFile(uintptr(fd), full), name: full}, nil
}

// make makes a directory. It sets owner and mode before it gives the directory
// its name, so that one which another process puts in its place is not
// changed.
func (d *Dir) make(part string, m Make) (*Dir, error) {
	tmp := temporary(part)
	if err := unix.Mkdirat(d.fd(), tmp, 0o700); err != nil {
		return nil, err
	}
	c, err := d.openChild(tmp)
	if err == nil {
		if err = c.SetOwner(m.UID, m.GID, m.Perm); err == nil {
			err = unix.Renameat2(d.fd(), tmp, d.fd(), part, unix.RENAME_NOREPLACE)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
				// A file system that can't promise not to replace. An empty
				// directory is all that a plain rename replaces.
				err = unix.Renameat(d.fd(), tmp, d.fd(), part)
				if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) {
					err = unix.EEXIST
				}
			}
		}
		if err == nil {
			full := path.Join(d.name, part)
			return &Dir{f: c.f, name: full}, nil
		}
		err = errors.Join(err, c.Close())
	}
	return nil, errors.Join(err, unix.Unlinkat(d.fd(), tmp, unix.AT_REMOVEDIR))
}

// temporary is an unpredictable name for a temporary file, which TempPattern
// matches.
func temporary(name string) string {
	if len(name) > 200 { // of 255
		name = name[:200]
	}
	return "." + name + tempMark + rand.Text()
}

// trustedLink returns where a symlink points, if only root can have made it.
func (d *Dir) trustedLink(part string) (string, error) {
	var dir, link unix.Stat_t
	if err := unix.Fstat(d.fd(), &dir); err != nil {
		return "", err
	}
	if err := unix.Fstatat(d.fd(), part, &link, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return "", err
	}
	if link.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", unix.ENOTDIR
	}
	if !ours(link.Uid) || !ours(dir.Uid) || dir.Mode&0o022 != 0 {
		return "", fmt.Errorf("%w: symbolic link %s can be changed by other users", ErrUnsafe, part)
	}
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(d.fd(), part, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Name is the path of the directory below the root, links resolved.
func (d *Dir) Name() string { return d.name }

// Close closes the descriptor.
func (d *Dir) Close() error { return d.f.Close() }

// Owner returns who owns the directory and its permission bits.
func (d *Dir) Owner() (uid, gid int, perm fs.FileMode, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return 0, 0, 0, fmt.Errorf("stat %s: %w", d.name, err)
	}
	return int(st.Uid), int(st.Gid), fs.FileMode(st.Mode & 0o7777), nil
}

// SetOwner sets owner and mode of the directory. Values that are right already
// are not set, so that it works without the privilege to change them.
func (d *Dir) SetOwner(uid, gid int, perm fs.FileMode) error {
	u, g, p, err := d.Owner()
	if err != nil {
		return err
	}
	if u != uid || g != gid {
		if err := unix.Fchown(d.fd(), uid, gid); err != nil {
			return fmt.Errorf("chown %s: %w", d.name, d.explain("", err))
		}
	}
	if p != perm {
		if err := unix.Fchmod(d.fd(), uint32(perm.Perm())); err != nil {
			return fmt.Errorf("chmod %s: %w", d.name, d.explain("", err))
		}
	}
	return nil
}

// ReadFile reads a regular file of at most limit bytes. It neither follows a
// symlink nor blocks on a FIFO, and refuses a file that has several links or
// belongs to neither uid nor root.
func (d *Dir) ReadFile(name string, uid int, limit int64) ([]byte, error) {
	full := path.Join(d.name, name)
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("read %s: %w: symbolic link", full, ErrUnsafe)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", full, err)
	}
	f := os.NewFile(uintptr(fd), full)
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("read %s: %w", full, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("read %s: %w", full, errNotRegular)
	case st.Nlink > 1:
		return nil, fmt.Errorf("read %s: %w: file has %d links", full, ErrUnsafe, st.Nlink)
	case st.Uid != 0 && int(st.Uid) != uid:
		return nil, fmt.Errorf("read %s: %w: file belongs to uid %d", full, ErrUnsafe, st.Uid)
	case st.Size > limit:
		return nil, fmt.Errorf("read %s: file has %d bytes, limit is %d", full, st.Size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", full, err)
	}
	return b, nil
}

// WriteFile replaces a file atomically. The new file has its owner and mode
// before it gets its name; a symlink of that name is replaced, not followed.
func (d *Dir) WriteFile(name string, data []byte, perm fs.FileMode, uid, gid int) error {
	d.sweep(name)
	return d.replace(d, name, data, perm, uid, gid, true)
}

// WriteInto is WriteFile for a name in another directory of the same file
// system. The temporary file is made in d, because other programs read every
// file that they find in to.
func (d *Dir) WriteInto(to *Dir, name string, data []byte, perm fs.FileMode) error {
	if err := checked(name); err != nil {
		return err
	}
	return d.replace(to, name, data, perm, -1, -1, true)
}

// replace writes a temporary file in d and renames it to name in to. All files
// that are written as a whole go through it; a download, which comes in
// pieces, uses CreateTemp. With uid < 0 the file belongs to the caller; sync
// makes it durable.
func (d *Dir) replace(to *Dir, name string, data []byte, perm fs.FileMode, uid, gid int, sync bool) (err error) {
	full := path.Join(to.name, name)
	tmp := temporary(name)
	fd, err := unix.Openat(d.fd(), tmp, newFlags(perm)|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EROFS) && to.mountPoint(name) && to.Trusted() == nil {
		err = to.overwrite(name, data) // a writable file in a read-only directory
		if err == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", full, to.explain(name, err))
	}
	f := os.NewFile(uintptr(fd), full)
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", full, errors.Join(to.explain(name, err), unix.Unlinkat(d.fd(), tmp, 0)))
		}
	}()
	if uid >= 0 && (uid != os.Geteuid() || gid != os.Getegid()) {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := fill(f, data, perm); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Chmod(perm); err != nil {
		return errors.Join(err, f.Close())
	}
	if sync {
		if err := f.Sync(); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	err = unix.Renameat(d.fd(), tmp, to.fd(), name)
	if errors.Is(err, unix.EBUSY) && to.Trusted() == nil {
		if err = to.overwrite(name, data); err == nil {
			err = unix.Unlinkat(d.fd(), tmp, 0)
		}
	}
	if err != nil {
		return err
	}
	if sync {
		to.Sync()
	}
	return nil
}

// mountPoint reports whether something is mounted on a file of the directory.
func (d *Dir) mountPoint(name string) bool {
	fd, err := unix.Openat(d.fd(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	c := &Dir{f: os.NewFile(uintptr(fd), name)}
	defer func() { _ = c.Close() }()
	here, err := d.place()
	there, cerr := c.place()
	return err == nil && cerr == nil && here != there
}

// overwrite writes into a file that cannot be replaced, because something is
// mounted on it: containers and image builders mount single files such as
// /etc/hosts. It keeps owner and mode, and readers may see a part of the new
// content. It is cut to its new length last, so that it is never empty.
func (d *Dir) overwrite(name string, data []byte) error {
	fd, err := unix.Openat(d.fd(), name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path.Join(d.name, name))
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errNotRegular
	}
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// sweep removes temporary files that interrupted writes of this file left.
// Nothing else removes them: the directory belongs to a user.
func (d *Dir) sweep(name string) {
	fd, err := unix.Openat(d.fd(), ".", dirFlags, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), d.name)
	defer func() { _ = f.Close() }()
	names, _ := f.Readdirnames(10000) // best effort
	for _, n := range names {
		if rest, ok := strings.CutPrefix(n, "."+name+tempMark); ok && len(rest) == len(rand.Text()) {
			_ = unix.Unlinkat(d.fd(), n, 0)
		}
	}
}

// Stat is lstat of a name in the directory.
func (d *Dir) Stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

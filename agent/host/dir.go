package host

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// errNotRegular is an ErrUnsafe: a FIFO, a device or a directory stands where
// a file should be.
var errNotRegular = fmt.Errorf("%w: not a regular file", ErrUnsafe)

// ours reports whether a file with this owner counts as root's: uid 0, the
// caller's own uid (tests run without root), and the overflow uid in a user
// namespace that does not map the machine's root.
func ours(uid uint32) bool {
	return uid == 0 || int(uid) == os.Geteuid() || uid == overflowUID && unprivileged()
}

const overflowUID = 65534

// unprivileged reports whether this process is in a user namespace that does
// not map every uid of the machine.
var unprivileged = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
})

// checked returns an error unless name is a single path component: with a
// slash in it the kernel would follow links on the way.
func checked(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q is not a file name", ErrUnsafe, name)
	}
	return nil
}

func (d *Dir) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path.Join(d.name, name), Err: d.explain(name, err)}
}

// Trusted returns nil if only root can have created what is in the directory.
// Otherwise the error wraps ErrUnsafe and says why.
func (d *Dir) Trusted() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return d.fail("stat", "", err)
	}
	switch {
	case !ours(st.Uid):
		return fmt.Errorf("%s: %w: directory belongs to uid %d", d.name, ErrUnsafe, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%s: %w: directory is writable by group or others (mode %04o)", d.name, ErrUnsafe, st.Mode&0o7777)
	}
	return nil
}

// TrustedWay returns nil if only root can change what is in a directory, and
// where the names above it lead: then a file in it is root's word, if the file is
// root's. Otherwise the error wraps ErrUnsafe and says why.
func (r Root) TrustedWay(dir string) error {
	for dir = path.Join("/", dir); ; dir = path.Dir(dir) {
		d, err := r.OpenDir(dir, nil)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Trusted(), d.Close()); err != nil || dir == "/" {
			return err
		}
	}
}

// Sync makes renames and removals in the directory durable. Some file systems
// do not support it; callers could do nothing about an error, so none is
// returned.
func (d *Dir) Sync() { _ = d.f.Sync() }

// SyncFS makes everything durable that was written to the file system of the
// directory.
func (d *Dir) SyncFS() error { return d.fail("sync", "", unix.Syncfs(d.fd())) }

// TryLock takes the exclusive lock (flock) of the directory, held until the
// Dir is closed. It does not wait: the error is unix.EWOULDBLOCK if the lock
// is held already.
func (d *Dir) TryLock() error {
	return d.fail("lock", "", unix.Flock(d.fd(), unix.LOCK_EX|unix.LOCK_NB))
}

// Statfs describes the file system that the directory is on.
func (d *Dir) Statfs() (st unix.Statfs_t, err error) {
	err = d.fail("statfs", "", unix.Fstatfs(d.fd(), &st))
	return st, err
}

// OpenDir opens a directory in this one. A symbolic link is refused.
func (d *Dir) OpenDir(name string) (*Dir, error) {
	if err := checked(name); err != nil {
		return nil, err
	}
	c, err := d.openChild(name)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		err = fmt.Errorf("%w: not a directory", ErrUnsafe)
	}
	return c, d.fail("open", name, err)
}

// Mkdir makes a directory that is the caller's, with exactly perm, and opens
// it. The error wraps fs.ErrExist if there is something of this name.
func (d *Dir) Mkdir(name string, perm fs.FileMode) (*Dir, error) {
	if err := checked(name); err != nil {
		return nil, err
	}
	if _, err := d.Stat(name); err == nil {
		return nil, d.fail("mkdir", name, unix.EEXIST)
	}
	c, err := d.make(name, Make{Perm: perm, UID: os.Geteuid(), GID: os.Getegid()})
	return c, d.fail("mkdir", name, err)
}

// MakeDir opens a directory in this one, and makes it first, as Mkdir does, if
// there is none. An existing one keeps its owner and mode.
func (d *Dir) MakeDir(name string, perm fs.FileMode) (*Dir, error) {
	for range 3 {
		c, err := d.OpenDir(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return c, err
		}
		if c, err = d.Mkdir(name, perm); !errors.Is(err, fs.ErrExist) {
			return c, err
		}
	}
	return d.OpenDir(name)
}

// Open opens a regular file for reading. It neither follows a symbolic link
// nor waits for the other end of a FIFO. The file may have any owner and size;
// callers check those on the result if they matter.
func (d *Dir) Open(name string) (*os.File, error) { return d.OpenFile(name, os.O_RDONLY, 0) }

// OpenFile is os.OpenFile for a regular file in this directory. A file that is
// opened for writing must have only one link and belong to root, the caller or
// the directory's owner: a user who can write in the directory could have
// hard-linked somebody else's file there. A new file gets exactly perm. A new
// executable can only be opened for reading; see WriteProgram.
func (d *Dir) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	if err := checked(name); err != nil {
		return nil, err
	}
	if flag&os.O_CREATE != 0 && flag&(os.O_WRONLY|os.O_RDWR) != 0 && isProgram(perm) {
		return nil, d.fail("open", name, errOpenProgram)
	}
	truncate := flag & os.O_TRUNC
	flag &^= os.O_TRUNC // only after judge has accepted the file
	const safe = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	var fd int
	err := error(unix.EEXIST)
	made := false
	for range 3 {
		if flag&os.O_CREATE != 0 {
			// Created in a separate step, so that we know whether the file is
			// new: only a new file gets the mode.
			fd, err = unix.Openat(d.fd(), name, flag|os.O_EXCL|safe, uint32(perm.Perm()&0o700))
			made = err == nil
		}
		if flag&os.O_EXCL == 0 && (flag&os.O_CREATE == 0 || errors.Is(err, unix.EEXIST)) {
			fd, err = unix.Openat(d.fd(), name, flag&^os.O_CREATE|safe, 0)
		}
		if flag&os.O_CREATE == 0 || !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		err = fmt.Errorf("%w: symbolic link", ErrUnsafe)
	case errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR):
		err = errNotRegular // a FIFO without a reader, a socket, a directory
	}
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	f := os.NewFile(uintptr(fd), path.Join(d.name, name))
	err = d.judge(fd, flag&(os.O_WRONLY|os.O_RDWR) != 0)
	if err == nil && made {
		err = unix.Fchmod(fd, uint32(perm.Perm()))
	}
	if err == nil && truncate != 0 && !made {
		err = unix.Ftruncate(fd, 0)
	}
	if err != nil {
		return nil, d.fail("open", name, errors.Join(err, f.Close()))
	}
	return f, nil
}

func (d *Dir) judge(fd int, write bool) error {
	var st, dir unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &st), unix.Fstat(d.fd(), &dir)); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errNotRegular
	case write && st.Nlink > 1:
		return fmt.Errorf("%w: file has %d links", ErrUnsafe, st.Nlink)
	case write && !ours(st.Uid) && st.Uid != dir.Uid:
		return fmt.Errorf("%w: file belongs to uid %d", ErrUnsafe, st.Uid)
	}
	return nil
}

// Create makes a file that was not there, for writing, with exactly perm.
func (d *Dir) Create(name string, perm fs.FileMode) (*os.File, error) {
	return d.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// CreateProgram makes a file that was not there, with exactly perm, which
// WriteProgram is to fill.
func (d *Dir) CreateProgram(name string, perm fs.FileMode) (*os.File, error) {
	return d.OpenFile(name, os.O_RDONLY|os.O_CREATE|os.O_EXCL, perm)
}

// CreateTemp makes a file with an unpredictable name, for writing, mode 0600.
// TempPattern matches the name.
func (d *Dir) CreateTemp(like string) (f *os.File, name string, err error) {
	name = temporary(like)
	f, err = d.Create(name, 0o600)
	return f, name, err
}

// Append opens a file for writing at its end, and makes it if need be.
func (d *Dir) Append(name string, perm fs.FileMode) (*os.File, error) {
	return d.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, perm)
}

// WriteFileLazy is WriteFile without fsync; the file belongs to the caller.
// Readers see the old or the new content, never a part, but a power cut may
// bring the old content back, or none.
func (d *Dir) WriteFileLazy(name string, data []byte, perm fs.FileMode) error {
	return d.replace(d, name, data, perm, -1, -1, false)
}

// ReadBounded reads a regular file of at most limit bytes, of any owner. A
// larger file is a TooLargeError, as is one that grows beyond limit meanwhile.
func (d *Dir) ReadBounded(name string, limit int64) ([]byte, fs.FileInfo, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if fi.Size() > limit {
		return nil, fi, d.fail("read", name, &TooLargeError{fi.Size(), limit})
	}
	// Files of /proc report size 0, so the limit is checked while reading, too.
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &TooLargeError{int64(len(b)), limit}
	}
	if err != nil {
		return nil, fi, d.fail("read", name, err)
	}
	return b, fi, nil
}

// A TooLargeError says that a file has more bytes than the reader's limit.
type TooLargeError struct{ Size, Limit int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("file has %d bytes, more than %d", e.Size, e.Limit)
}

// Lstat describes a name in the directory; a link itself, not its target.
func (d *Dir) Lstat(name string) (fs.FileInfo, error) {
	if err := checked(name); err != nil {
		return nil, err
	}
	return d.lstat(name)
}

func (d *Dir) lstat(name string) (fs.FileInfo, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("stat", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	fi, err := f.Stat()
	return fi, errors.Join(err, f.Close())
}

// Names lists the directory, in the order of the file system, up to limit
// names; more says that there are others.
func (d *Dir) Names(limit int) (names []string, more bool, err error) {
	fd, err := unix.Openat(d.fd(), ".", dirFlags, 0) // with an offset of its own
	if err != nil {
		return nil, false, d.fail("read", "", err)
	}
	f := os.NewFile(uintptr(fd), d.name)
	defer func() { _ = f.Close() }()
	names, err = f.Readdirnames(limit + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, d.fail("read", "", err)
	}
	return names[:min(limit, len(names))], len(names) > limit, nil
}

// maxNames is how many names of one directory EachName passes on. A user may
// create files as fast as they are listed, and the listing would never end.
const maxNames = 4 << 20

// EachName calls f for each name in the directory, in the order of the file
// system; more than maxNames are an ErrTooMany. f may remove the file.
func (d *Dir) EachName(f func(name string)) error {
	fd, err := unix.Openat(d.fd(), ".", dirFlags, 0) // with an offset of its own
	if err != nil {
		return d.fail("read", "", err)
	}
	list := os.NewFile(uintptr(fd), d.name)
	defer func() { _ = list.Close() }()
	for left := maxNames; ; {
		names, err := list.Readdirnames(1000)
		for _, n := range names {
			f(n)
		}
		if left -= len(names); left < 0 {
			return d.fail("read", "", ErrTooMany)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return d.fail("read", "", err)
		}
	}
}

// MaxEntries is how many entries of one directory ReadDir returns.
const MaxEntries = 100_000

// ReadDir lists the directory, sorted by name. Entries that vanish meanwhile
// are left out; a directory of more than MaxEntries is an error.
func (d *Dir) ReadDir() ([]fs.DirEntry, error) {
	names, more, err := d.Names(MaxEntries)
	if err == nil && more {
		err = d.fail("read", "", fmt.Errorf("more than %d entries", MaxEntries))
	}
	if err != nil {
		return nil, err
	}
	out := make([]fs.DirEntry, 0, len(names))
	for _, n := range names {
		if fi, err := d.lstat(n); err == nil {
			out = append(out, fs.FileInfoToDirEntry(fi))
		}
	}
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return out, nil
}

// Remove deletes a file, a link or an empty directory.
func (d *Dir) Remove(name string) error {
	if err := checked(name); err != nil {
		return err
	}
	err := unix.Unlinkat(d.fd(), name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		if derr := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); !errors.Is(derr, unix.ENOTDIR) {
			err = derr
		}
	}
	return d.fail("remove", name, err)
}

// maxDepth is how many directory levels are walked with one open descriptor
// per level.
const maxDepth = 100

// removeTime bounds the removal of one tree: a user may keep creating files in
// it as fast as they are removed.
var removeTime = 20 * time.Second

// ErrBusy says that a tree was not removed within the time for it.
var ErrBusy = errors.New("files keep being created in it")

// RemoveAll deletes a tree; it is no error if there is none. Symbolic links
// are removed, not followed. A file system mounted in the tree, a bind mount
// too, is left alone and is an error. If other processes keep creating files
// in it, RemoveAll gives up after removeTime with ErrBusy; a second call
// continues where it stopped.
func (d *Dir) RemoveAll(name string) error {
	if err := checked(name); err != nil {
		return err
	}
	at, err := d.place()
	if err != nil {
		return err
	}
	r := removal{at: at, top: d, until: time.Now().Add(removeTime)}
	err = r.remove(d, name, 0)
	for len(r.lifted) > 0 {
		up := r.lifted[len(r.lifted)-1]
		r.lifted = r.lifted[:len(r.lifted)-1]
		if lerr := r.remove(d, up, 0); err == nil {
			err = lerr
		}
	}
	return d.fail("remove", name, err)
}

// A place identifies the mount that a directory is on, by mount id, which also
// tells a bind mount from the rest of its file system. Where the kernel does
// not give one it is the device number.
type place struct{ mount, dev uint64 }

func (d *Dir) place() (place, error) {
	var x unix.Statx_t
	if err := unix.Statx(d.fd(), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &x); err == nil && x.Mask&unix.STATX_MNT_ID != 0 {
		return place{mount: x.Mnt_id}, nil
	}
	// Before Linux 5.8.
	if b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", d.fd())); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "mnt_id:"); ok {
				if n, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 64); err == nil {
					return place{mount: n}, nil
				}
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return place{}, d.fail("stat", "", err)
	}
	return place{dev: uint64(st.Dev)}, nil //nolint:unconvert // the type depends on the architecture
}

// A removal is the state of one RemoveAll. Directories deeper than maxDepth
// are moved up to top and removed afterwards, so that a chain of a hundred
// thousand directories needs neither as many descriptors nor as much stack.
type removal struct {
	at     place
	top    *Dir
	lifted []string // names in top
	until  time.Time
}

// remove deletes name in d.
func (r *removal) remove(d *Dir, name string, depth int) error {
	err := unix.Unlinkat(d.fd(), name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	c, cerr := d.openChild(name)
	if errors.Is(cerr, unix.ENOENT) {
		return nil
	}
	if cerr != nil {
		if errors.Is(cerr, unix.ENOTDIR) || errors.Is(cerr, unix.ELOOP) {
			return err // a file that can't be removed, not a directory
		}
		return cerr
	}
	if at, perr := c.place(); perr != nil || at != r.at {
		return errors.Join(perr, fmt.Errorf("a file system is mounted at %s", c.name), c.Close())
	}
	if depth == maxDepth {
		cerr = c.Close()
		up := temporary("deep")
		if err := unix.Renameat(d.fd(), name, r.top.fd(), up); err != nil {
			return errors.Join(cerr, err)
		}
		r.lifted = append(r.lifted, up)
		return cerr
	}
	var errs []error
	// If others write in it, it may have to be emptied more than once.
	for pass := range 5 {
		errs = r.empty(c, depth, pass == 0)
		err = unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR)
		if !errors.Is(err, unix.ENOTEMPTY) || len(errs) > 0 {
			break
		}
	}
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(append(errs, err, c.Close())...)
}

// empty deletes the entries of a directory. If the first pass leaves some, the
// directory is taken over (seize), so that its owner can't go on filling it.
func (r *removal) empty(c *Dir, depth int, gentle bool) (errs []error) {
	for look := 0; ; look++ {
		if look == 1 || look == 0 && !gentle {
			giveBack := c.seize()
			defer func() {
				if len(errs) > 0 {
					giveBack()
				}
			}()
		}
		names, more, err := c.Names(1000)
		for _, n := range names {
			if time.Now().After(r.until) {
				return append(errs, ErrBusy)
			}
			if err := r.remove(c, n, depth+1); err != nil && len(errs) < 10 {
				errs = append(errs, err)
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
		if !more || len(errs) > 0 {
			return errs
		}
	}
}

// seize makes a directory that is to be deleted accessible to root only, even
// for processes that have it open. giveBack restores owner and mode.
func (d *Dir) seize() (giveBack func()) {
	var st unix.Stat_t
	if unix.Fstat(d.fd(), &st) != nil {
		return func() {}
	}
	if os.Geteuid() == 0 {
		_ = unix.Fchown(d.fd(), 0, 0) // first: an owner could set the mode back
	}
	_ = unix.Fchmod(d.fd(), 0o700)
	return func() {
		_ = unix.Fchmod(d.fd(), st.Mode&0o7777)
		if os.Geteuid() == 0 {
			_ = unix.Fchown(d.fd(), int(st.Uid), int(st.Gid))
		}
	}
}

// Rename gives a file or directory another name, in this directory or in to,
// and replaces what has that name.
func (d *Dir) Rename(old string, to *Dir, name string) error {
	return d.rename(old, to, name, 0)
}

// RenameNew is Rename that fails with fs.ErrExist if the new name is taken.
func (d *Dir) RenameNew(old string, to *Dir, name string) error {
	return d.rename(old, to, name, unix.RENAME_NOREPLACE)
}

// Exchange swaps two names in one step, so that neither is missing at any
// moment. Not every file system can (overlayfs before Linux 4.17, NFS, FAT):
// the error is then errors.ErrUnsupported.
func (d *Dir) Exchange(a string, other *Dir, b string) error {
	err := d.rename(a, other, b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = errors.Join(errors.ErrUnsupported, err)
	}
	return err
}

func (d *Dir) rename(old string, to *Dir, name string, flags uint) error {
	if err := errors.Join(checked(old), checked(name)); err != nil {
		return err
	}
	err := error(nil)
	if flags == 0 {
		err = unix.Renameat(d.fd(), old, to.fd(), name)
	} else {
		err = unix.Renameat2(d.fd(), old, to.fd(), name, flags)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: path.Join(d.name, old), New: path.Join(to.name, name), Err: err}
	}
	return nil
}

// Link makes a hard link to a file in to. For a symbolic link it is a second
// name of the link itself, not of its target.
func (d *Dir) Link(old string, to *Dir, name string) error {
	if err := errors.Join(checked(old), checked(name)); err != nil {
		return err
	}
	if err := unix.Linkat(d.fd(), old, to.fd(), name, 0); err != nil {
		return &os.LinkError{Op: "link", Old: path.Join(d.name, old), New: path.Join(to.name, name), Err: err}
	}
	return nil
}

// Readlink is where a symbolic link points.
func (d *Dir) Readlink(name string) (string, error) {
	if err := checked(name); err != nil {
		return "", err
	}
	buf := make([]byte, 4097)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	if err != nil {
		return "", d.fail("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// Symlink makes a symbolic link, in the place of what has this name.
func (d *Dir) Symlink(target, name string) error {
	if err := checked(name); err != nil {
		return err
	}
	tmp := temporary(name)
	err := unix.Symlinkat(target, d.fd(), tmp)
	if err == nil {
		if err = unix.Renameat(d.fd(), tmp, d.fd(), name); err != nil {
			err = errors.Join(err, unix.Unlinkat(d.fd(), tmp, 0))
		}
	}
	return d.fail("symlink", name, err)
}

// Chmod sets the permission bits of a regular file or a directory.
func (d *Dir) Chmod(name string, perm fs.FileMode) error {
	return d.change("chmod", name, func(fd int) error {
		return unix.Fchmod(fd, uint32(perm.Perm())|uint32(perm&fs.ModeSticky)>>11|uint32(perm&(fs.ModeSetuid|fs.ModeSetgid))>>12)
	})
}

// Chown sets the owner of a regular file or a directory.
func (d *Dir) Chown(name string, uid, gid int) error {
	return d.change("chown", name, func(fd int) error { return unix.Fchown(fd, uid, gid) })
}

func (d *Dir) change(op, name string, f func(fd int) error) error {
	if err := checked(name); err != nil {
		return err
	}
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		err = fmt.Errorf("%w: symbolic link", ErrUnsafe)
	}
	if err != nil {
		return d.fail(op, name, err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		switch kind := st.Mode & unix.S_IFMT; {
		case kind == unix.S_IFREG && st.Nlink > 1:
			err = fmt.Errorf("%w: file has %d links", ErrUnsafe, st.Nlink)
		case kind != unix.S_IFREG && kind != unix.S_IFDIR:
			err = errNotRegular
		default:
			err = f(fd)
		}
	}
	return d.fail(op, name, errors.Join(err, unix.Close(fd)))
}

// Chtimes sets the access and modification time of a file.
func (d *Dir) Chtimes(name string, at time.Time) error {
	if err := checked(name); err != nil {
		return err
	}
	ts := unix.NsecToTimespec(at.UnixNano())
	return d.fail("chtimes", name, unix.UtimesNanoAt(d.fd(), name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// SkipDir tells Walk not to descend.
var SkipDir = fs.SkipDir

// Walk calls f for every entry below the directory, parents first, with its
// path relative to d and the directory that it is in. More than limit entries
// are an ErrTooMany. Symbolic links are not followed and mounted file systems
// not entered. Entries that vanish meanwhile are left out; for a directory
// that can't be entered f is called a second time, with the error. An error of
// f other than SkipDir ends the walk.
func (d *Dir) Walk(limit int, f func(rel string, in *Dir, fi fs.FileInfo, err error) error) error {
	at, err := d.place()
	if err != nil {
		return err
	}
	return d.walk("", at, 0, &limit, f)
}

// walkNames is how many names a walk reads at a time from each open directory.
const walkNames = 512

func (d *Dir) walk(prefix string, top place, depth int, limit *int, f func(string, *Dir, fs.FileInfo, error) error) error {
	fd, err := unix.Openat(d.fd(), ".", dirFlags, 0) // with an offset of its own
	if err != nil {
		return d.fail("read", "", err)
	}
	list := os.NewFile(uintptr(fd), d.name)
	defer func() { _ = list.Close() }()
	for {
		names, err := list.Readdirnames(walkNames)
		slices.Sort(names) // within this batch; a larger directory has several
		for _, n := range names {
			if err := d.visit(prefix, n, top, depth, limit, f); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return d.fail("read", "", err)
		}
	}
}

// visit handles one name of a walk, and the tree below it.
func (d *Dir) visit(prefix, n string, top place, depth int, limit *int, f func(string, *Dir, fs.FileInfo, error) error) error {
	fi, err := d.lstat(n)
	if err != nil {
		return nil //nolint:nilerr // removed meanwhile
	}
	if *limit--; *limit < 0 {
		return d.fail("walk", "", ErrTooMany)
	}
	rel := path.Join(prefix, n)
	err = f(rel, d, fi, nil)
	if errors.Is(err, fs.SkipDir) {
		return nil
	}
	if err != nil || !fi.IsDir() {
		return err
	}
	c, err := d.openChild(n)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		var at place
		switch at, err = c.place(); {
		case err == nil && at != top:
		case err == nil && depth == maxDepth:
			err = fmt.Errorf("more than %d directories deep", maxDepth)
		case err == nil:
			return errors.Join(c.walk(rel, top, depth+1, limit, f), c.Close())
		}
		err = errors.Join(err, c.Close())
	}
	if err == nil {
		return nil
	}
	if err := f(rel, d, fi, err); err != nil && !errors.Is(err, fs.SkipDir) {
		return err
	}
	return nil
}

// ErrTooMany ends a walk over more entries than its limit.
var ErrTooMany = errors.New("too many files")

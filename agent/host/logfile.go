package host

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

// A LogFile is a log that the agent appends to, and that others may read, move
// or delete. It is reopened when its name refers to another file, so logrotate
// needs no signal. Where a group can write in the directory, as in /var/log on
// some distributions, a file that somebody else put in its place is moved
// aside and not written. Safe for concurrent use.
type LogFile struct {
	root  Root
	name  string
	perm  fs.FileMode // of a new file; an existing one stays as readable as it is
	limit int64       // bytes; a larger file is rotated
	keep  int         // how many older ones, compressed, as name.1.gz and so on

	mu   sync.Mutex // guards the rest
	f    *os.File
	full int64 // size up to which a failed rotation is not tried again
}

// NewLogFile makes a LogFile; the first Write opens the file.
func NewLogFile(root Root, name string, perm fs.FileMode, limit int64, keep int) *LogFile {
	return &LogFile{root: root, name: path.Clean("/" + name), perm: perm, limit: limit, keep: keep}
}

// Write appends p, which must consist of whole records: the file may be
// rotated between two calls.
func (l *LogFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dir, base, err := l.root.at(l.name, true) // an administrator's link is followed
	if errors.Is(err, fs.ErrNotExist) {
		if err = l.root.MkdirAll(path.Dir(l.name), 0o755); err == nil {
			dir, base, err = l.root.at(l.name, true)
		}
	}
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	size, ok := l.current(dir, base)
	if !ok {
		if size, err = l.open(dir, base); err != nil {
			return 0, err
		}
	}
	if after := size + int64(len(p)); size > 0 && after > max(l.limit, l.full) {
		l.full = 0
		if l.rotate(dir, base) != nil {
			// As with a file that may only be appended to (chattr +a). It goes on
			// there, and is tried again when the file has grown noticeably.
			l.full = after + l.limit/10
		}
		if l.f == nil {
			if _, err := l.open(dir, base); err != nil {
				return 0, err
			}
		}
	}
	return l.f.Write(p)
}

// current reports whether the name still refers to the open file, and the
// file's size, as others may append to it too.
func (l *LogFile) current(dir *Dir, base string) (size int64, ok bool) {
	if l.f == nil {
		return 0, false
	}
	var have unix.Stat_t
	want, err := dir.Stat(base)
	if err == nil {
		err = unix.Fstat(int(l.f.Fd()), &have)
	}
	return have.Size, err == nil && have.Dev == want.Dev && have.Ino == want.Ino
}

func (l *LogFile) open(dir *Dir, base string) (size int64, err error) {
	err = l.close()
	for range 3 {
		var f *os.File
		var st unix.Stat_t
		if f, err = dir.Append(base, l.perm); err == nil {
			if err = unix.Fstat(int(f.Fd()), &st); err == nil && !ours(st.Uid) {
				err = fmt.Errorf("%w: file belongs to uid %d", ErrUnsafe, st.Uid)
			}
			if err == nil && st.Mode&0o022 != 0 {
				// Another program or an administrator made it writable for
				// others.
				err = unix.Fchmod(int(f.Fd()), st.Mode&0o755)
			}
			if err == nil {
				l.f = f
				return st.Size, nil
			}
			err = errors.Join(err, f.Close())
		}
		if !errors.Is(err, ErrUnsafe) {
			return 0, err
		}
		// Kept, not deleted: it may be somebody's file, or evidence of an
		// attack.
		if merr := replaceName(dir, base, base+".foreign"); merr != nil && !errors.Is(merr, fs.ErrNotExist) {
			return 0, errors.Join(err, merr)
		}
	}
	return 0, err
}

// replaceName renames a file and replaces what has the new name. A directory,
// which a file can't replace, is renamed out of the way first. It is not
// deleted: that could take as long as its owner likes, and would block
// logging.
func replaceName(dir *Dir, name, to string) error {
	err := dir.Rename(name, dir, to)
	if errors.Is(err, fs.ErrNotExist) || err == nil {
		return err
	}
	if _, serr := dir.Lstat(to); serr != nil {
		return err
	}
	if err := dir.Rename(to, dir, temporary(to)); err != nil {
		return err
	}
	return dir.Rename(name, dir, to)
}

// packed is the suffix of a compressed file.
const packed = ".gz"

// rotate compresses the file to name.1.gz, renumbers the older ones, and
// begins a new file. If the file can't be renamed, nothing is changed. The names
// are those of logrotate, which may rotate the same log.
func (l *LogFile) rotate(dir *Dir, base string) error {
	full := base + ".0"
	if err := replaceName(dir, base, full); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	older := func(i int, suffix string) string { return fmt.Sprintf("%s.%d%s", base, i, suffix) }
	for i := l.keep - 1; i > 0; i-- {
		// Uncompressed ones are logrotate's, which would find their compressed
		// name taken.
		for _, suffix := range []string{packed, ""} {
			if err := replaceName(dir, older(i, suffix), older(i+1, suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if l.keep > 0 {
		// If that fails, as on a full disk, the old records are lost: new ones
		// matter more.
		_ = l.pack(dir, full, older(1, packed))
	}
	if err := errors.Join(l.close(), dir.Remove(full)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := l.open(dir, base)
	return err
}

func (l *LogFile) pack(dir *Dir, base, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(l.f.Fd()), &st); err != nil {
		return err
	}
	in, err := dir.Open(base)
	if err != nil {
		return err
	}
	defer in.Close()
	out, tmp, err := dir.CreateTemp(name)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	_, err = io.Copy(z, io.LimitReader(in, 2*l.limit))
	err = errors.Join(err, z.Close(), out.Chmod(fs.FileMode(st.Mode&0o777)), out.Close())
	if err == nil {
		err = replaceName(dir, tmp, name)
	}
	if err != nil {
		err = errors.Join(err, dir.Remove(tmp))
	}
	return err
}

// Close closes the file. A later Write opens it again.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.close()
}

func (l *LogFile) close() error {
	if l.f == nil {
		return nil
	}
	f := l.f
	l.f = nil
	return f.Close()
}

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

// A LogFile is appended to by us and read, moved or deleted by others. Where
// its directory can be written by a group, as /var/log on some distributions,
// it is still only our own file that is written: what somebody put in its
// place is moved aside. It is opened again when its name leads to another
// file, so that logrotate needs no signal. Safe for concurrent use.
type LogFile struct {
	root  Root
	name  string
	perm  fs.FileMode // of a new file; what an administrator allows to read stays
	limit int64       // bytes, then it is rotated
	keep  int         // how many older ones, compressed, as name.1.gz and so on

	mu sync.Mutex // guards f
	f  *os.File
}

// NewLogFile does not open anything yet.
func NewLogFile(root Root, name string, perm fs.FileMode, limit int64, keep int) *LogFile {
	return &LogFile{root: root, name: path.Clean("/" + name), perm: perm, limit: limit, keep: keep}
}

// Write appends whole records.
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
	if size > 0 && size+int64(len(p)) > l.limit {
		if err := l.rotate(dir, base); err != nil {
			return 0, err
		}
	}
	return l.f.Write(p)
}

// current says whether the name still leads to the file that is open, and how
// large that is: others append to it too.
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
				// Another agent or a careless hand left it so.
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
		// It may be somebody's file, or be the trace of an attack.
		if merr := replaceName(dir, base, base+".foreign"); merr != nil && !errors.Is(merr, fs.ErrNotExist) {
			return 0, errors.Join(err, merr)
		}
	}
	return 0, err
}

// replaceName gives a name to another, whatever has that: a directory, which no
// file replaces, gets a name that is in nobody's way. To delete it would take as
// long as its owner likes, and whoever logs would wait.
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

// rotate compresses the file into the first of the older ones.
func (l *LogFile) rotate(dir *Dir, base string) error {
	older := func(i int) string { return fmt.Sprintf("%s.%d.gz", base, i) }
	for i := l.keep - 1; i > 0; i-- {
		if err := replaceName(dir, older(i), older(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if l.keep > 0 {
		// On a full disk the old records go: room for the newest counts more.
		_ = l.pack(dir, base, older(1))
	}
	if err := errors.Join(l.close(), dir.Remove(base)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/azguest/azguest/agent/host"
)

// Root takes complete paths, as handlers are told them.
//
// Everything above a handler's directory is root's. What is below it may have
// been given to a service account, which can put anything there at any time:
// it is entered by descriptor, and never through a link.
const Root = host.Root("")

// Open opens a directory and then, one by one, what is below it, where
// no link is followed.
func Open(dir string, below ...string) (*host.Dir, error) {
	d, err := Root.OpenDir(dir, nil)
	for _, name := range below {
		if err != nil {
			return nil, err
		}
		var next *host.Dir
		next, err = d.OpenDir(name)
		err = errors.Join(err, d.Close())
		d = next
	}
	return d, err
}

// List lists a folder of a handler; behind a link it is host.ErrUnsafe.
func List(path string) ([]fs.DirEntry, error) {
	base, name := filepath.Split(path)
	d, err := Open(base, name)
	if err != nil {
		return nil, err
	}
	list, err := d.ReadDir()
	return list, errors.Join(err, d.Close())
}

// In runs f with a folder of a handler.
func In(base, name string, f func(*host.Dir) error) error {
	d, err := Open(base, name)
	if err != nil {
		return err
	}
	return errors.Join(f(d), d.Close())
}

// OpenFile opens a regular file for reading that is not behind a link.
func OpenFile(path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	d, err := Open(dir)
	if err != nil {
		return nil, err
	}
	f, err := d.Open(name)
	return f, errors.Join(err, d.Close())
}

// Read reads a file that somebody else owns: never through a symlink, never
// waiting for a FIFO, never more than limit bytes. A handler may have put
// anything there.
func Read(path string, limit int64) ([]byte, fs.FileInfo, error) {
	dir, name := filepath.Split(path)
	d, err := Open(dir)
	if err != nil {
		return nil, nil, err
	}
	data, fi, err := readIn(d, name, limit)
	return data, fi, errors.Join(err, d.Close())
}

// ReadOwn is Read for a file in a handler's config or status folder,
// which must not be a link either.
func ReadOwn(path string, limit int64) ([]byte, fs.FileInfo, error) {
	dir, name := filepath.Split(path)
	base, folder := filepath.Split(filepath.Clean(dir))
	d, err := Open(base, folder)
	if err != nil {
		return nil, nil, err
	}
	data, fi, err := readIn(d, name, limit)
	return data, fi, errors.Join(err, d.Close())
}

// readIn reads a file of a folder. Where others than root can write, a file
// with a second name may be anybody's: what is read is told to the platform,
// and shown to every user of the machine.
func readIn(d *host.Dir, name string, limit int64) ([]byte, fs.FileInfo, error) {
	data, fi, err := d.ReadBounded(name, limit)
	if err != nil {
		return nil, fi, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 && d.Trusted() != nil {
		return nil, fi, fmt.Errorf("%s/%s: %w: file has %d links", d.Name(), name, host.ErrUnsafe, st.Nlink)
	}
	return data, fi, nil
}

// Write replaces path, in dir or in a folder of it, by data. The
// temporary file lies in dir and not beside the target: handlers read whatever
// they find in config and status (extensions/SPEC.md §4.4).
func Write(dir, path string, data []byte, mode fs.FileMode) error {
	if err := writeIn(dir, path, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeIn(dir, path string, data []byte, mode fs.FileMode) (err error) {
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	folder, name := filepath.Split(rel)
	base, err := Open(dir)
	if err != nil {
		return err
	}
	defer base.Close()
	to := base
	if folder != "" {
		if to, err = base.OpenDir(filepath.Clean(folder)); err != nil {
			return err
		}
		defer to.Close()
	}
	err = base.WriteInto(to, name, data, mode)
	if errors.Is(err, syscall.EISDIR) {
		// A handler made a directory of that name; it would keep us from ever
		// writing the file.
		if err = to.RemoveAll(name); err == nil {
			err = base.WriteInto(to, name, data, mode)
		}
	}
	return err
}

// MakeAll makes the folders of a handler that the agent writes to. What else
// has their names is removed: through a link root would write, and clean up,
// wherever it leads.
func MakeAll(base string) error {
	d, err := Root.OpenDir(base, nil)
	if err != nil {
		return err
	}
	return errors.Join(foldersIn(d), d.Close())
}

func foldersIn(d *host.Dir) error {
	for _, name := range []string{"config", "status"} {
		fi, err := d.Lstat(name)
		switch {
		case err == nil && fi.IsDir():
			continue
		case err == nil:
			err = d.Remove(name)
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		}
		if err != nil {
			return err
		}
		made, err := d.Mkdir(name, 0o700)
		if err != nil {
			return err
		}
		if err := made.Close(); err != nil {
			return err
		}
	}
	return nil
}

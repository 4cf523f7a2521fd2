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

// Root is the root for complete paths, as handlers get them.
//
// Everything above a handler's directory belongs to root. What is below may
// belong to a service account, which can put anything there at any time, so it
// is opened by descriptor without following links.
const Root = host.Root("")

// Open opens a directory and then, one by one, the directories below it. For
// those, links are not followed.
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

// List lists a folder of a handler. If it is a link, the error is host.ErrUnsafe.
func List(path string) ([]fs.DirEntry, error) {
	base, name := filepath.Split(path)
	d, err := Open(base, name)
	if err != nil {
		return nil, err
	}
	list, err := d.ReadDir()
	return list, errors.Join(err, d.Close())
}

// In calls f with the opened folder name in base.
func In(base, name string, f func(*host.Dir) error) error {
	d, err := Open(base, name)
	if err != nil {
		return err
	}
	return errors.Join(f(d), d.Close())
}

// OpenFile opens a regular file for reading. The file must not be a link.
func OpenFile(path string) (*os.File, error) {
	dir, name := filepath.Split(path)
	d, err := Open(dir)
	if err != nil {
		return nil, err
	}
	f, err := d.Open(name)
	return f, errors.Join(err, d.Close())
}

// Read reads a file that may have been written by a handler. It does not follow
// a symlink and does not block on a FIFO. A file of more than limit bytes is an
// error.
func Read(path string, limit int64) ([]byte, fs.FileInfo, error) {
	dir, name := filepath.Split(path)
	d, err := Open(dir)
	if err != nil {
		return nil, nil, err
	}
	data, fi, err := readIn(d, name, limit)
	return data, fi, errors.Join(err, d.Close())
}

// ReadOwn is Read for a file in a handler's config or status folder. The folder
// must not be a link either.
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

// readIn reads a file in a folder. If others than root can write to the folder,
// a hard link may lead to any file, and its content would be reported to the
// platform and shown to other users. So such files are refused.
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

// Write atomically replaces the file path, which is in dir or in a folder of it.
// The temporary file is in dir and not next to the target, because handlers read
// whatever they find in config and status (extensions/SPEC.md §4.4).
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
		// A handler has created a directory of that name, which would prevent
		// writing the file for ever.
		if err = to.RemoveAll(name); err == nil {
			err = base.WriteInto(to, name, data, mode)
		}
	}
	return err
}

// MakeAll creates the folders of a handler that the agent writes to. Anything
// else with their names is removed: through a link, root would write and delete
// files in another place.
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

package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
// tree are followed as Linux does (os.Root would refuse them even at "/").
type Root string

// Path is the name as the kernel must be given it.
func (r Root) Path(name string) string { return filepath.Join(string(r), name) }

// ReadFile reads a whole file.
func (r Root) ReadFile(name string) ([]byte, error) { return os.ReadFile(r.Path(name)) }

// Exists reports whether name is there, whatever it is.
func (r Root) Exists(name string) bool {
	_, err := os.Lstat(r.Path(name))
	return err == nil
}

// MkdirAll makes a directory and its missing parents with exactly perm,
// whatever the umask. A directory that is there keeps its mode.
func (r Root) MkdirAll(name string, perm fs.FileMode) error {
	path := r.Path(name)
	if fi, err := os.Stat(path); err == nil && fi.IsDir() {
		return nil
	}
	if parent := filepath.Dir(name); parent != name && parent != "." {
		if err := r.MkdirAll(parent, max(perm, 0o755)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(path, perm)
}

// WriteFile replaces name by data with exactly perm and all or nothing: a
// temporary file beside it, fsync, rename, fsync of the directory. If name
// is a symlink its target is replaced. An existing file keeps its owner.
func (r Root) WriteFile(name string, data []byte, perm fs.FileMode) error {
	return r.write(name, data, perm, -1, -1)
}

// WriteFileAs is WriteFile with the owner set before the file gets its name.
func (r Root) WriteFileAs(name string, data []byte, perm fs.FileMode, uid, gid int) error {
	return r.write(name, data, perm, uid, gid)
}

// tempMark stands between the name of a file and what is random in the name of
// its temporary.
const tempMark = ".azg-"

// TempPattern matches the names of files that WriteFile was killed over; the
// one who may write in a directory may remove them there.
const TempPattern = ".*" + tempMark + "*"

func (r Root) write(name string, data []byte, perm fs.FileMode, uid, gid int) (err error) {
	path := r.Path(name)
	if target, lerr := filepath.EvalSymlinks(path); lerr == nil {
		path = target
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+tempMark+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	tmp := f.Name()
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(tmp)))
		}
	}()
	if uid < 0 {
		if st := (unix.Stat_t{}); unix.Stat(path, &st) == nil {
			uid, gid = int(st.Uid), int(st.Gid)
		}
	}
	if uid >= 0 && (uid != os.Geteuid() || gid != os.Getegid()) {
		if err = f.Chown(uid, gid); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err = f.Chmod(perm); err != nil {
		return errors.Join(err, f.Close())
	}
	if _, err = f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp, path); err != nil {
		return err
	}
	syncDir(dir)
	return nil
}

// syncDir makes a rename durable. Some file systems refuse fsync of a
// directory; the file itself is safe by then, so that is not an error.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// Remove deletes a file or an empty directory; that it is not there is fine.
func (r Root) Remove(name string) error {
	if err := os.Remove(r.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RemoveAll deletes a tree. It refuses the root itself and relative escapes.
func (r Root) RemoveAll(name string) error {
	if c := filepath.Clean("/" + name); c == "/" {
		return fmt.Errorf("remove %q: that is the root", name)
	}
	return os.RemoveAll(r.Path(name))
}

// Glob lists the names below the root that match the pattern, as names of
// this root (with a leading slash).
func (r Root) Glob(pattern string) ([]string, error) {
	found, err := filepath.Glob(r.Path(pattern))
	if err != nil {
		return nil, err
	}
	for i, p := range found {
		found[i] = "/" + strings.TrimLeft(strings.TrimPrefix(p, strings.TrimRight(string(r), "/")), "/")
	}
	return found, nil
}

package host

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// A FlagError says which attribute of a file or directory (chattr(1)) is why it
// could not be changed. The kernel only says "operation not permitted", also to
// root, and so do the tools of the machine. Hardening guides set them, so they
// are never removed by the agent.
type FlagError struct {
	Name string // of the file or directory
	Flag string // immutable or append-only
	Err  error
}

func (e *FlagError) Error() string {
	letter := map[string]string{"immutable": "i", "append-only": "a"}[e.Flag]
	return fmt.Sprintf("%s has the attribute %s (chattr -%s %s): %v", e.Name, e.Flag, letter, e.Name, e.Err)
}

// Unwrap returns the error of the system call or tool.
func (e *FlagError) Unwrap() error { return e.Err }

// Explain returns err, as a *FlagError if one of the files, or the directory of
// one, has an attribute that forbids changes. It is for errors of tools that
// change these files.
func (r Root) Explain(err error, names ...string) error {
	if err == nil {
		return nil
	}
	for _, n := range names {
		d, derr := r.OpenDir(path.Dir(n), nil)
		if derr != nil {
			continue
		}
		flag := d.findFlag(path.Base(n), err)
		_ = d.Close()
		if flag != nil {
			return flag
		}
	}
	return err
}

// explain is Explain for an error of a system call about a name in d.
func (d *Dir) explain(name string, err error) error {
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if flag := d.findFlag(name, err); flag != nil {
		return flag
	}
	return err
}

// findFlag returns the attribute of a name in d, or of d itself, that forbids
// changes; nil if neither has one, or the file system has no attributes.
func (d *Dir) findFlag(name string, err error) *FlagError {
	for _, n := range []string{name, ""} {
		var st unix.Statx_t
		if unix.Statx(d.fd(), n, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH, 0, &st) != nil {
			continue
		}
		flag := ""
		switch {
		case st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0:
			flag = "immutable"
		case st.Attributes&unix.STATX_ATTR_APPEND != 0:
			flag = "append-only"
		default:
			continue
		}
		return &FlagError{Name: path.Join(d.name, n), Flag: flag, Err: err}
	}
	return nil
}

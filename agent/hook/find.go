package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// Dir has one directory for each hook.
const Dir = "/etc/azguest/hooks.d"

// The hooks. Those from Freeze to Terminate have the names of scheduled events;
// Ended is for the time after each of them.
const (
	Startup   = "startup"
	Shutdown  = "shutdown"
	Freeze    = "freeze"
	Reboot    = "reboot"
	Redeploy  = "redeploy"
	Preempt   = "preempt"
	Terminate = "terminate"
	Ended     = "ended"
)

// Names returns all hooks.
func Names() []string {
	return []string{Startup, Shutdown, Freeze, Reboot, Redeploy, Preempt, Terminate, Ended}
}

// Codes of what goes wrong.
const (
	CodeFile   = "AZ-HOOK-FILE"
	CodeFailed = "AZ-HOOK-FAILED"
	CodeLost   = "AZ-HOOK-LOST"
)

// A FileError says why a script, or a directory of scripts, is not used.
type FileError struct{ Err error }

func (e *FileError) Error() string { return e.Err.Error() }
func (e *FileError) Unwrap() error { return e.Err }

// Code is the stable code.
func (*FileError) Code() string { return CodeFile }

func refuse(format string, a ...any) error { return &FileError{fmt.Errorf(format, a...)} }

// A Script is one file of a hook's directory that should be run.
type Script struct {
	Name string // as Go writes a string if it is not an ordinary name
	Path string // with links resolved; "" if it is refused
	Err  error  // why it is refused
}

// maxScripts bounds what a directory may contain.
const maxScripts = 100

// Find returns the scripts of a hook in the order of their names. As with
// run-parts(8), files that are not executable, backups and files that begin with
// a dot are left out: that is how a script is switched off. A file that others
// than root can change, or whose name is unusual, is refused. The error says
// that the whole directory is.
func Find(root host.Root, hook string) ([]Script, error) {
	d, err := root.OpenDir(path.Join(Dir, hook), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, refuse("open directory of scripts: %w", err)
	}
	names, more, err := d.Names(maxScripts)
	full := d.Name()
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, refuse("list scripts: %w", err)
	}
	if more {
		return nil, refuse("%s contains more than %d files", full, maxScripts)
	}
	if len(names) == 0 {
		return nil, nil
	}
	if err := trusted(root, full); err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []Script
	for _, n := range names {
		if leftOut(n) {
			continue
		}
		if !ordinary(n) {
			q := strconv.QuoteToASCII(n)
			out = append(out, Script{Name: q, Err: refuse("%s: a name may contain letters, digits, dots, underscores and hyphens only", q)})
			continue
		}
		p, err := judge(root, path.Join(full, n))
		if errors.Is(err, errOff) {
			continue
		}
		out = append(out, Script{Name: n, Path: p, Err: err})
	}
	return out, nil
}

// Strangers returns the names in Dir that are the name of no hook: scripts there
// would never run.
func Strangers(root host.Root) ([]string, error) {
	d, err := root.OpenDir(Dir, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, refuse("open directory of hooks: %w", err)
	}
	names, _, err := d.Names(maxScripts)
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, refuse("list hooks: %w", err)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool {
		return slices.Contains(Names(), n) || leftOut(n) || strings.HasPrefix(n, "README")
	}), nil
}

// errOff marks a file that is not executable.
var errOff = errors.New("not executable")

// judge returns where a script is, with links resolved.
func judge(root host.Root, name string) (string, error) {
	full, err := root.Resolve(name)
	if err != nil {
		return "", refuse("resolve %s: %w", name, err)
	}
	d, err := root.OpenDir(path.Dir(full), nil)
	if err != nil {
		return "", refuse("%w", err)
	}
	st, err := d.Stat(path.Base(full))
	if err = errors.Join(err, d.Close()); err != nil {
		return "", refuse("%s: %w", full, err)
	}
	switch typ := st.Mode & unix.S_IFMT; {
	case typ == unix.S_IFLNK:
		return "", refuse("%s is a link that others than root can change", full)
	case typ != unix.S_IFREG:
		return "", refuse("%s is not a regular file", full)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return "", refuse("%s belongs to uid %d, not to root", full, st.Uid)
	case st.Mode&0o022 != 0:
		return "", refuse("%s can be changed by others than root (mode %04o)", full, st.Mode&0o7777)
	case st.Mode&0o111 == 0:
		return "", errOff
	}
	return full, trusted(root, path.Dir(full))
}

// trusted returns an error unless only root can change what is in a directory,
// and where the names above it lead.
func trusted(root host.Root, dir string) error {
	if err := root.TrustedWay(dir); err != nil {
		return refuse("%w", err)
	}
	return nil
}

// leftOut reports whether a file is not meant to be run: hidden, a backup, or
// what package managers and editors leave.
func leftOut(n string) bool {
	if strings.HasPrefix(n, ".") || strings.HasPrefix(n, "#") || strings.HasSuffix(n, "~") {
		return true
	}
	for _, s := range []string{".bak", ".orig", ".rej", ".swp", ".tmp", ".disabled", ".rpmnew", ".rpmsave", ".rpmorig"} {
		if strings.HasSuffix(n, s) {
			return true
		}
	}
	return strings.Contains(n, ".dpkg-") || strings.Contains(n, ".ucf-")
}

func ordinary(n string) bool {
	return n != "" && len(n) <= 128 && n[0] != '-' && strings.Trim(n, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

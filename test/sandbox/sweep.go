package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RemoveTree removes a directory that a build has left, which may have been
// killed with /proc, /sys or /dev of the machine mounted below it. It unmounts
// them first; if something stays mounted, nothing is removed, so that a removal
// never crosses a mount.
func RemoveTree(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	mounts, err := mountsBelow(dir)
	if err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	for _, m := range slices.Backward(mounts) { // the last was mounted last
		if err := unix.Unmount(m, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("remove tree: unmount %s: %w", m, err)
		}
	}
	if mounts, err = mountsBelow(dir); err != nil || len(mounts) > 0 {
		return fmt.Errorf("remove tree: still mounted: %q (%w)", mounts, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove tree: %w", err)
	}
	return nil
}

// mountsBelow returns the mount points at and below a directory, in the order in
// which they were mounted. The thread may have a mount namespace of its own.
func mountsBelow(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	// proc(5): the kernel escapes blanks and backslashes in paths.
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if p := plain.Replace(f[4]); p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out, nil
}

// BuildDir creates a directory for a build below parent. It first removes those
// of builds whose program has been killed. The caller calls remove at the end.
func BuildDir(parent, name string) (dir string, remove func(), err error) {
	prefix := "." + name + "-"
	left, err := filepath.Glob(filepath.Join(parent, prefix+"*-*"))
	if err != nil {
		return "", nil, fmt.Errorf("make build directory: %w", err)
	}
	for _, d := range left {
		pid, err := strconv.Atoi(strings.Split(strings.TrimPrefix(filepath.Base(d), prefix), "-")[0])
		if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue // not ours, or not killed
		}
		if err := RemoveTree(d); err != nil {
			return "", nil, err
		}
	}
	dir, err = os.MkdirTemp(parent, prefix+strconv.Itoa(os.Getpid())+"-*")
	if err != nil {
		return "", nil, fmt.Errorf("make build directory: %w", err)
	}
	return dir, func() { _ = RemoveTree(dir) }, nil // the next build removes it
}

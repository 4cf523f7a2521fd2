package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// scratchFor makes a directory on a disk for the upper layer, where a tmpfs
// can't be one: before Linux 6.6 it has no extended attributes for users, and
// without them overlayfs can't remove a directory of the machine. It is "" if
// none is needed, or none is to be had.
func scratchFor() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	if !rootless() || !olderThan(unix.ByteSliceToString(u.Release[:]), 6, 6) {
		return "", nil
	}
	places := []string{os.TempDir(), "/tmp"}
	if cache, err := os.UserCacheDir(); err == nil {
		places = append(places, cache)
	}
	for _, place := range places {
		real, err := filepath.EvalSymlinks(place)
		if err != nil {
			continue
		}
		// An upper layer must not lie in a lower one.
		top, _, _ := strings.Cut(strings.TrimPrefix(real, "/"), "/")
		if !slices.Contains(fresh, "/"+top) {
			continue
		}
		dir, err := os.MkdirTemp(real, "sandbox-")
		if err != nil {
			continue
		}
		if hasAttributes(dir) {
			return dir, nil
		}
		if err := os.Remove(dir); err != nil {
			return "", err
		}
	}
	return "", nil
}

// olderThan compares a kernel's release.
func olderThan(release string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(release, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a < major || a == major && b < minor
}

func hasAttributes(dir string) bool {
	const name = "user.overlay.probe"
	if unix.Setxattr(dir, name, []byte("y"), 0) != nil {
		return false
	}
	return unix.Removexattr(dir, name) == nil
}

// useScratch puts a directory of a disk in the place of the tmpfs at base.
func useScratch(dir *os.File, base string) error {
	if err := unix.Unmount(base, 0); err != nil {
		return fmt.Errorf("scratch: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), base, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("scratch: %w", err)
	}
	return os.Chmod(base, 0o755)
}

// dropScratch removes what the machine has left on the disk.
func dropScratch(dir string) error {
	if dir == "" {
		return nil
	}
	// Directories that their owner may not write in are root's to remove, but
	// only by name.
	err := os.RemoveAll(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

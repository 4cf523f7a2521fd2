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

// scratchFor creates a directory on a disk for the upper layer, where a tmpfs
// can't be one: before Linux 6.6 tmpfs has no user extended attributes, and
// without them overlayfs can't remove a directory of the machine. The result is
// "" if no directory is needed, or if none can be created.
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
		// An upper layer must not be inside a lower one.
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

// olderThan reports whether a kernel release is older than major.minor.
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

// useScratch mounts a directory of a disk in place of the tmpfs at base.
func useScratch(dir *os.File, base string) error {
	if err := unix.Unmount(base, 0); err != nil {
		return fmt.Errorf("scratch: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), base, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("scratch: %w", err)
	}
	return os.Chmod(base, 0o755)
}

// dropScratch removes the machine's files from the disk.
func dropScratch(dir string) error {
	if dir == "" {
		return nil
	}
	// Root inside can remove directories that their owner may not write to, but
	// only by name.
	err := os.RemoveAll(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

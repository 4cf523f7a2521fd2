package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Without root the machine can't be mounted as one overlay of "/", for two
// reasons. A directory with other mounts below it cannot be a layer, so there
// is one overlay for each directory without any. And files of the machine's
// root belong to an unmapped user inside, so root inside cannot change them;
// directories that root writes to are therefore created beforehand in the upper
// layer, which determines their owner, and small files are copied there.

// fresh are top directories that are empty at first.
var fresh = []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/mnt", "/media", "/root", "/home", "/lost+found", "/snap", "/.snapshots"}

// maxSplit is how many levels of directories are split up around a mount.
const maxSplit = 3

// lowers returns the directories of the machine that get an overlay each. It
// creates the directories above them in the upper layer.
func lowers(upper, base string) ([]string, error) {
	mounts, err := mountPoints()
	if err != nil {
		return nil, err
	}
	c := &copier{upper: upper, files: maxFiles, bytes: maxBytes}
	var out []string
	var split func(dir string, depth int) error
	split = func(dir string, depth int) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil //nolint:nilerr // this user may not read it: it stays empty
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			switch {
			case strings.ContainsAny(name, `:,\`):
				// These characters have a meaning in overlayfs options; the
				// directory is left out.
			case slices.Contains(fresh, name) || name == base || name == "/etc" || hidden(upper, name) && e.IsDir():
				if err := copyDir(upper, name); err != nil {
					return err
				}
			case e.IsDir():
				if err := copyDir(upper, name); err != nil {
					return err
				}
				if !slices.ContainsFunc(mounts, func(m string) bool { return strings.HasPrefix(m, name+"/") }) {
					out = append(out, name)
				} else if depth < maxSplit {
					if err := split(name, depth+1); err != nil {
						return err
					}
				}
			default:
				if err := c.file(name, e.Type()); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err = split("/", 0)
	return out, err
}

func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw
		if p := strings.Fields(s.Text()); len(p) > 4 {
			out = append(out, unescape(p[4]))
		}
	}
	return out, s.Err()
}

// unescape decodes octal escapes such as \040 in mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Limits of copying, so that a sandbox starts quickly on a big machine.
const (
	maxCopied = 8 << 20 // of one file
	maxBytes  = 64 << 20
	maxFiles  = 10000
	maxDirs   = 20000
)

// A copier copies parts of the machine into the upper layer.
type copier struct {
	upper       string
	dirs, files int // how many more may be copied
	bytes       int64
}

// owned are the directories that root inside must own, with their depth, and
// whether the files in them are copied.
var owned = []struct {
	dir   string
	depth int
	files bool
}{
	{"/etc", 16, true}, // all of it: it has no overlay
	{"/var", 8, true},
	{"/usr", 4, false},
	{"/opt", 16, false},
	{"/srv", 16, false},
	{"/usr/libexec/sudo", 1, true}, // sudo insists that root owns it
	{"/usr/lib/sudo", 1, true},
}

// notCopied are directories with many files to which nothing is appended.
var notCopied = []string{"/var/cache", "/var/lib/dpkg/info", "/var/lib/apt/lists", "/var/lib/docker", "/var/lib/containers", "/var/lib/snapd", "/var/lib/flatpak"}

// own creates the owned directories and files in the upper layer.
func own(upper string) error {
	c := &copier{upper: upper, files: maxFiles, bytes: maxBytes}
	for _, o := range owned {
		c.dirs = maxDirs
		err := filepath.WalkDir(o.dir, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil //nolint:nilerr // this user may not read it: it stays unchanged
			case hidden(upper, name):
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			case d.IsDir():
				if strings.Count(strings.TrimPrefix(name, o.dir), "/") > o.depth || o.files && slices.Contains(notCopied, name) {
					return fs.SkipDir
				}
				if c.dirs--; c.dirs < 0 {
					return fs.SkipAll
				}
				return copyDir(upper, name)
			case o.files:
				return c.file(name, d.Type())
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("copy %s: %w", o.dir, err)
		}
	}
	return nil
}

// hidden reports whether a name is hidden already: by a white-out, or by a
// directory that shows nothing of the machine.
func hidden(upper, name string) bool {
	var st unix.Stat_t
	path := filepath.Join(upper, name)
	if unix.Lstat(path, &st) != nil {
		return false
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return true
	}
	_, err := unix.Lgetxattr(path, "user.overlay.opaque", nil)
	return err == nil
}

// forget removes white-outs where there is no overlay, because they would
// appear as devices.
func forget(upper string, lowers []string) error {
	return filepath.WalkDir(upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, upper)
		if slices.Contains(lowers, name) {
			return fs.SkipDir
		}
		if d.Type()&fs.ModeCharDevice != 0 {
			return os.Remove(path)
		}
		return nil
	})
}

// file copies a readable file or link of the machine that is not too large,
// unless the upper layer has it. Its directory must exist there.
func (c *copier) file(name string, kind fs.FileMode) error {
	if kind == fs.ModeSymlink {
		to, err := os.Readlink(name)
		if err == nil {
			err = os.Symlink(to, filepath.Join(c.upper, name))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	fi, err := os.Lstat(name)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() > min(maxCopied, c.bytes) || c.files == 0 {
		return nil //nolint:nilerr // the file stays unchanged
	}
	src, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		// A lock file, or a log to which a program may append.
		if fi.Size() == 0 || strings.HasPrefix(name, "/var/log/") {
			return create(c.upper, name, strings.NewReader(""), fi)
		}
		return nil
	}
	defer src.Close()
	c.files--
	c.bytes -= fi.Size()
	return create(c.upper, name, io.LimitReader(src, fi.Size()), fi)
}

func create(upper, name string, data io.Reader, fi fs.FileInfo) error {
	path := filepath.Join(upper, name)
	dst, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, data); err != nil {
		return errors.Join(err, dst.Close())
	}
	if err := dst.Close(); err != nil {
		return err
	}
	if err := os.Chtimes(path, fi.ModTime(), fi.ModTime()); err != nil {
		return err
	}
	return os.Chmod(path, fi.Mode())
}

// owner returns the owner of a copy of a file of uid and gid. In a user
// namespace all ids of the machine appear as the same unmapped one, so it is
// root.
func owner(uid, gid uint32) (int, int) {
	if !rootless() {
		return int(uid), int(gid)
	}
	return 0, 0
}

// mountLowers mounts the machine as separate overlays, for sandboxes without
// root.
func (c bootConfig) mountLowers(root string) error {
	upper := filepath.Join(c.Base, "upper")
	if err := unix.Mount(upper, root, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for i, dir := range c.Lowers {
		work := filepath.Join(c.Base, "work", strconv.Itoa(i))
		if err := os.MkdirAll(work, 0o755); err != nil {
			return err
		}
		err := overlay(dir, filepath.Join(upper, dir), work, filepath.Join(root, dir))
		// Other file systems that can't be a layer are left out; an error only
		// concerns directories of the system itself.
		if err != nil && strings.Count(dir, "/") == 1 && slices.Contains([]string{"/usr", "/var", "/bin", "/sbin", "/lib"}, dir) {
			return err
		}
	}
	for i, dir := range c.Covers {
		from := filepath.Join(c.Base, "cover", strconv.Itoa(i))
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(from, filepath.Join(root, dir), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	return nil
}

// overlay mounts an overlay of upper over lower at target.
func overlay(lower, upper, work, target string) error {
	opt := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)
	var err error
	// Kernels before 6.6 have no user extended attributes on tmpfs.
	for _, more := range []string{",userxattr", ""} {
		if err = unix.Mount("overlay", target, "overlay", 0, opt+more); err == nil {
			return nil
		}
	}
	return fmt.Errorf("overlay of %s (%s): %w", lower, opt, err)
}

// replaceSecrets replaces the files that only real root can read: no account
// has a password, and root may use sudo.
func replaceSecrets(upper string) error {
	if err := copyDir(upper, "/etc"); err != nil {
		return err
	}
	for _, f := range []struct{ from, to, rest string }{
		{"/etc/passwd", "/etc/shadow", ":*:19000:0:99999:7:::"},
		{"/etc/group", "/etc/gshadow", ":*::"},
	} {
		b, err := os.ReadFile(f.from)
		if err != nil {
			continue // without it the other is not needed
		}
		if _, err := os.Lstat(f.to); err != nil {
			continue
		}
		var out strings.Builder
		for line := range strings.Lines(string(b)) {
			if name, _, ok := strings.Cut(line, ":"); ok && name != "" && !strings.ContainsAny(name[:1], "#+-") {
				out.WriteString(name + f.rest + "\n")
			}
		}
		if err := os.WriteFile(filepath.Join(upper, f.to), []byte(out.String()), 0o640); err != nil {
			return err
		}
	}
	if _, err := os.Lstat("/etc/sudoers"); err != nil {
		return nil //nolint:nilerr // sudo is not installed
	}
	return os.WriteFile(filepath.Join(upper, "etc/sudoers"), []byte("root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n"), 0o440)
}

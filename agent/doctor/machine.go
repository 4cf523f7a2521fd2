package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dirs returns the directories that the agent writes to.
func (e Env) dirs() []string {
	d := []string{e.Config.Paths.Lib, e.Config.Paths.ExtensionLogs, "/run"}
	if x := e.Config.Extensions.ExecDir; x != "" {
		d = append(d, x)
	}
	slices.Sort(d)
	return slices.Compact(d)
}

// existing returns the deepest part of a path that exists.
func (e Env) existing(name string) string {
	for name != "/" && name != "." {
		if _, err := e.root().Stat(name); err == nil {
			return name
		}
		name = filepath.Dir(name)
	}
	return "/"
}

func checkDisk(e Env) []Finding {
	var out []Finding
	seen := map[unix.Fsid]bool{}
	for _, d := range e.dirs() {
		var st unix.Statfs_t
		if err := e.Statfs(e.path(e.existing(d)), &st); err != nil {
			out = append(out, unknown("%s: %v", d, err))
			continue
		}
		if seen[st.Fsid] {
			continue
		}
		seen[st.Fsid] = true
		out = append(out, judgeDisk(d, st))
	}
	return out
}

func judgeDisk(dir string, st unix.Statfs_t) Finding {
	// Root may use the reserved blocks, so Bfree counts and not Bavail.
	free := int64(st.Bfree) * st.Bsize
	pct := 100.0
	if st.Blocks > 0 {
		pct = 100 * float64(st.Bfree) / float64(st.Blocks)
	}
	where := fmt.Sprintf("%s: %s free (%.0f%%)", dir, size(free), pct)
	switch {
	case st.Blocks > 0 && free < 4<<20:
		return bad("AZ-DISK-FULL", "%s", where)
	case st.Files > 0 && st.Ffree < 128: // some file systems count no inodes
		return bad("AZ-DISK-INODES", "%s: %d of %d inodes free", dir, st.Ffree, st.Files)
	case st.Blocks > 0 && (free < 64<<20 || pct < 5 && free < 2<<30): // 5 % of a large disk is plenty
		return warn("AZ-DISK-LOW", "%s", where)
	case st.Files > 0 && st.Ffree*50 < st.Files && st.Ffree < 10000:
		return warn("AZ-DISK-INODES", "%s: %d of %d inodes free", dir, st.Ffree, st.Files)
	}
	return ok("%s", where)
}

func size(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%dB", n)
	}
	f, u := float64(n)/(1<<10), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	if f < 10 {
		return fmt.Sprintf("%.1f%c", f, units[u])
	}
	return fmt.Sprintf("%.0f%c", f, units[u])
}

func checkMounts(e Env) []Finding {
	table, err := e.read("/proc/self/mountinfo")
	if err != nil {
		return one(unknown("%v", err))
	}
	var out []Finding
	exec := cmp.Or(e.Config.Extensions.ExecDir, e.Config.Paths.Lib)
	for _, d := range e.dirs() {
		m, found := mountOf(table, d)
		if !found {
			continue
		}
		if slices.Contains(m.opts, "ro") {
			out = append(out, bad("AZ-DISK-READONLY", "%s is on %s, mounted read-only", d, m.point))
		}
		if d == exec && slices.Contains(m.opts, "noexec") {
			out = append(out, bad("AZ-EXEC-NOEXEC", "%s is on %s, mounted noexec", d, m.point))
		}
	}
	if len(out) == 0 {
		return one(ok("writable, %s allows execution", exec))
	}
	return out
}

type mount struct {
	point string
	opts  []string
}

// mountOf finds the mount a path is on in /proc/self/mountinfo: the longest
// mount point that is its prefix, the last of several. Field 5 is the mount
// point, 6 the options; after " - " come type, source and the options of the
// file system, where a whole file system is "ro".
func mountOf(table, path string) (mount, bool) {
	var best mount
	found := false
	for l := range strings.Lines(table) {
		left, right, _ := strings.Cut(strings.TrimSpace(l), " - ")
		f := strings.Fields(left)
		if len(f) < 6 {
			continue
		}
		point := unescape(f[4])
		if path != point && !strings.HasPrefix(path, strings.TrimSuffix(point, "/")+"/") {
			continue
		}
		if found && len(point) < len(best.point) {
			continue
		}
		opts := strings.Split(f[5], ",")
		if r := strings.Fields(right); len(r) >= 3 {
			opts = append(opts, strings.Split(r[2], ",")...)
		}
		best, found = mount{point, opts}, true
	}
	return best, found
}

// unescape undoes the kernel's octal escapes for blank, tab, newline and
// backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func checkPerm(e Env) []Finding {
	lib := e.Config.Paths.Lib
	fi, err := e.root().Stat(lib)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return one(ok("%s does not exist yet", lib))
		}
		return one(unknown("%v", err))
	}
	st, isStat := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir():
		return one(bad("AZ-DISK-PERM", "%s is not a directory", lib))
	case fi.Mode().Perm()&0o022 != 0:
		return one(bad("AZ-DISK-PERM", "%s has mode %04o: other users can change files that root runs", lib, fi.Mode().Perm()))
	case isStat && st.Uid != 0:
		return one(bad("AZ-DISK-PERM", "%s belongs to uid %d", lib, st.Uid))
	}
	return one(ok("%s %04o, root", lib, fi.Mode().Perm()))
}

func checkClock(e Env) []Finding {
	switch {
	case e.Now.Year() < 2025:
		return one(bad("AZ-CLOCK-SKEW", "the clock is set to %s", e.Now.UTC().Format(time.RFC3339)))
	case e.SnapErr == nil && e.Snapshot.WrittenAt.After(e.Now.Add(2*time.Minute)):
		return one(warn("AZ-CLOCK-BACK", "the last status was written at %s, but the clock is set to %s",
			e.Snapshot.WrittenAt.UTC().Format(time.RFC3339), e.Now.UTC().Format(time.RFC3339)))
	}
	return one(ok("%s", e.Now.UTC().Format(time.RFC3339)))
}

// checkIdentity compares the VM id of the machine with the one that it was
// provisioned with. The first three groups may be in either byte order
// (provisioning/SPEC.md §11.3).
func checkIdentity(e Env) []Finding {
	id, err := e.read("/sys/class/dmi/id/product_uuid")
	if err != nil {
		return nil // not root, or no DMI
	}
	marker := filepath.Join(e.Config.Paths.Lib, "provisioned")
	was, err := e.read(marker)
	if err != nil {
		return nil // not provisioned by this agent
	}
	was, _, _ = strings.Cut(was, "\n")
	if strings.EqualFold(was, id) || strings.EqualFold(was, swapID(id)) {
		return one(ok("provisioned as %s", id))
	}
	return one(warn("AZ-VM-CLONED", "%s contains VM ID %s, but the machine has %s", marker, was, id))
}

// swapID reverses the bytes of the first three groups of a UUID.
func swapID(id string) string {
	g := strings.Split(id, "-")
	if len(g) != 5 {
		return id
	}
	for i := range 3 {
		var b strings.Builder
		for j := len(g[i]); j >= 2; j -= 2 {
			b.WriteString(g[i][j-2 : j])
		}
		g[i] = b.String()
	}
	return strings.Join(g, "-")
}

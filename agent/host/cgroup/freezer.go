package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/process"
)

// A Freezer is a hierarchy of cgroups that can freeze (stop) processes.
type Freezer struct {
	Controller string // as in /proc/PID/cgroup; "" for version 2
	Mount      string
	Root       string // cgroup that is mounted at Mount
	File       string
	frozen     func(string) bool
	thaw       string
}

// Freezers lists the mounted hierarchies that can freeze.
func Freezers() []Freezer {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []Freezer
	for line := range strings.Lines(string(b)) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		where, what := strings.Fields(left), strings.Fields(right)
		if !ok || len(where) < 5 || len(what) < 3 {
			continue
		}
		f := Freezer{Root: where[3], Mount: where[4]}
		switch {
		case what[0] == "cgroup2":
			f.File, f.thaw = "cgroup.freeze", "0"
			f.frozen = func(s string) bool { return s == "1" }
		case what[0] == "cgroup" && slices.Contains(strings.Split(what[2], ","), "freezer"):
			f.Controller, f.File, f.thaw = "freezer", "freezer.state", "THAWED"
			f.frozen = func(s string) bool { return s == "FREEZING" || s == "FROZEN" }
		default:
			continue
		}
		out = append(out, f)
	}
	return out
}

// frozenAt lists the control files that keep a process frozen: of its cgroup
// and of those above it.
func (f Freezer) frozenAt(pid int) []string {
	path, ok := "", false
	for controllers, p := range Of(pid) {
		if slices.Contains(strings.Split(controllers, ","), f.Controller) {
			path, ok = p, true
		}
	}
	if ok && f.Root != "/" {
		path, ok = strings.CutPrefix(path, f.Root)
	}
	if !ok {
		return nil
	}
	var out []string
	for dir := filepath.Join(f.Mount, path); len(dir) > len(f.Mount); dir = filepath.Dir(dir) {
		if name := filepath.Join(dir, f.File); f.frozen(firstLine(name)) {
			out = append(out, name)
		}
	}
	return out
}

// FrozenBy is the directory in cgroupfs of the cgroup that keeps a process
// frozen; "" if none does.
func FrozenBy(pid int) string {
	for _, f := range Freezers() {
		if names := f.frozenAt(pid); len(names) > 0 {
			return filepath.Dir(names[0])
		}
	}
	return ""
}

// Thaw thaws the cgroups that freeze the processes. In version 1 a frozen
// process does not act on SIGKILL before that.
func Thaw(ps []process.Info) error {
	var errs []error
	fs := Freezers()
	for _, p := range ps {
		for _, f := range fs {
			for _, name := range f.frozenAt(p.PID) {
				errs = append(errs, WriteControl(name, f.thaw))
			}
		}
	}
	return errors.Join(errs...)
}

// WriteControl writes to a control file of cgroupfs; it never creates a file.
func WriteControl(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// KillScope kills all processes of a scope in one step (cgroup.kill), wherever
// one of ps is in a scope of that name, so that they can't fork faster than
// they are found. Kernels before Linux 5.14 do not support it; errors are
// ignored.
func KillScope(ps []process.Info, scope string) {
	done := map[string]bool{}
	for _, p := range ps {
		path, ok := Of(p.PID)[""]
		at := strings.Index(path+"/", "/"+scope+"/")
		if !ok || at < 0 {
			continue
		}
		path = path[:at+len("/"+scope)]
		for _, f := range Freezers() {
			if dir, ok := strings.CutPrefix(path, strings.TrimSuffix(f.Root, "/")); ok && f.Controller == "" && !done[dir] {
				done[dir] = true
				_ = WriteControl(filepath.Join(f.Mount, dir, "cgroup.kill"), "1")
			}
		}
	}
}

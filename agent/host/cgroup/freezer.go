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

// A Freezer is what one hierarchy of cgroups has to stop processes with.
type Freezer struct {
	Controller string // of /proc/PID/cgroup
	Mount      string
	Root       string // what of the hierarchy is mounted there
	File       string
	frozen     func(string) bool
	thaw       string
}

// Freezers finds the hierarchies that can freeze, wherever they are mounted.
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

// frozenAt are the files that freeze a process: of its cgroup and of those
// above it.
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

// FrozenBy is the cgroup that keeps a process from running, a folder of
// cgroupfs; "" if none does.
func FrozenBy(pid int) string {
	for _, f := range Freezers() {
		if names := f.frozenAt(pid); len(names) > 0 {
			return filepath.Dir(names[0])
		}
	}
	return ""
}

// Thaw lets frozen processes go on, which a SIGKILL waits for in the freezer of
// version 1.
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

// WriteControl writes to a file of cgroupfs, which is there or not.
func WriteControl(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// KillScope kills everything in a scope that one of the processes is in, at
// once, so that nothing in it can fork faster than it is found. Older kernels
// can't.
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

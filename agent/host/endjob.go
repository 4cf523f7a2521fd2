package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A command runs as root. It can stop, freeze or kill its supervisor, and
// write what it likes into the files of its job. So whoever ends a job asks
// the kernel which processes belong to it, and believes no file: a process id
// that a command has written down might be anybody's.

// ScopeName is the systemd scope of a job.
func ScopeName(id string) string { return "azguest-" + id + ".scope" }

// running lists the processes that have not ended.
func running() map[int]Process {
	r := Root("/")
	pids, err := r.ProcessIDs()
	if err != nil {
		return nil
	}
	out := map[int]Process{}
	for _, pid := range pids {
		if p, ok := r.Process(pid); ok && (!p.Ended || threads(pid)) {
			out[pid] = p
		}
	}
	return out
}

// jobProcesses finds the supervisor of a job (pid 0 if there is none) and
// everything else that belongs to it: what carries the marker of the job or is
// in its scope, and what descends from such a process or shares its session.
func jobProcesses(dir string) (supervisor Process, rest []Process) {
	all := running()
	// This process and those above it belong to nobody's job, even if the
	// command of one has started the agent.
	ours := map[int]bool{0: true, 1: true}
	sessions := map[int]bool{0: true, 1: true}
	for pid := os.Getpid(); pid > 1 && !ours[pid]; pid = all[pid].Parent {
		ours[pid] = true
		sessions[all[pid].Session] = true
	}
	self := all[os.Getpid()]
	id := filepath.Base(dir)
	found := map[int]Process{}
	theirs := map[int]bool{}
	add := func(p Process) {
		found[p.PID] = p
		// A session of somebody else, such as that of a daemon which runs what
		// a command has asked it to, is not the job's.
		_, led := all[p.Session]
		if _, ok := found[p.Session]; !sessions[p.Session] && (ok || !led) {
			theirs[p.Session] = true
		}
	}
	for pid, p := range all {
		if ours[pid] {
			continue
		}
		switch {
		case supervises(p, self, dir):
			supervisor = p
			add(p)
		case p.service(self) && belongs(p, self, map[string]bool{id: true}, ""), inScope(pid, ScopeName(id)):
			add(p)
		}
	}
	for _, p := range slices.Collect(maps.Values(found)) {
		add(p) // now that every leader is known
	}
	for more := true; more; {
		more = false
		for pid, p := range all {
			if _, is := found[pid]; is || ours[pid] {
				continue
			}
			if _, child := found[p.Parent]; child || theirs[p.Session] {
				add(p)
				more = true
			}
		}
	}
	delete(found, supervisor.PID)
	for _, pid := range slices.Sorted(maps.Keys(found)) {
		rest = append(rest, found[pid])
	}
	return supervisor, rest
}

// supervises says that a process is the supervisor of a job. Its command line
// tells, which only a process of the agent's own user is believed: the lines of
// others can be read, and imitated.
func supervises(p, self Process, dir string) bool {
	if !p.run(os.Geteuid(), self) {
		return false
	}
	b, err := procText(p.PID, "cmdline")
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	return len(args) > 2 && args[1] == SuperviseArg && args[2] == dir
}

func inScope(pid int, scope string) bool {
	for _, path := range cgroupsOf(pid) {
		if _, rest, in := strings.Cut(path, "/"+scope); in && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// cgroupsOf are the cgroups of a process by their controllers, "" for the
// unified hierarchy.
func cgroupsOf(pid int) map[string]string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(part) == 3 {
			out[part[1]] = part[2]
		}
	}
	return out
}

// signal sends a signal to this process and to no other that may have got its
// number.
func (p Process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil
	case err == nil:
		defer unix.Close(fd)
	}
	if !sameProcess(p.PID, p.Ticks) {
		return nil
	}
	if err != nil { // a kernel without pidfd
		err = unix.Kill(p.PID, sig)
	} else {
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// A freezer is what one hierarchy of cgroups has to stop processes with.
type freezer struct {
	controller string // of /proc/PID/cgroup
	mount      string
	root       string // what of the hierarchy is mounted there
	file       string
	frozen     func(string) bool
	thaw       string
}

// freezers finds the hierarchies that can freeze, wherever they are mounted.
func freezers() []freezer {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []freezer
	for line := range strings.Lines(string(b)) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		where, what := strings.Fields(left), strings.Fields(right)
		if !ok || len(where) < 5 || len(what) < 3 {
			continue
		}
		f := freezer{root: where[3], mount: where[4]}
		switch {
		case what[0] == "cgroup2":
			f.file, f.thaw = "cgroup.freeze", "0"
			f.frozen = func(s string) bool { return s == "1" }
		case what[0] == "cgroup" && slices.Contains(strings.Split(what[2], ","), "freezer"):
			f.controller, f.file, f.thaw = "freezer", "freezer.state", "THAWED"
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
func (f freezer) frozenAt(pid int) []string {
	path, ok := "", false
	for controllers, p := range cgroupsOf(pid) {
		if slices.Contains(strings.Split(controllers, ","), f.controller) {
			path, ok = p, true
		}
	}
	if ok && f.root != "/" {
		path, ok = strings.CutPrefix(path, f.root)
	}
	if !ok {
		return nil
	}
	var out []string
	for dir := filepath.Join(f.mount, path); len(dir) > len(f.mount); dir = filepath.Dir(dir) {
		if name := filepath.Join(dir, f.file); f.frozen(firstLine(name)) {
			out = append(out, name)
		}
	}
	return out
}

// thaw lets frozen processes go on, which a SIGKILL waits for in the freezer of
// version 1.
func thaw(ps []Process) error {
	var errs []error
	fs := freezers()
	for _, p := range ps {
		for _, f := range fs {
			for _, name := range f.frozenAt(p.PID) {
				errs = append(errs, writeControl(name, f.thaw))
			}
		}
	}
	return errors.Join(errs...)
}

// writeControl writes to a file of cgroupfs, which is there or not.
func writeControl(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// killScope kills the scope of a job at once, so that nothing in it can fork
// faster than it is found. Older kernels can't; what is in it is found all the
// same.
func killScope(ps []Process, scope string) {
	done := map[string]bool{}
	for _, p := range ps {
		path, ok := cgroupsOf(p.PID)[""]
		at := strings.Index(path+"/", "/"+scope+"/")
		if !ok || at < 0 {
			continue
		}
		path = path[:at+len("/"+scope)]
		for _, f := range freezers() {
			if dir, ok := strings.CutPrefix(path, strings.TrimSuffix(f.root, "/")); ok && f.controller == "" && !done[dir] {
				done[dir] = true
				_ = writeControl(filepath.Join(f.mount, dir, "cgroup.kill"), "1")
			}
		}
	}
}

// what says in what condition a process is.
func (p Process) what() string {
	if p.PID == 0 {
		return killed
	}
	for _, f := range freezers() {
		if names := f.frozenAt(p.PID); len(names) > 0 {
			return "was frozen by the cgroup " + filepath.Dir(names[0])
		}
	}
	switch p.State {
	case "T":
		return "was stopped by a signal"
	case "t":
		return "was stopped by a debugger"
	case "D":
		return "was blocked in the kernel"
	}
	return "did not respond"
}

// killed is what says of a process that is gone.
const killed = "was killed"

// Overdue says that a supervisor let the deadline of its command pass; state is
// what SupervisorState says of it.
func Overdue(state string) string {
	return "the supervisor did not kill the command at its deadline: it " + state
}

// SupervisorState says in what condition the supervisor of a job is, for a
// sentence about a job that ought to be over: "was stopped by a signal".
func SupervisorState(dir string) string {
	supervisor, _ := jobProcesses(dir)
	return supervisor.what()
}

// An Ending is what EndJob has met.
type Ending struct {
	Supervisor string // as SupervisorState
	Killed     int    // processes, the supervisor among them
	Left       []int  // those that even SIGKILL did not end in time
}

// EndJob kills all that belongs to a job, its supervisor too, whatever state
// it is in, and waits for its end or that of the context. Nobody needs to
// answer for that, and nothing in the job's directory is believed.
func EndJob(ctx context.Context, dir string) Ending {
	supervisor, left := jobProcesses(dir)
	out := Ending{Supervisor: supervisor.what()}
	seen := map[int]bool{}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		if supervisor.PID != 0 {
			left = append(left, supervisor)
		}
		if len(left) == 0 {
			return out
		}
		killScope(left, ScopeName(filepath.Base(dir)))
		for _, p := range left {
			if err := p.signal(unix.SIGKILL); err == nil && !seen[p.PID] {
				seen[p.PID] = true
				out.Killed++
			}
		}
		// Only now, so that nothing of it gets to run again.
		_ = thaw(left)
		select {
		case <-ctx.Done():
			for _, p := range left {
				if sameProcess(p.PID, p.Ticks) {
					out.Left = append(out.Left, p.PID)
				}
			}
			return out
		case <-time.After(wait):
		}
		supervisor, left = jobProcesses(dir)
	}
}

// CloseJob writes down how a job ended whose supervisor can't.
func CloseJob(dir string, res JobResult) error {
	if err := writeJSON(dir, resultFile, res); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("close job: %w", err)
	}
	return nil
}

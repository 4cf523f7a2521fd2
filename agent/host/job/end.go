package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/process"
)

// A command runs as root. It can stop, freeze or kill its supervisor, and
// write what it likes into the files of its job. So End asks the kernel which
// processes belong to a job and trusts no file: a process id that a command
// has written down might be that of any process.

// ScopeName is the systemd scope of a job.
func ScopeName(id string) string { return "azguest-" + id + ".scope" }

// processes finds the supervisor of a job (pid 0 if there is none) and
// everything else that belongs to it: what carries the marker of the job or is
// in its scope, and what descends from such a process or shares its session.
func processes(dir string) (supervisor process.Info, rest []process.Info) {
	all := process.Running()
	// This process and its ancestors belong to no job, even if the command of
	// one has started the agent.
	ours := map[int]bool{0: true, 1: true}
	sessions := map[int]bool{0: true, 1: true}
	for pid := os.Getpid(); pid > 1 && !ours[pid]; pid = all[pid].Parent {
		ours[pid] = true
		sessions[all[pid].Session] = true
	}
	self := all[os.Getpid()]
	id := filepath.Base(dir)
	found := map[int]process.Info{}
	theirs := map[int]bool{}
	add := func(p process.Info) {
		found[p.PID] = p
		// A session with a leader outside of the job, such as that of a daemon
		// which runs something for the command, is not the job's.
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
		case p.Service(self) && belongs(p, self, map[string]bool{id: true}, ""), inScope(pid, ScopeName(id)):
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

// supervises reports whether a process is the supervisor of a job, by its
// command line. Only processes of the agent's own user count: other users
// could imitate the command line.
func supervises(p, self process.Info, dir string) bool {
	if !p.RunBy(os.Geteuid(), self) {
		return false
	}
	b, err := process.Text(p.PID, "cmdline")
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	return len(args) > 2 && args[1] == SuperviseArg && args[2] == dir
}

func inScope(pid int, scope string) bool {
	for _, path := range cgroup.Of(pid) {
		if _, rest, in := strings.Cut(path, "/"+scope); in && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// condition describes the state of a process, for messages.
func condition(p process.Info) string {
	if p.PID == 0 {
		return killed
	}
	if group := cgroup.FrozenBy(p.PID); group != "" {
		return "was frozen by the cgroup " + group
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

// killed is the condition of a process that no longer exists.
const killed = "was killed"

// Overdue is the message that a supervisor did not enforce the deadline of its
// command; state is what SupervisorState returned.
func Overdue(state string) string {
	return "the supervisor did not kill the command at its deadline: it " + state
}

// SupervisorState describes the supervisor of a job that should have ended,
// for a message: "was stopped by a signal".
func SupervisorState(dir string) string {
	supervisor, _ := processes(dir)
	return condition(supervisor)
}

// An Ending is the result of End.
type Ending struct {
	Supervisor string // as SupervisorState
	Killed     int    // processes, the supervisor among them
	Left       []int  // those that even SIGKILL did not end in time
}

// End kills all processes of a job, its supervisor included, in whatever state
// they are, and waits until they are gone or the context ends. It needs no
// cooperation of the supervisor, and trusts nothing in the job's directory.
func End(ctx context.Context, dir string) Ending {
	supervisor, left := processes(dir)
	out := Ending{Supervisor: condition(supervisor)}
	seen := map[int]bool{}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		if supervisor.PID != 0 {
			left = append(left, supervisor)
		}
		if len(left) == 0 {
			return out
		}
		cgroup.KillScope(left, ScopeName(filepath.Base(dir)))
		for _, p := range left {
			if err := p.Signal(unix.SIGKILL); err == nil && !seen[p.PID] {
				seen[p.PID] = true
				out.Killed++
			}
		}
		// Only after SIGKILL, so that no process runs again.
		_ = cgroup.Thaw(left)
		select {
		case <-ctx.Done():
			for _, p := range left {
				if process.Alive(p.PID, p.Ticks) {
					out.Left = append(out.Left, p.PID)
				}
			}
			return out
		case <-time.After(wait):
		}
		supervisor, left = processes(dir)
	}
}

// Close writes the result of a job whose supervisor can't write it. It is no
// error if the job's directory is gone.
func Close(dir string, res Result) error {
	if err := writeJSON(dir, resultFile, res); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("close job: %w", err)
	}
	return nil
}

package job

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/process"
)

// A handler's command must neither die with the agent nor lose its deadline
// when the agent is restarted, upgraded or killed. So the agent
// does not run it: a second process of the agent's own binary, the
// supervisor, does. It lives in a session (and, under systemd, a scope) of
// its own, enforces the deadline, and leaves the outcome in a file. The two
// talk through one directory only:
//
//	job.json     what to run (Job); written by the agent before it starts
//	lock         flock held from before the fork until the supervisor ends
//	state.json   process ids, written by the supervisor
//	result.json  Result, written once, atomically
//	stdout stderr supervisor.log
//
// If the lock can be taken, no supervisor is alive; if result.json exists, the
// job has ended. Nothing else is guaranteed.
const (
	jobFile    = "job.json"
	lockFile   = "lock"
	stateFile  = "state.json"
	resultFile = "result.json"

	// Stdout and Stderr are the names of the output files in a job's
	// directory. They are plain files and not pipes, because handlers leave
	// children behind that go on writing (extensions/SPEC.md §9.6).
	Stdout = "stdout"
	Stderr = "stderr"

	// Marker is the environment variable by which everything that a job
	// started can be found again, even after it left session and scope.
	Marker = "AZGUEST_OPERATION"

	// SuperviseArg is the first argument that makes the agent's binary a
	// supervisor.
	SuperviseArg = "supervise"
)

// A Job is one command of a handler, or a script of the administrator.
type Job struct {
	ID string `json:"id"`
	// Shell is given to /bin/sh -c as one string: manifests contain
	// arguments, quotes and double blanks (extensions/SPEC.md §3.4).
	Shell   string        `json:"shell"`
	Dir     string        `json:"dir"`
	Env     []string      `json:"env"` // added to host.Environ
	Timeout time.Duration `json:"timeout"`
	// Scope is the systemd scope and Slice its slice. Without systemd, or
	// when systemd refuses, the job runs in a session of its own only.
	Scope string `json:"scope,omitempty"`
	Slice string `json:"slice,omitempty"`
	// What describes the scope; "" is a command of a VM extension.
	What string `json:"what,omitempty"`
	// CPUPercent of one core limits the slice; 0 sets no limit.
	CPUPercent int `json:"cpuPercent,omitempty"`
	// Units are the handler's own services, limited as far as they exist.
	Units []cgroup.UnitLimit `json:"units,omitempty"`
}

// join moves the calling process into the scope of the job.
func (j Job) join(ctx context.Context) (string, error) {
	return cgroup.Scope{
		Name: j.Scope, Description: cmp.Or(j.What, "VM extension command") + " " + j.ID, Slice: j.Slice,
		Limits: append([]cgroup.UnitLimit{{Name: j.Slice, CPUPercent: j.CPUPercent}}, j.Units...),
	}.Join(ctx)
}

// Classes of a Result.
const (
	OK         = "ok"
	Failed     = "failed"
	Timeout    = "timeout"
	Signal     = "signal"
	NotStarted = "not-started"
	Lost       = "lost" // the supervisor died without leaving a result
)

func classes() []string {
	return []string{OK, Failed, Timeout, Signal, NotStarted, Lost}
}

// A Result says how a job ended.
type Result struct {
	Class    string        `json:"class"`
	Code     int           `json:"code"` // of the shell; -1 if there is none
	Signal   string        `json:"signal,omitempty"`
	Error    string        `json:"error,omitempty"` // why it could not be started
	OOM      bool          `json:"oom,omitempty"`
	Started  time.Time     `json:"started,omitzero"`
	Finished time.Time     `json:"finished,omitzero"`
	CPU      time.Duration `json:"cpu,omitempty"`
	MaxRSS   int64         `json:"maxRSS,omitempty"` // bytes
	Scope    string        `json:"scope,omitempty"`  // cgroup path
	ScopeErr string        `json:"scopeErr,omitempty"`
	// Throttled is how long the CPU limit of its slice has kept it waiting.
	Throttled time.Duration `json:"throttled,omitempty"`
}

// Slowed reports whether the limit of its slice has cost more than a second,
// or more than a tenth of its time.
func (r Result) Slowed() bool {
	return r.Throttled > time.Second || r.Throttled > 0 && r.Throttled*10 > r.Finished.Sub(r.Started)
}

// A State identifies the processes of a job.
type State struct {
	PID        int         `json:"pid"`
	Ticks      uint64      `json:"ticks"` // start time, tells a reused PID
	Child      int         `json:"child,omitempty"`
	ChildTicks uint64      `json:"childTicks,omitempty"`
	Boot       string      `json:"boot"`
	Started    time.Time   `json:"started"`
	Deadline   time.Time   `json:"deadline"` // for people: the clock may be set
	Began      host.Moment `json:"began,omitzero"`
	Scope      string      `json:"scope,omitempty"`
}

// Supervise is the supervisor. Main calls it with what follows SuperviseArg;
// the result is the exit status of the process.
func Supervise(ctx context.Context, args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: azguest supervise DIRECTORY")
		return 2
	}
	// The lock was inherited as descriptor 3. The command inherits neither it nor
	// anything else that is the agent's.
	if err := process.Normalize(); err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
	}
	process.AsService()
	if err := supervise(ctx, args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
		return 1
	}
	return 0
}

func supervise(ctx context.Context, dir string) error {
	var job Job
	if err := readJSON(dir, jobFile, &job); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	// Stopping the agent's unit must not stop the handler. A signal to the
	// whole scope reaches the command itself, and we report how it ended.
	process.Swallow(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT)
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)

	st := State{PID: os.Getpid(), Ticks: process.StartTicks(os.Getpid()), Boot: host.BootID(), Started: time.Now().UTC(), Began: host.Now()}
	st.Deadline = st.Started.Add(job.Timeout)
	res := Result{Code: -1, Started: st.Started}
	if job.Scope != "" {
		if path, err := job.join(ctx); err != nil {
			res.ScopeErr = err.Error()
		} else {
			res.Scope, st.Scope = path, path
		}
	}
	if err := writeJSON(dir, stateFile, st); err != nil {
		return err
	}
	// Reserve space for the result before the command can fill the disk: a
	// command without a recorded result would be repeated.
	if err := host.Root(dir).WriteFileLazy(spareFile, []byte(strings.Repeat(" ", spareSize)), 0o600); err != nil {
		return fmt.Errorf("reserve space for the result: %w", err)
	}
	run(dir, job, &st, &res)
	// By the monotonic clock: the wall clock may have been set meanwhile.
	res.Finished = st.Started.Add(time.Since(st.Started))
	if res.Class == Failed || res.Class == Signal {
		awaitOutput(st.Child)
	}
	return saveResult(dir, res)
}

// outputTime is how long the output of a failed command is waited for.
const outputTime = time.Second

// awaitOutput waits, at most for outputTime, until the process group of a
// failed command is empty: published shims pipe their output through tee,
// which may still hold the line with the reason. Processes that were left
// running on purpose are in the group, too, hence the limit.
func awaitOutput(group int) {
	end := time.After(outputTime)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for group > 0 && unix.Kill(-group, 0) == nil {
		// wait: end is a timer
		select {
		case <-tick.C:
		case <-end:
			return
		}
	}
}

// spareSize is one block, and more than a result needs.
const (
	spareFile = "result.spare"
	spareSize = 4096
)

// saveResult writes the result into the blocks of the spare file, which is
// then renamed, so that it needs no free space. JSON allows the trailing
// blanks.
func saveResult(dir string, res Result) error {
	b, err := json.Marshal(res)
	if err != nil {
		return err
	}
	if files := host.Root(dir); len(b) <= spareSize {
		err = overwrite(files, spareFile, b)
		if err == nil {
			err = files.Rename(spareFile, resultFile)
		}
		if err == nil {
			files.SyncDir("/")
			return nil
		}
	}
	return writeJSON(dir, resultFile, res)
}

// overwrite replaces the beginning of a file in place.
func overwrite(in host.Root, name string, b []byte) error {
	f, err := in.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// run runs the command to its end or its deadline and fills res.
func run(dir string, job Job, st *State, res *Result) {
	out, err := openOutput(dir, Stdout)
	if err != nil {
		res.Class, res.Error = NotStarted, err.Error()
		return
	}
	defer out.Close()
	errw, err := openOutput(dir, Stderr)
	if err != nil {
		res.Class, res.Error = NotStarted, err.Error()
		return
	}
	defer errw.Close()
	cmd := exec.Command("/bin/sh", "-c", job.Shell) //nolint:noctx // ended with its whole group, below
	cmd.Dir = job.Dir
	cmd.Env = host.Environ(os.Environ(), append([]string{Marker + "=" + job.ID}, job.Env...)...)
	cmd.Stdout, cmd.Stderr = out, errw
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	oomBefore, throttledBefore := cgroup.OOMKills(res.Scope), cgroup.Throttled(res.Scope)
	if err := process.Start(cmd); err != nil {
		res.Class, res.Error = NotStarted, strings.TrimPrefix(err.Error(), "fork/exec ")
		return
	}
	st.Child, st.ChildTicks = cmd.Process.Pid, process.StartTicks(cmd.Process.Pid)
	// Not being able to write this only makes a lost supervisor harder to
	// follow; the command runs already.
	_ = writeJSON(dir, stateFile, st)

	stop := make(chan struct{})
	var bounding sync.WaitGroup
	bounding.Go(func() {
		defer crash.Guard()
		boundOutput(stop, out, errw)
	})
	defer func() {
		close(stop)
		// wait: for the end of one look at two files; it must not be interrupted
		bounding.Wait()
	}()
	done := make(chan error, 1)
	go func() {
		defer crash.Guard()
		// wait: a goroutine of its own; its end is awaited below
		done <- cmd.Wait()
	}()
	timer := time.NewTimer(job.Timeout)
	defer timer.Stop()
	timedOut := false
	// wait: the timer is the deadline of the command
	select {
	case err = <-done:
	case <-timer.C:
		timedOut = true
		// The whole group, and only at the deadline: what a finished command
		// left behind is meant to live on (extensions/SPEC.md §9.7).
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		// wait: the process was killed, and its output goes to files
		err = <-done
	}
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		res.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
		res.MaxRSS = ru.Maxrss * 1024
	}
	res.Throttled = max(0, cgroup.Throttled(res.Scope)-throttledBefore)
	ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	res.Code = cmd.ProcessState.ExitCode()
	switch {
	case timedOut:
		res.Class = Timeout
	case ws.Signaled():
		res.Class, res.Signal = Signal, unix.SignalName(ws.Signal())
	case err != nil || res.Code != 0:
		res.Class = Failed
	default:
		res.Class = OK
	}
	killed := ws.Signaled() && ws.Signal() == unix.SIGKILL || res.Code == 128+int(unix.SIGKILL)
	if !timedOut && res.Class != OK {
		after := cgroup.OOMKills(res.Scope)
		res.OOM = after > oomBefore && (res.Scope != "" || killed)
	}
}

// openOutput opens a file for what a command prints.
func openOutput(dir, name string) (*os.File, error) {
	f, err := host.Root(dir).Append(name, 0o600)
	if err != nil {
		return nil, err
	}
	// The command would inherit O_NONBLOCK, which it does not expect.
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func writeJSON(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return host.Root(dir).WriteFile(name, append(b, '\n'), 0o600)
}

// maxJobFile is more than a job with its environment needs.
const maxJobFile = 4 << 20

func readJSON(dir, name string, v any) error {
	b, err := host.Root(dir).ReadBounded(name, maxJobFile)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A handler's command must neither die with the agent nor lose its deadline
// when the agent is restarted, upgraded or killed (asks U03). So the agent
// does not run it: a second process of the agent's own binary, the
// supervisor, does. It lives in a session (and, under systemd, a scope) of
// its own, enforces the deadline, and leaves the outcome in a file. The two
// talk through one directory only:
//
//	job.json     what to run (Job); written by the agent before it starts
//	lock         flock held from before the fork until the supervisor ends
//	state.json   process ids, written by the supervisor
//	result.json  JobResult, written once, atomically
//	stdout stderr supervisor.log
//
// Whoever can take the lock knows that no supervisor is alive; whoever finds
// result.json knows how it ended. Nothing else is promised.
const (
	jobFile    = "job.json"
	lockFile   = "lock"
	stateFile  = "state.json"
	resultFile = "result.json"

	// JobStdout and JobStderr are the names of the output files in a job's
	// directory. They are plain files and not pipes, because handlers leave
	// children behind that go on writing (spec/extensions §3.1).
	JobStdout = "stdout"
	JobStderr = "stderr"

	// JobMarker is the environment variable by which everything that a job
	// started can be found again, even after it left session and scope.
	JobMarker = "AZGUEST_OPERATION"

	// SuperviseArg is the first argument that makes the agent's binary a
	// supervisor.
	SuperviseArg = "supervise"
)

// A Job is one command of a handler.
type Job struct {
	ID string `json:"id"`
	// Shell is given to /bin/sh -c as one string: manifests contain
	// arguments, quotes and double blanks (spec/extensions §1.2).
	Shell   string        `json:"shell"`
	Dir     string        `json:"dir"`
	Env     []string      `json:"env"` // added to DefaultPath and LANG; nothing is inherited
	Timeout time.Duration `json:"timeout"`
	// Scope is the systemd scope and Slice its slice. Without systemd, or
	// when systemd refuses, the job runs in a session of its own only.
	Scope string `json:"scope,omitempty"`
	Slice string `json:"slice,omitempty"`
	// CPUPercent of one core limits the slice; 0 sets no limit.
	CPUPercent int `json:"cpuPercent,omitempty"`
	// Units are the handler's own services, limited as far as they exist.
	Units []UnitLimit `json:"units,omitempty"`
}

// A UnitLimit is what a unit of systemd may use.
type UnitLimit struct {
	Name       string `json:"name"`
	CPUPercent int    `json:"cpuPercent,omitempty"` // of one core; 0 sets no limit
}

// Classes of a JobResult.
const (
	JobOK         = "ok"
	JobFailed     = "failed"
	JobTimeout    = "timeout"
	JobSignal     = "signal"
	JobNotStarted = "not-started"
	JobLost       = "lost" // the supervisor died without leaving a result
)

func jobClasses() []string {
	return []string{JobOK, JobFailed, JobTimeout, JobSignal, JobNotStarted, JobLost}
}

// A JobResult says how a job ended.
type JobResult struct {
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
	// Throttled is for how long the limit of its slice kept it waiting.
	Throttled time.Duration `json:"throttled,omitempty"`
}

// Slowed says that the limit of its slice took a noticeable part of its time.
func (r JobResult) Slowed() bool {
	return r.Throttled > time.Second || r.Throttled > 0 && r.Throttled*10 > r.Finished.Sub(r.Started)
}

// A JobState is who runs a job.
type JobState struct {
	PID        int       `json:"pid"`
	Ticks      uint64    `json:"ticks"` // start time, tells a reused PID
	Child      int       `json:"child,omitempty"`
	ChildTicks uint64    `json:"childTicks,omitempty"`
	Boot       string    `json:"boot"`
	Started    time.Time `json:"started"`
	Deadline   time.Time `json:"deadline"` // for people: the clock may be set
	Began      Moment    `json:"began,omitzero"`
	Scope      string    `json:"scope,omitempty"`
}

// Supervise is the supervisor. Main calls it with what follows SuperviseArg;
// the result is the exit status of the process.
func Supervise(ctx context.Context, args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: azguest supervise DIRECTORY")
		return 2
	}
	SetTimerSlack(ExactTimers) // a handler has nothing of an agent that rested
	if err := supervise(ctx, args[0]); err != nil {
		fmt.Fprintln(os.Stderr, "supervise:", err)
		return 1
	}
	return 0
}

func supervise(ctx context.Context, dir string) error {
	// The lock came with us as descriptor 3. Our child must keep neither it
	// nor anything else that the agent was given by whoever started it.
	syscall.CloseOnExec(lockFD)
	_ = unix.CloseRange(lockFD, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11
	var job Job
	if err := readJSON(dir, jobFile, &job); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	// A stop of the agent's unit must not reach the handler; what is sent to
	// the whole scope reaches the child itself, and we report how it ended.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT)
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)

	// Neither the agent's protection from the OOM killer nor its umask are
	// the handler's (asks U15).
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0)
	unix.Umask(0o022)

	st := JobState{PID: os.Getpid(), Ticks: startTicks(os.Getpid()), Boot: BootID(), Started: time.Now().UTC(), Began: Now()}
	st.Deadline = st.Started.Add(job.Timeout)
	res := JobResult{Code: -1, Started: st.Started}
	if job.Scope != "" {
		if path, err := joinScope(ctx, job); err != nil {
			res.ScopeErr = err.Error()
		} else {
			res.Scope, st.Scope = path, path
		}
	}
	if err := writeJSON(dir, stateFile, st); err != nil {
		return err
	}
	// Room for the result is made before the command can fill the disk: an
	// outcome that can't be told would have the command repeated.
	if err := Root(dir).WriteFileLazy(spareFile, []byte(strings.Repeat(" ", spareSize)), 0o600); err != nil {
		return fmt.Errorf("reserve space for the result: %w", err)
	}
	runJob(dir, job, &st, &res)
	// As long as it took, even if the clock was set meanwhile.
	res.Finished = st.Started.Add(time.Since(st.Started))
	if res.Class == JobFailed || res.Class == JobSignal {
		awaitOutput(st.Child)
	}
	return saveResult(dir, res)
}

// outputTime is how long the output of a failed command may come in late.
const outputTime = time.Second

// awaitOutput waits for what a failed command has piped its output through:
// published shims run tee, which may still have the line that says why. It
// belongs to the command's process group, as does what was left running on
// purpose, so it is not waited for any longer.
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

// spareSize is a block, and more than a result needs.
const (
	spareFile = "result.spare"
	spareSize = 4096
)

// saveResult writes the result into the blocks of the spare file, which then
// gets its name. JSON does not mind the blanks that follow.
func saveResult(dir string, res JobResult) error {
	b, err := json.Marshal(res)
	if err != nil {
		return err
	}
	if files := Root(dir); len(b) <= spareSize {
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
func overwrite(in Root, name string, b []byte) error {
	f, err := in.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// runJob runs the command to its end or its deadline and fills res.
func runJob(dir string, job Job, st *JobState, res *JobResult) {
	out, err := openOutput(dir, JobStdout)
	if err != nil {
		res.Class, res.Error = JobNotStarted, err.Error()
		return
	}
	defer out.Close()
	errw, err := openOutput(dir, JobStderr)
	if err != nil {
		res.Class, res.Error = JobNotStarted, err.Error()
		return
	}
	defer errw.Close()
	cmd := exec.Command("/bin/sh", "-c", job.Shell) //nolint:noctx // ended with its whole group, below
	cmd.Dir = job.Dir
	cmd.Env = append([]string{"PATH=" + DefaultPath, "LANG=C.UTF-8", JobMarker + "=" + job.ID}, job.Env...)
	cmd.Stdout, cmd.Stderr = out, errw
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	oomBefore, throttledBefore := oomKills(res.Scope), throttled(res.Scope)
	if err := cmd.Start(); err != nil {
		res.Class, res.Error = JobNotStarted, strings.TrimPrefix(err.Error(), "fork/exec ")
		return
	}
	st.Child, st.ChildTicks = cmd.Process.Pid, startTicks(cmd.Process.Pid)
	// Not being able to write this only makes a lost supervisor harder to
	// follow; the command runs already.
	_ = writeJSON(dir, stateFile, st)

	done := make(chan error, 1)
	// wait: a goroutine of its own; its end is awaited below
	go func() { done <- cmd.Wait() }()
	timer := time.NewTimer(job.Timeout)
	defer timer.Stop()
	timedOut := false
	// wait: the timer is the deadline of the command
	select {
	case err = <-done:
	case <-timer.C:
		timedOut = true
		// The whole group, at once, and only now: what a finished command
		// left behind is meant to live on (spec/extensions §3.1).
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		// wait: the process was killed, and its output goes to files
		err = <-done
	}
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		res.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
		res.MaxRSS = ru.Maxrss * 1024
	}
	res.Throttled = max(0, throttled(res.Scope)-throttledBefore)
	ws, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	res.Code = cmd.ProcessState.ExitCode()
	switch {
	case timedOut:
		res.Class = JobTimeout
	case ws.Signaled():
		res.Class, res.Signal = JobSignal, unix.SignalName(ws.Signal())
	case err != nil || res.Code != 0:
		res.Class = JobFailed
	default:
		res.Class = JobOK
	}
	killed := ws.Signaled() && ws.Signal() == unix.SIGKILL || res.Code == 128+int(unix.SIGKILL)
	if !timedOut && res.Class != JobOK {
		after := oomKills(res.Scope)
		res.OOM = after > oomBefore && (res.Scope != "" || killed)
	}
}

// openOutput opens a file for what a command prints.
func openOutput(dir, name string) (*os.File, error) {
	f, err := Root(dir).Append(name, 0o600)
	if err != nil {
		return nil, err
	}
	// The flag would be the command's, which does not expect it.
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
	return Root(dir).WriteFile(name, append(b, '\n'), 0o600)
}

// maxJobFile is more than a job with its environment needs.
const maxJobFile = 4 << 20

func readJSON(dir, name string, v any) error {
	b, err := Root(dir).ReadBounded(name, maxJobFile)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// BootID is the kernel's name for this boot, or "" where there is none.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// startTicks is field 22 of /proc/PID/stat, 0 if there is no such process.
func startTicks(pid int) uint64 {
	f := statFields(strconv.Itoa(pid))
	if len(f) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}

// statFields are the fields of /proc/PID/stat, or of a thread's, from the
// third on: the second is a name that may contain anything.
func statFields(dir string) []string {
	b, err := os.ReadFile("/proc/" + dir + "/stat")
	if err != nil {
		return nil
	}
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return nil
	}
	return strings.Fields(string(b[i+1:]))
}

// sameProcess reports whether pid is still the process that started then,
// and not a zombie.
func sameProcess(pid int, ticks uint64) bool {
	if pid <= 0 {
		return false
	}
	f := statFields(strconv.Itoa(pid))
	if len(f) < 20 || ended(f) && !threads(pid) {
		return false
	}
	return ticks == 0 || startTicks(pid) == ticks
}

func ended(f []string) bool { return f[0] == "Z" || f[0] == "X" }

// threads reports whether a process whose first thread has ended lives on in
// others. They are killed one by one, and until the last has gone its files
// are open and its locks are held.
func threads(pid int) bool {
	dir := strconv.Itoa(pid) + "/task"
	tasks, err := os.ReadDir("/proc/" + dir)
	if err != nil {
		return false // gone meanwhile
	}
	return slices.ContainsFunc(tasks, func(t os.DirEntry) bool {
		f := statFields(dir + "/" + t.Name())
		return len(f) > 0 && !ended(f)
	})
}

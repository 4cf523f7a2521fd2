package job

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
)

// A Launcher starts supervisors. Exe is the agent's own binary.
type Launcher struct{ Exe string }

// SelfLauncher starts supervisors from the running binary, even after an
// upgrade has replaced or removed the file.
func SelfLauncher() Launcher { return Launcher{Exe: "/proc/self/exe"} }

// Start begins the job in dir, which is created, and returns as soon as the
// supervisor runs. Once it has returned nil the job goes on whatever happens
// to this process. The supervisor is reaped here.
func (l Launcher) Start(dir string, job Job) error {
	if err := host.Root("").MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	files := host.Root(dir)
	// The lock is taken before the job is visible and passed on with the fork,
	// so that a started job never looks dead.
	lock, err := files.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("start job %s: already running: %w", job.ID, err)
	}
	for _, name := range []string{resultFile, stateFile, reportedFile, Stdout, Stderr} {
		if err := files.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start job: %w", err)
		}
	}
	if err := writeJSON(dir, jobFile, job); err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	log, err := files.Append("supervisor.log", 0o600)
	if err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(l.Exe, SuperviseArg, dir) //nolint:noctx // the supervisor outlives this program on purpose
	cmd.Dir = "/"
	cmd.Env = host.Environ(os.Environ(), "GOMAXPROCS=2", "GOGC=50")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock} // only to be held: process.Normalize marks it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := process.Start(cmd); err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	go func() {
		defer crash.Guard()
		// wait: a goroutine of its own; it ends with the process
		_ = cmd.Wait()
	}() // how it ended is in the result file
	return nil
}

// ResultOf returns the result of a job, or ok=false while there is none. The
// command may have written the file itself, so a result that no supervisor
// would write is ignored, and its texts, which go into reports, are bounded.
func ResultOf(dir string) (res Result, ok bool) {
	if err := readJSON(dir, resultFile, &res); err != nil || !slices.Contains(classes(), res.Class) {
		return Result{}, false
	}
	if unix.SignalNum(res.Signal) == 0 {
		res.Signal = ""
	}
	for _, s := range []*string{&res.Error, &res.Scope, &res.ScopeErr} {
		*s = strings.ToValidUTF8((*s)[:min(len(*s), maxResultText)], "")
	}
	for _, d := range []*time.Duration{&res.CPU, &res.Throttled} {
		*d = max(0, *d)
	}
	return res, true
}

// maxResultText bounds each text of a result.
const maxResultText = 4096

// StateOf returns the processes of a job as its supervisor has recorded them.
func StateOf(dir string) (st State, ok bool) {
	if err := readJSON(dir, stateFile, &st); err != nil {
		return State{}, false
	}
	return st, st.PID > 0
}

// locked reports whether the lock of the job is held: by a supervisor, which
// may not show its own command line yet.
func locked(dir string) bool {
	lock, err := host.Root(dir).OpenFile(lockFile, os.O_RDWR, 0)
	if err != nil {
		return false // the job was not started, or its command removed the file
	}
	defer lock.Close()
	return errors.Is(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Wait waits for the end of a job that this process or an earlier one
// started, and returns its result. A job whose supervisor was killed is
// waited for until its own process ends or its deadline is over, and then is
// Lost; a job that never got as far as a process is NotStarted with
// Code -1. The error is the context's.
//
// A live supervisor is waited for as long as the context allows, even if it is
// stopped or frozen: callers that must not wait for that set a limit, and call
// End.
func Wait(ctx context.Context, dir string) (Result, error) {
	for retry := 20 * time.Millisecond; ; retry = min(2*retry, time.Second) {
		if res, ok := ResultOf(dir); ok {
			return res, nil
		}
		pid := supervisorOf(dir)
		if pid == 0 && !locked(dir) {
			// It may have ended between the two checks.
			if res, ok := ResultOf(dir); ok {
				return res, nil
			}
			return lost(ctx, dir)
		}
		// The result file is checked from time to time even while the
		// supervisor lives: a result counts as soon as it exists.
		if err := waitPID(ctx, pid, retry, 2*time.Second); err != nil {
			if res, ok := ResultOf(dir); ok {
				return res, nil
			}
			return Result{}, err
		}
	}
}

// supervisorOf is the process id of a job's supervisor, 0 if there is none.
func supervisorOf(dir string) int {
	self, _ := process.Look("/", os.Getpid())
	if st, ok := StateOf(dir); ok && process.Alive(st.PID, st.Ticks) {
		if p, ok := process.Look("/", st.PID); ok && supervises(p, self, dir) {
			return st.PID
		}
	}
	for pid, p := range process.Running() {
		if supervises(p, self, dir) {
			return pid
		}
	}
	return 0
}

// lost waits for the command of a supervisor that is gone, and kills it at its
// deadline.
func lost(ctx context.Context, dir string) (Result, error) {
	st, known := StateOf(dir)
	child, ticks := orphanOf(dir, st)
	if !known && child == 0 {
		if !host.Root("").Exists(dir) {
			return Result{Class: Lost, Code: -1, Error: "the directory of the job was removed"}, nil
		}
		return Result{Class: NotStarted, Code: -1, Error: "the supervisor did not start: " + superviseLog(dir)}, nil
	}
	res := Result{Class: Lost, Code: -1, Started: st.Started, Scope: st.Scope, Error: "the supervisor was killed"}
	var job Job
	_ = readJSON(dir, jobFile, &job) // without it only the caller's limit applies
	for child > 0 && process.Alive(child, ticks) {
		look := time.Second
		if job.Timeout > 0 {
			left := st.Began.Left(job.Timeout)
			if left <= 0 {
				res.Class, res.Error = Timeout, Overdue(killed)
				if e := End(ctx, dir); len(e.Left) > 0 {
					return Result{}, context.Cause(ctx)
				}
				break
			}
			look = min(look, left)
		}
		if err := waitPID(ctx, child, 20*time.Millisecond, look); err != nil {
			return Result{}, err
		}
	}
	res.Finished = time.Now().UTC()
	return res, nil
}

// orphanOf finds the command of a job whose supervisor was killed: the process
// that the supervisor recorded, or, if it could not, one that leads a session.
// Either has the marker of the job.
func orphanOf(dir string, st State) (pid int, ticks uint64) {
	ids := map[string]bool{filepath.Base(dir): true}
	left := Processes(ids, "")
	if slices.Contains(left, st.Child) && process.Alive(st.Child, st.ChildTicks) {
		return st.Child, st.ChildTicks
	}
	for _, pid := range left {
		if sid, err := unix.Getsid(pid); err == nil && sid == pid {
			return pid, process.StartTicks(pid)
		}
	}
	return 0, 0
}

// superviseLog is the end of the supervisor's log.
func superviseLog(dir string) string {
	b, err := host.Root(dir).ReadBounded("supervisor.log", maxJobFile)
	if err != nil || len(b) == 0 {
		return "no output"
	}
	return strings.TrimSpace(string(b[max(0, len(b)-500):]))
}

// waitPID returns when the process has ended, when the context ends (with its
// error), or after look; if the process can't be watched, after retry.
func waitPID(ctx context.Context, pid int, retry, look time.Duration) error {
	fd := -1
	if pid > 0 {
		fd, _ = unix.PidfdOpen(pid, 0)
	}
	if fd < 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retry):
			return nil
		}
	}
	defer unix.Close(fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch process: %w", err)
	}
	defer unix.Close(wake)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer crash.Guard()
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(stopped)
	})
	defer func() {
		if !stop() {
			// wait: the function that closes it only writes to an eventfd
			<-stopped // the descriptor must outlive the write
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, max(1, int(look/time.Millisecond)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("watch process: %w", err)
		}
		return nil
	}
}

// Processes lists what is left of jobs and of the packages they belong to:
// every process that has the marker of one of the ids in its environment, and
// those of root's whose program, working directory or command line is below
// dir. A marker is random and readable by root only; the rest can be imitated
// by any user. Processes that a user has started are left out, as is the
// caller.
func Processes(ids map[string]bool, dir string) []int {
	all, err := process.IDs("/")
	if err != nil {
		return nil
	}
	self, _ := process.Look("/", os.Getpid())
	var pids []int
	for _, pid := range all {
		if pid == self.PID {
			continue
		}
		if p, ok := process.Look("/", pid); ok && !p.Ended && p.Service(self) && belongs(p, self, ids, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Heirs lists the processes that may have been left by something that ran from
// one moment to another, although nothing about them tells so: root's, started
// in that time, neither by a user nor by a process that still runs, and without
// the marker of any job. A suspend of the machine since then hides them.
func Heirs(from, to host.Moment) []int {
	first, last := process.TicksAt(from.At), process.TicksAt(to.At)
	self, _ := process.Look("/", os.Getpid())
	program, _ := os.Readlink("/proc/self/exe")
	var pids []int
	for pid, p := range process.Running() {
		if p.Parent != 1 || p.Ticks < first || p.Ticks > last || !p.RunBy(os.Geteuid(), self) {
			continue
		}
		env, err := process.Text(pid, "environ")
		if exe, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe"); err != nil || exe == program || strings.Contains("\x00"+string(env), "\x00"+Marker+"=") {
			continue // gone, a supervisor, or of another job
		}
		pids = append(pids, pid)
	}
	return pids
}

func belongs(p, self process.Info, ids map[string]bool, dir string) bool {
	proc := "/proc/" + strconv.Itoa(p.PID)
	if len(ids) > 0 {
		env, _ := process.Text(p.PID, "environ") // as far as it can be read
		for v := range strings.SplitSeq(string(env), "\x00") {
			if id, ok := strings.CutPrefix(v, Marker+"="); ok && ids[id] {
				return true
			}
		}
	}
	// Jobs run as the agent does, which is not root in a developer's tests.
	if dir == "" || !p.RunBy(os.Geteuid(), self) {
		return false
	}
	for _, link := range []string{"/exe", "/cwd"} {
		if t, err := os.Readlink(proc + link); err == nil && (t == dir || strings.HasPrefix(t, dir+"/")) {
			return true
		}
	}
	cmdline, err := process.Text(p.PID, "cmdline")
	return err == nil && strings.Contains(string(cmdline), dir+"/")
}

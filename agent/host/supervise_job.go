package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockFD is where the supervisor finds the lock of its job.
const lockFD = 3

// A Launcher starts supervisors. Exe is the agent's own binary.
type Launcher struct{ Exe string }

// SelfLauncher starts supervisors from the running binary, even after an
// upgrade has replaced or removed the file.
func SelfLauncher() Launcher { return Launcher{Exe: "/proc/self/exe"} }

// Start begins the job in dir, which is created, and returns as soon as the
// supervisor runs. Once it has returned nil the job goes on whatever happens
// to this process. The supervisor is reaped here.
func (l Launcher) Start(dir string, job Job) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	// The lock is taken before anybody could see the job and handed over with
	// the fork: at no moment does a started job look dead.
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("start job %s: it runs already: %w", job.ID, err)
	}
	for _, name := range []string{resultFile, stateFile, JobStdout, JobStderr} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("start job: %w", err)
		}
	}
	if err := writeJSON(dir, jobFile, job); err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	log, err := appendTo(filepath.Join(dir, "supervisor.log"))
	if err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(l.Exe, SuperviseArg, dir) //nolint:noctx // it outlives us on purpose
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + DefaultPath, "LANG=C.UTF-8", "GOMAXPROCS=2", "GOGC=50"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock} // becomes lockFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start job: %w", err)
	}
	go func() { _ = cmd.Wait() }() // how it ended is in the result file
	return nil
}

// JobResultOf returns the result of a job, or ok=false while there is none.
func JobResultOf(dir string) (res JobResult, ok bool) {
	if err := readJSON(dir, resultFile, &res); err != nil {
		return JobResult{}, false
	}
	return res, res.Class != ""
}

// JobStateOf returns who runs a job.
func JobStateOf(dir string) (st JobState, ok bool) {
	if err := readJSON(dir, stateFile, &st); err != nil {
		return JobState{}, false
	}
	return st, st.PID > 0
}

// jobAlive reports whether a supervisor holds the lock of the job.
func jobAlive(dir string) (bool, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, ErrNoJob
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Is(err, unix.EWOULDBLOCK), nil
	}
	return false, nil
}

// WaitJob waits for the end of a job that this process or an earlier one
// started, and returns its result. A job whose supervisor was killed is
// waited for until its own process ends or its deadline is over, and then is
// JobLost; a job that never got as far as a process is JobNotStarted with
// Code -1. The error is the context's, or says that the job can't be read.
func WaitJob(ctx context.Context, dir string) (JobResult, error) {
	for {
		if res, ok := JobResultOf(dir); ok {
			return res, nil
		}
		alive, err := jobAlive(dir)
		if err != nil && !errors.Is(err, ErrNoJob) {
			return JobResult{}, fmt.Errorf("wait for job: %w", err)
		}
		if !alive {
			// It may have ended between the two looks.
			if res, ok := JobResultOf(dir); ok {
				return res, nil
			}
			return lostJob(ctx, dir)
		}
		st, _ := JobStateOf(dir)
		if err := waitPID(ctx, st.PID, 20*time.Millisecond); err != nil {
			return JobResult{}, err
		}
	}
}

// lostJob follows the orphan of a supervisor that is gone.
func lostJob(ctx context.Context, dir string) (JobResult, error) {
	st, ok := JobStateOf(dir)
	if !ok {
		return JobResult{Class: JobNotStarted, Code: -1, Error: "the supervisor did not start: " + superviseLog(dir)}, nil
	}
	res := JobResult{Class: JobLost, Code: -1, Started: st.Started, Scope: st.Scope, Error: "the supervisor was killed"}
	if st.Child == 0 && st.Boot == BootID() {
		st.Child, st.ChildTicks = orphanOf(filepath.Base(dir))
	}
	for st.Child > 0 && st.Boot == BootID() && sameProcess(st.Child, st.ChildTicks) {
		if left := time.Until(st.Deadline); left <= 0 {
			_ = unix.Kill(-st.Child, unix.SIGKILL)
			res.Class = JobTimeout
		}
		if err := waitPID(ctx, st.Child, min(time.Second, max(time.Until(st.Deadline), 20*time.Millisecond))); err != nil {
			return JobResult{}, err
		}
	}
	res.Finished = time.Now().UTC()
	return res, nil
}

// orphanOf finds the process of a job whose supervisor was killed before it
// could write down which that is: it leads a session, and has the job's marker.
func orphanOf(id string) (pid int, ticks uint64) {
	for _, pid := range Processes(map[string]bool{id: true}, "") {
		if sid, err := unix.Getsid(pid); err == nil && sid == pid {
			return pid, startTicks(pid)
		}
	}
	return 0, 0
}

// superviseLog is the last words of a supervisor.
func superviseLog(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "supervisor.log"))
	if err != nil || len(b) == 0 {
		return "no output"
	}
	return strings.TrimSpace(string(b[max(0, len(b)-500):]))
}

// waitPID returns when the process has ended, when the context ends (its
// error), or, if the process can't be watched, after retry.
func waitPID(ctx context.Context, pid int, retry time.Duration) error {
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
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(stopped)
	})
	defer func() {
		if !stop() {
			<-stopped // the descriptor must outlive the write
		}
	}()
	// A supervisor is watched for ever but for a slow look at its result (a
	// pidfd of a foreign PID would never fire); an orphan until its deadline.
	wait := 2 * time.Second
	if retry > 20*time.Millisecond {
		wait = retry
	}
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, int(wait/time.Millisecond))
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

// CancelJob kills the job's process group; its supervisor then records the
// signal.
func CancelJob(dir string) error {
	st, ok := JobStateOf(dir)
	if !ok || !sameProcess(st.Child, st.ChildTicks) {
		return fmt.Errorf("cancel job: %w", ErrNoJob)
	}
	return unix.Kill(-st.Child, unix.SIGKILL)
}

// Processes lists what is left of jobs and of the packages they belong to:
// every process that carries the marker of one of the ids in its environment,
// and those of root's whose program, working directory or command line lies
// below dir. A marker is random and root's to read; the rest is anybody's to
// imitate. What a user has started is never among them, nor is the caller.
func Processes(ids map[string]bool, dir string) []int {
	r := Root("/")
	all, err := r.ProcessIDs()
	if err != nil {
		return nil
	}
	self, _ := r.Process(os.Getpid())
	var pids []int
	for _, pid := range all {
		if pid == self.PID {
			continue
		}
		if p, ok := r.Process(pid); ok && !p.Ended && p.service(self) && belongs(p, self, ids, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func belongs(p, self Process, ids map[string]bool, dir string) bool {
	proc := "/proc/" + strconv.Itoa(p.PID)
	if env, err := os.ReadFile(proc + "/environ"); err == nil && len(ids) > 0 {
		for v := range strings.SplitSeq(string(env), "\x00") {
			if id, ok := strings.CutPrefix(v, JobMarker+"="); ok && ids[id] {
				return true
			}
		}
	}
	// Jobs run as the agent does, which is not root in a developer's tests.
	if dir == "" || !p.run(os.Geteuid(), self) {
		return false
	}
	for _, link := range []string{"/exe", "/cwd"} {
		if t, err := os.Readlink(proc + link); err == nil && (t == dir || strings.HasPrefix(t, dir+"/")) {
			return true
		}
	}
	cmdline, err := os.ReadFile(proc + "/cmdline")
	return err == nil && strings.Contains(string(cmdline), dir+"/")
}

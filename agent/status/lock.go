package status

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
)

// A Lock is held by the one agent of a machine while it runs. The kernel
// releases it even after SIGKILL.
type Lock struct{ f *os.File }

// LockedError means that another agent holds the lock.
type LockedError struct {
	Path string
	PID  int // 0: unknown
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("another agent is running (pid %d holds %s)", e.PID, e.Path)
}

// Code returns the code for `agentctl explain`.
func (*LockedError) Code() string { return "AZ-AGENT-TWICE" }

// Acquire takes the lock and writes our process id into the file. It is 0600:
// flock needs no more than an open file, so with 0644 any user could keep the
// agent from starting. An agentctl of root that checks the lock holds it for
// some microseconds, so Acquire tries for a second.
func Acquire(ctx context.Context, path string) (*Lock, error) {
	f, err := machine.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for try := 0; ; try++ {
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) || try == 20 {
			break
		}
		select {
		case <-ctx.Done():
			_ = f.Close() // nothing was written
			return nil, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err == nil {
		err = f.Chmod(0o600) // an older file may be more open
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		pid := readPID(f)
		_ = f.Close() // the first error counts
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &LockedError{Path: path, PID: pid}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

// Keep makes the lock survive an exec: the next program takes it over by
// passing fd to Adopt.
func (l *Lock) Keep() (fd int, err error) {
	fd = int(l.f.Fd())
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		return 0, fmt.Errorf("pass on lock: %w", err)
	}
	return fd, nil
}

// Adopt takes over the lock at path from the descriptor that the previous
// program got from Keep.
func Adopt(fd int, path string) (*Lock, error) {
	// Make no os.File before the descriptor is known to be the lock: the
	// garbage collector would close it, even if the number is that of another
	// file.
	var have unix.Stat_t
	want, err := host.Root("").Stat(path)
	if err = errors.Join(err, unix.Fstat(fd, &have)); err != nil {
		return nil, fmt.Errorf("take over lock: %w", err)
	}
	if st, ok := want.Sys().(*syscall.Stat_t); !ok || have.Dev != st.Dev || have.Ino != st.Ino {
		return nil, fmt.Errorf("take over lock: descriptor %d is not %s", fd, path)
	}
	unix.CloseOnExec(fd)
	l := &Lock{os.NewFile(uintptr(fd), path)}
	if err := flock(l.f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("take over lock: %w", err)
	}
	return l, nil
}

// Release releases the lock. The file stays: if it were removed, two agents
// could hold two files of the same name.
func (l *Lock) Release() error {
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func readPID(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0) // a short read is the normal case
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	return pid
}

// Life is what could be found out about the agent's process.
type Life struct {
	Known   bool   `json:"known"` // false: it could not be found out
	Running bool   `json:"running"`
	PID     int    `json:"pid,omitempty"`
	How     string `json:"how"` // lock, process, or why it is not known
}

// Probe finds out whether the agent runs: by the lock, which only root can
// open, else by the process id and start time in the snapshot. proc is "/proc".
func Probe(lockPath, proc string, s Snapshot) Life {
	f, err := machine.Open(lockPath)
	switch {
	case err == nil:
		defer f.Close() // releases the lock, too
		err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			return Life{Known: true, Running: true, PID: readPID(f), How: "lock"}
		case err == nil:
			return Life{Known: true, How: "lock"}
		}
	case errors.Is(err, fs.ErrNotExist):
		return Life{Known: true, How: "no lock file"}
	}
	if s.Agent.PID == 0 {
		return Life{How: "only root can read the lock, and no status snapshot has a process ID"}
	}
	ticks, err := StartTicks(proc, s.Agent.PID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// With hidepid, processes of other users, including init, seem not to
		// exist; then the absence of a process means nothing.
		if _, err := machine.Stat(proc + "/1"); err != nil {
			return Life{How: "processes of other users are hidden; run as root"}
		}
		return Life{Known: true, How: "process"}
	case err != nil:
		return Life{How: err.Error()}
	case s.Agent.StartTicks != 0 && ticks != s.Agent.StartTicks:
		return Life{Known: true, How: "process"} // another process has this id
	}
	return Life{Known: true, Running: true, PID: s.Agent.PID, How: "process"}
}

// Believed reports whether the name and the command line of a process of the
// machine below root can be believed; see process.Believed.
func Believed(root string, pid int) bool { return process.Believed(cmp.Or(root, "/"), pid) }

// StartTicks returns when a process started, in clock ticks since boot: field
// 22 of /proc/PID/stat. A process id together with its start time is unique.
func StartTicks(proc string, pid int) (uint64, error) {
	data, err := machine.ReadBounded(proc+"/"+strconv.Itoa(pid)+"/stat", 64<<10)
	if err != nil {
		return 0, err
	}
	// The name in brackets may hold blanks and brackets: count from the last.
	_, rest, ok := strings.Cut(string(data[max(0, strings.LastIndexByte(string(data), ')')):]), ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("%s/%d/stat: unexpected form", proc, pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

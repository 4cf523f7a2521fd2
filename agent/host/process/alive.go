package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Signal sends a signal to this process, and never to a later one with the
// same process id. It is no error if the process is gone.
func (p Info) Signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil
	case err == nil:
		defer unix.Close(fd)
	}
	if !Alive(p.PID, p.Ticks) {
		return nil
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	} else {
		err = unix.ENOSYS // a kernel before Linux 5.3
	}
	if errors.Is(err, unix.ENOSYS) {
		err = unix.Kill(p.PID, sig)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// Kill sends SIGKILL to the process that started at ticks, and waits until it
// is gone or the context ends.
func Kill(ctx context.Context, pid int, ticks uint64) error {
	if err := (Info{PID: pid, Ticks: ticks}).Signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for Alive(pid, ticks) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill process %d: %w", pid, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// StartTicks is when a process started, in clock ticks since boot, 0 if there
// is none. Process id and start time together identify a process within one
// boot, and exec changes neither.
func StartTicks(pid int) uint64 {
	f := statFields(strconv.Itoa(pid))
	if len(f) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}

// TicksAt converts a time of CLOCK_MONOTONIC to the clock of Info.Ticks, which
// runs while the machine is suspended, too: it is right if the machine was not
// suspended since.
func TicksAt(monotonic time.Duration) uint64 {
	var boot, mono unix.Timespec
	// They can't fail for these clocks.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)
	return uint64(max(0, int64(monotonic)+boot.Nano()-mono.Nano())) / tick
}

// tick is the length of a clock tick in what the kernel tells programs.
const tick = uint64(time.Second) / 100

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

// Alive reports whether pid is still the process that started at ticks, and
// not a zombie. With ticks 0 any process with this id counts.
func Alive(pid int, ticks uint64) bool {
	if pid <= 0 {
		return false
	}
	f := statFields(strconv.Itoa(pid))
	if len(f) < 20 || ended(f) && !threads(pid) {
		return false
	}
	return ticks == 0 || StartTicks(pid) == ticks
}

func ended(f []string) bool { return f[0] == "Z" || f[0] == "X" }

// threads reports whether a process whose first thread has ended still has
// others. SIGKILL ends them one by one, and until the last is gone the process
// has its files open and holds its locks.
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

package process

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Normalize undoes what this process has inherited from whoever has started
// it, as far as the processes that it starts would inherit it in turn:
// descriptors, ignored and blocked signals, the umask. Call it before anything
// is started.
//
// If signals are blocked, which only a program without threads can change, it
// executes this program once more, with the same arguments and environment.
func Normalize() error {
	unix.Umask(0o022)
	ignored, blocked, err := inheritedSignals()
	if err == nil && blocked != 0 {
		err = unblock() // with its descriptors
	}
	closeOnExec(firstOther)
	if err != nil {
		return err
	}
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if ignored&bit(sig) == 0 {
			continue
		}
		// Go installs a handler for most signals, which execve then sets to the
		// default. It leaves these two ignored, and does not touch others.
		if sig == unix.SIGHUP || sig == unix.SIGINT {
			Swallow(sig)
			continue
		}
		_ = setAction(sig, sigDefault)
	}
	return nil
}

// Swallow ignores signals for as long as this process lives. In contrast to
// signal.Ignore, processes that it starts do not inherit that, and a shell
// script among them can set a trap for these signals.
func Swallow(sigs ...os.Signal) {
	// Nobody receives from it; a signal that finds it full is dropped.
	signal.Notify(make(chan os.Signal, 1), sigs...)
}

// Exec replaces the program of this process with another version of the agent,
// and returns only if that failed. Signals that are no reason to end the agent
// stay ignored until the new program handles them, which takes milliseconds: it
// would die of them otherwise.
func Exec(path string, args, env []string) error {
	harmless := []syscall.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM}
	before := make([]sigaction, len(harmless))
	for i, sig := range harmless {
		if err := swapAction(sig, &sigaction{handler: sigIgnore}, &before[i]); err != nil {
			return err
		}
	}
	err := syscall.Exec(path, args, env)
	for i, sig := range harmless {
		_ = swapAction(sig, &before[i], nil)
	}
	return err
}

// firstOther is the first descriptor after those that every program has.
const firstOther = 3

// lastSignal is the highest signal number of Linux.
const lastSignal = 64

func bit(sig syscall.Signal) uint64 { return 1 << (sig - 1) }

// inheritedSignals returns the signals, as bits, that this process ignores and
// that it had blocked when it was started.
func inheritedSignals() (ignored, blocked uint64, err error) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, 0, fmt.Errorf("read own signals: %w", err)
	}
	for line := range bytes.Lines(b) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		switch name {
		case "SigIgn":
			ignored, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		case "SigBlk":
			blocked, err = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read own signals: %w", err)
		}
	}
	return ignored, blocked, nil
}

// againVariable is set in the environment of a program that unblock executes,
// so that it does so once only.
const againVariable = "AZGUEST_UNBLOCKED"

// unblock executes this program anew without blocked signals.
func unblock() error {
	if slices.Contains(os.Environ(), againVariable+"=1") {
		return errors.New("unblock signals: they are blocked again")
	}
	runtime.LockOSThread() // execve takes the mask of the calling thread
	defer runtime.UnlockOSThread()
	var none uint64
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0); errno != 0 {
		return fmt.Errorf("unblock signals: %w", errno)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil || strings.HasSuffix(exe, " (deleted)") {
		exe = "/proc/self/exe"
	}
	if err := Exec(exe, os.Args, append(os.Environ(), againVariable+"=1")); err != nil {
		return fmt.Errorf("unblock signals: %w", err)
	}
	return nil
}

// closeOnExec marks all descriptors from first on, so that no process inherits
// them.
func closeOnExec(first int) {
	if unix.CloseRange(uint(first), math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11.
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range fds {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}

// sigaction is the kernel's struct of this name, on amd64 and arm64.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const sigDefault, sigIgnore = 0, 1

func setAction(sig syscall.Signal, handler uintptr) error {
	return swapAction(sig, &sigaction{handler: handler}, nil)
}

func swapAction(sig syscall.Signal, action, before *sigaction) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(action)), uintptr(unsafe.Pointer(before)), unsafe.Sizeof(action.mask), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

package process

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// AsService gives this process, and what it starts from then on, what a service
// gets, whatever the agent's unit or the agent itself was given: no protection
// from the OOM killer, the umask 0022, normal priorities, and processors and
// resource limits as process 1 has them. An administrator who throttles the agent does
// not mean the software that it installs, which may run for years. Errors are
// ignored: where that is not permitted, the process keeps what it has.
func AsService() {
	SetTimerSlack(ExactTimers)
	_ = setOOMScore(0)
	unix.Umask(0o022)
	raiseLimits()
	var cpus unix.CPUSet
	aerr := unix.SchedGetaffinity(1, &cpus)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads { // later threads inherit it
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		var normal struct{ priority int32 }
		_, _, _ = unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), unix.SCHED_NORMAL, uintptr(unsafe.Pointer(&normal)))
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), 0) // class none: by nice
		_ = unix.Setpriority(unix.PRIO_PROCESS, tid, 0)
		if aerr == nil {
			_ = unix.SchedSetaffinity(tid, &cpus)
		}
	}
}

const ioprioWhoProcess = 1

// serviceFiles is the soft limit of open files that the kernel and systemd give
// a program. It is not raised further: some programs close each descriptor up to
// the limit.
const serviceFiles = 1024

// raiseLimits raises resource limits that are lower than those of process 1. The
// ones that service managers raise for themselves alone (memory that is locked,
// open files) are left as they are, apart from a limit of open files that is
// lower than usual. That for core files is raised for services, too
// (DefaultLimitCORE= of systemd-system.conf(5)).
func raiseLimits() {
	var files unix.Rlimit
	for _, what := range []int{unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_STACK, unix.RLIMIT_CORE, unix.RLIMIT_RSS, unix.RLIMIT_NPROC, unix.RLIMIT_AS, unix.RLIMIT_LOCKS, unix.RLIMIT_SIGPENDING, unix.RLIMIT_MSGQUEUE, unix.RLIMIT_RTTIME} {
		var ours, first unix.Rlimit
		if unix.Getrlimit(what, &ours) != nil || unix.Prlimit(1, what, nil, &first) != nil || ours.Cur >= first.Cur && ours.Max >= first.Max {
			continue
		}
		_ = unix.Setrlimit(what, &unix.Rlimit{Cur: max(ours.Cur, first.Cur), Max: max(ours.Max, first.Max)})
	}
	// Go raises the soft limit for this process alone.
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &files) == nil && files.Max < serviceFiles {
		// After this call, what this process starts gets this limit.
		_ = syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: serviceFiles, Max: serviceFiles})
	}
}

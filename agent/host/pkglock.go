package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/process"
)

// A packageLock is a file that shows that a program changes the installed
// packages. pid means that it contains a process id; it outlives a process that
// was killed. The others are locked, which the kernel ends with the process.
type packageLock struct {
	path string
	pid  bool
}

// packageLocks are those of the package managers. Where they are is a fact of
// each of them: dpkg and apt, rpm, dnf 5, tdnf, apk; yum, dnf 4, zypper (libzypp
// and its helper). The script that updates Debian systems (apt.systemd.daily)
// runs apt-get and unattended-upgrade in turn, and holds daily_lock meanwhile.
var packageLocks = []packageLock{
	{path: "/var/lib/dpkg/lock-frontend"},
	{path: "/var/lib/dpkg/lock"},
	{path: "/var/lib/apt/lists/lock"},
	{path: "/var/lib/apt/daily_lock"},
	{path: "/var/lib/rpm/.rpm.lock"},
	{path: "/usr/lib/sysimage/rpm/.rpm.lock"},
	{path: "/run/dnf/rpmtransaction.lock"},
	{path: "/run/.tdnf-instance-lockfile"},
	{path: "/lib/apk/db/lock"},
	{path: "/run/yum.pid", pid: true},
	{path: "/var/lib/dnf/rpmdb_lock.pid", pid: true},
	{path: "/run/zypp.pid", pid: true},
	{path: "/run/zypp-rpm.pid", pid: true},
}

// PackageLock says which process is changing the installed packages, which
// only one can do at a time: "apt-get (process 1234)" and the process id, or 0
// where the kernel does not tell it. If there is none, who is "".
func PackageLock(root Root) (who string, pid int) {
	for _, l := range packageLocks {
		pid, held := 0, false
		if l.pid {
			pid, held = pidHolder(root, l.path)
		} else {
			pid, held = lockHolder(root.Path(l.path))
		}
		if held {
			return processName(pid), pid
		}
	}
	return "", 0
}

// pidHolder finds the living process that has written its id into a file. A
// process that started after the file was written has only got the same id.
func pidHolder(root Root, name string) (pid int, held bool) {
	b, err := root.ReadBounded(name, 64)
	if err != nil {
		return 0, false
	}
	fi, err := root.Lstat(name)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(strings.TrimRight(string(b), "\x00")))
	if err != nil || pid <= 1 {
		return 0, false
	}
	ticks := process.StartTicks(pid)
	if !process.Alive(pid, ticks) {
		return 0, false
	}
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // can't fail for this clock
	age := time.Duration(now.Nano()) - time.Duration(ticks)*(time.Second/100)
	return pid, time.Since(fi.ModTime()) <= age+pidSlack
}

// pidSlack is how much the two clocks of pidHolder may differ.
const pidSlack = 2 * time.Second

// lockHolder finds the process that has locked a file for writing. Read locks
// do not matter: rpm takes one for every query.
func lockHolder(path string) (pid int, held bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK {
		return max(0, int(lock.Pid)), true // -1 for a lock that belongs to no one process
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0, false
	}
	return flockHolder(fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino))
}

// flockHolder finds the process that has locked a file with flock, which tdnf
// and apk do. Trying would take the lock from them for a moment, so the kernel's
// list is read (proc_locks(5)); id is how it names the file.
func flockHolder(id string) (pid int, held bool) {
	b, err := Root("").ReadBounded("/proc/locks", 1<<20)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		// 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
		if f := strings.Fields(line); len(f) >= 6 && f[1] == "FLOCK" && f[3] == "WRITE" && f[5] == id {
			pid, _ := strconv.Atoi(f[4])
			return max(0, pid), true
		}
	}
	return 0, false
}

func processName(pid int) string {
	if pid <= 0 {
		return "another program"
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%s (process %d)", strings.TrimSpace(string(b)), pid)
}

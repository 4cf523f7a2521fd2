package host

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock files of package managers: packageLocks are locked with fcntl,
// packagePIDs contain a process id.
var (
	packageLocks = []string{
		"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock",
		"/var/lib/rpm/.rpm.lock", "/usr/lib/sysimage/rpm/.rpm.lock", "/lib/apk/db/lock",
	}
	packagePIDs = []string{"/run/yum.pid", "/run/zypp.pid", "/var/lib/dnf/rpmdb_lock.pid"}
)

// PackageLock says which process is changing the installed packages, which
// only one can do at a time: "apt-get (process 1234)" and the process id, or 0
// where the kernel does not tell it. If there is none, who is "".
func PackageLock(root Root) (who string, pid int) {
	for _, name := range packageLocks {
		if pid, held := lockHolder(root.Path(name)); held {
			return processName(pid), pid
		}
	}
	for _, name := range packagePIDs {
		b, err := root.ReadFile(name)
		if err != nil {
			continue
		}
		// The file outlives a process that was killed.
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err == nil && pid > 1 && unix.Kill(pid, 0) == nil {
			return processName(pid), pid
		}
	}
	return "", 0
}

// lockHolder finds the process that has locked a file for writing. Read locks
// do not matter: rpm takes one for every query.
func lockHolder(path string) (pid int, held bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &lock) != nil || lock.Type == unix.F_UNLCK {
		return 0, false
	}
	return max(0, int(lock.Pid)), true // -1 for a lock that belongs to no one process
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

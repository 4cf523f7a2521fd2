package provisioning

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// A PackageLock is a package manager at work: extensions that install
// packages would fail beside it (asks U13).
type PackageLock struct {
	File string
	PID  int
	Name string // of the process, as the kernel calls it
}

func (l PackageLock) String() string {
	return fmt.Sprintf("waiting for the lock %s held by %s (pid %d)", l.File, l.Name, l.PID)
}

// FindPackageLock asks the kernel who holds the lock of a package manager;
// false if nobody does. No lock is taken.
func FindPackageLock(r host.Root) (PackageLock, bool) {
	for _, name := range []string{"/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock", "/var/lib/rpm/.rpm.lock", "/usr/lib/sysimage/rpm/.rpm.lock", "/lib/apk/db/lock"} {
		f, err := r.Open(name)
		if err != nil {
			continue
		}
		// With a read lock asked for, only a writer is in the way.
		lk := unix.Flock_t{Type: unix.F_RDLCK}
		err = errors.Join(unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lk), f.Close())
		if err != nil || lk.Type == unix.F_UNLCK || lk.Pid <= 0 {
			continue
		}
		l := PackageLock{File: name, PID: int(lk.Pid), Name: "a process"}
		if b, err := r.ReadFile(fmt.Sprintf("/proc/%d/comm", l.PID)); err == nil {
			l.Name = strings.TrimSpace(string(b))
		}
		return l, true
	}
	return PackageLock{}, false
}

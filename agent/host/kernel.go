package host

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Kernel is what the agent asks of the kernel itself rather than of a file
// or a program. It is a struct of functions so that a test can replace one
// of them; a nil function is an answer of "not supported here".
type Kernel struct {
	HostName    func() (string, error)
	SetHostName func(string) error
	// Signal sends sig to a process.
	Signal func(pid int, sig unix.Signal) error
}

// LinuxKernel is the real one. As with Exec, only agent/cmd/azguest and
// tests inside a sandbox may name it.
func LinuxKernel() Kernel {
	return Kernel{
		HostName: os.Hostname,
		SetHostName: func(name string) error {
			if err := unix.Sethostname([]byte(name)); err != nil {
				return fmt.Errorf("sethostname: %w", err)
			}
			return nil
		},
		Signal: unix.Kill,
	}
}

package host

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/process"
)

// Kernel is what the agent asks of the kernel directly rather than through a
// file or a program. It is a struct of functions so that a test can replace
// one of them; a nil function means "not supported here".
type Kernel struct {
	HostName    func() (string, error)
	SetHostName func(string) error
	// Signal sends sig to a process.
	Signal func(pid int, sig unix.Signal) error
	// EndProcesses ends everything that a user runs; the error names what is
	// left.
	EndProcesses func(context.Context, process.Revoked) error
	// RemoveIPC removes the user's System V shared memory, semaphores and
	// queues.
	RemoveIPC func(uid int) error
	// InSession reports whether this process works in a session of the user.
	InSession func(uid int) bool
	// Links listens to link events from now on; see OpenLinks.
	Links func() (next func(context.Context) ([]LinkEvent, error), end func(), err error)
	// Routes listens to changes of addresses and routes from now on; see
	// OpenRoutes.
	Routes func() (next func(context.Context) error, end func(), err error)
}

// LinuxKernel returns the functions of the real kernel. As with Exec, only
// agent/cmd/azguest and tests inside a sandbox may name it.
func LinuxKernel() Kernel {
	return Kernel{
		HostName: os.Hostname,
		SetHostName: func(name string) error {
			if err := unix.Sethostname([]byte(name)); err != nil {
				return fmt.Errorf("sethostname: %w", err)
			}
			return nil
		},
		Signal:       unix.Kill,
		EndProcesses: process.EndUser,
		RemoveIPC:    process.RemoveIPC,
		InSession:    process.InSession,
		Links: func() (func(context.Context) ([]LinkEvent, error), func(), error) {
			l, err := OpenLinks()
			if err != nil {
				return nil, nil, err
			}
			return l.Next, func() { _ = l.Close() }, nil
		},
		Routes: func() (func(context.Context) error, func(), error) {
			l, err := OpenRoutes()
			if err != nil {
				return nil, nil, err
			}
			next := func(ctx context.Context) error {
				_, err := l.Next(ctx)
				return err
			}
			return next, func() { _ = l.Close() }, nil
		},
	}
}

package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
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
	// DialSelf connects to a TCP port of this machine, given as host:port. In
	// place of an unspecified host it takes an address by which others reach
	// the machine, if there is one.
	DialSelf func(ctx context.Context, addr string) (net.Conn, error)
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
		DialSelf:     dialSelf,
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

// dialSelf is Kernel.DialSelf.
func dialSelf(ctx context.Context, addr string) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("connect to this machine: %w", err)
	}
	if ap.Addr().IsUnspecified() {
		ap = netip.AddrPortFrom(ownAddress(ap.Addr().Is4()), ap.Port())
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", ap.String())
	if err != nil {
		return nil, fmt.Errorf("connect to this machine: %w", err)
	}
	return conn, nil
}

// ownAddress returns a private IPv4 address of the machine, else the loopback
// address of the family.
func ownAddress(v4 bool) netip.Addr {
	if !v4 {
		return netip.IPv6Loopback()
	}
	addrs, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsPrivate() {
				return p.Addr()
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

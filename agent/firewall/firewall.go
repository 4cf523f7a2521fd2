// Package firewall keeps ordinary users and containers away from the
// platform's address, which hands root-equivalent secrets to whoever can
// connect (protocol/SPEC.md §15).
//
// The rules live in one nftables table of our own, put in place over netlink
// in one transaction: no other table is read or changed (but for the one that
// the Python agent may have left), and replacing the rules leaves no gap.
// Only the first packet of TCP connections is judged: of local processes,
// where root's is accepted and every other dropped, and of anything forwarded
// for a container or another network. Connection tracking is not asked: it
// would be switched on for the whole machine, and root's own packets can be
// classified invalid. DNS (port 53), UDP and everything that comes from the
// platform (load balancer probes) pass.
//
// The rules are never taken away to find something out. Whether they stop the
// agent itself is answered by a counter in them ([Firewall.Root]).
//
// Other firewalls flush what is not theirs. The table of a [Firewall] that is
// kept is owned by its socket, so that they can't; where the kernel does not
// know that (before 6.9), [Watch] tells when the table is gone, and two routing
// rules, which no firewall knows of, keep users out meanwhile.
//
// What does not pass through this machine's IP stack is not seen: containers
// and virtual machines that root has connected to the network beside it
// (macvlan, ipvlan, a bridge with the network card in it).
//
// Where the kernel has no nftables four rules go to the iptables table
// "security": three like those of the classic agent, and one for what is
// forwarded (protocol/SPEC.md §15.1).
package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// TableName is the nftables table; family ip.
const TableName = "azguest"

// Backend says which kernel facility holds the rules.
type Backend string

const (
	NFTables Backend = "nftables"
	IPTables Backend = "iptables"
	None     Backend = "none"
)

// Error says which part went wrong, with a stable code for agentctl.
type Error struct {
	code string
	err  error
}

func (e *Error) Error() string { return e.err.Error() }
func (e *Error) Unwrap() error { return e.err }

// Code is AZ-FW-APPLY (rules could not be set) or AZ-FW-REVERTED (they were
// taken back because the agent itself lost the platform).
func (e *Error) Code() string { return e.code }

// A Firewall protects one address.
type Firewall struct {
	addr   netip.Addr
	run    host.Runner
	target netip.AddrPort
	root   uint32 // whose connections pass: 0
	// reach makes a connection as the agent does.
	reach func(context.Context) error

	keep   bool
	mu     sync.Mutex // guards what follows
	socket *socket    // owns the table, if it is kept and that is possible
}

// New returns a firewall for the platform's address. port is one that must
// stay reachable for root: 80.
func New(addr netip.Addr, port uint16, run host.Runner) *Firewall {
	target := netip.AddrPortFrom(addr, port)
	return &Firewall{addr: addr, run: run, target: target, reach: func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.String())
		if err != nil {
			return err
		}
		return c.Close()
	}}
}

// Keep is New for who stays: until Close, or the end of the process, no other
// process can take the table away, where the kernel can promise that. The
// rules stay when it ends.
func Keep(addr netip.Addr, port uint16, run host.Runner) *Firewall {
	f := New(addr, port, run)
	f.keep = true
	return f
}

// Close lets go of the table, which stays.
func (f *Firewall) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.socket != nil {
		f.socket.close()
		f.socket = nil
	}
}

// Apply puts the rules in place, or leaves them if they are there and whole;
// changed tells whether they were not. An error is AZ-FW-APPLY.
func (f *Firewall) Apply(ctx context.Context) (backend Backend, changed bool, err error) {
	if !f.addr.Is4() || f.addr.IsLoopback() {
		return None, false, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// Beside the table, and no reason to do without it.
	routes := setRoutes(f.addr)
	ok, err := present(plan(f.addr, f.root))
	switch {
	case ok && (!f.keep || f.socket != nil):
		return NFTables, false, nil
	case err != nil && f.iptablesPresent(ctx):
		return IPTables, false, nil
	}
	backend, err = f.set(ctx)
	switch {
	case err != nil && ok:
		return NFTables, false, nil // another process of the agent keeps them
	case err != nil:
		return None, false, &Error{"AZ-FW-APPLY", fmt.Errorf("set firewall rules: %w", errors.Join(err, routes))}
	}
	return backend, !ok, nil
}

// set puts the table in place, or the rules of iptables.
func (f *Firewall) set(ctx context.Context) (Backend, error) {
	s := f.socket
	if s == nil {
		var err error
		if s, err = dial(unix.NETLINK_NETFILTER); err != nil {
			return None, err
		}
	}
	chains, flags := plan(f.addr, f.root), uint32(0)
	if f.keep {
		flags = tableOwner | tablePersist
	}
	err := s.replace(chains, flags)
	if flags != 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
		err = s.replace(chains, 0) // a kernel before 6.9, or without nftables
	}
	if f.keep && err == nil {
		f.socket = s
	} else {
		s.close()
		f.socket = nil
	}
	if err == nil {
		return NFTables, nil
	}
	if !missing(err) {
		return None, err
	}
	if ierr := f.iptables(ctx); ierr != nil {
		return None, errors.Join(err, ierr)
	}
	return IPTables, nil
}

// Remove takes all our rules away; that there are none is fine.
func (f *Firewall) Remove(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.socket
	if s == nil {
		var err error
		if s, err = dial(unix.NETLINK_NETFILTER); err != nil {
			return err
		}
	}
	err := s.remove()
	s.close()
	f.socket = nil
	if missing(err) {
		// Only then can there be rules of the other kind.
		err = f.removeIPTables(ctx)
	}
	if rerr := setRoutes(netip.Addr{}); rerr != nil && !noRoutes(rerr) {
		err = errors.Join(err, rerr)
	}
	return err
}

// missing says that the kernel does not know nftables.
func missing(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) ||
		errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT)
}

// noRoutes says that the kernel has no routing rules.
func noRoutes(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

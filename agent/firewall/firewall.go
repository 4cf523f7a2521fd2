// Package firewall blocks ordinary users and containers from the platform's
// address, which gives root-equivalent secrets to everyone who can connect
// (protocol/SPEC.md §15).
//
// The rules are in an nftables table of their own, set over netlink in one
// transaction: no other table is read or changed (except one that the classic
// agent may have left), and replacing the rules leaves no gap. Only the first
// packet of a TCP connection is matched. Of local processes, root's are
// accepted and all others dropped; those forwarded for a container or another
// network are dropped. Connection tracking is not used: it would be enabled for
// the whole machine, and root's own packets can be classified invalid. DNS
// (port 53), UDP and everything that comes from the platform (load balancer
// probes) pass.
//
// The rules are never removed for a test. Whether they block the agent itself
// is shown by a counter in them ([Firewall.Root]).
//
// Other firewalls flush tables that are not theirs. The table of a [Firewall]
// made with [Keep] is owned by its socket, so that they can't. Where the kernel
// does not support that (before 6.9), [Watch] reports when the table is gone,
// and two routing rules, which firewalls do not manage, block users meanwhile.
//
// Traffic that does not pass through this machine's IP stack is not matched:
// that of containers and virtual machines that root has connected directly to
// the network (macvlan, ipvlan, a bridge with the network card in it).
//
// If the kernel has no nftables, four rules are added to the iptables table
// "security": three like those of the classic agent, and one for forwarded
// packets (protocol/SPEC.md §15.1).
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

// TableName is the name of the nftables table, of family ip.
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
// removed because the agent itself lost the platform).
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
	socket *socket    // owns the table, if keep is set and the kernel supports that
}

// New returns a firewall for the platform's address. port must stay reachable
// for root: 80.
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

// Keep is like New, but until Close or the end of the process, no other process
// can remove the table, if the kernel supports that. The rules stay afterwards.
func Keep(addr netip.Addr, port uint16, run host.Runner) *Firewall {
	f := New(addr, port, run)
	f.keep = true
	return f
}

// Close gives up the ownership of the table. The rules stay.
func (f *Firewall) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.socket != nil {
		f.socket.close()
		f.socket = nil
	}
}

// Apply sets the rules, unless they are in place and complete; changed reports
// whether they were not. The code of an error is AZ-FW-APPLY.
func (f *Firewall) Apply(ctx context.Context) (backend Backend, changed bool, err error) {
	if !f.addr.Is4() || f.addr.IsLoopback() {
		return None, false, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// In addition to the table; the table is set even if this fails.
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

// set replaces the table, or the rules of iptables.
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

// Remove removes all rules of the agent. It is not an error if there are none.
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
		// iptables is used only without nftables.
		err = f.removeIPTables(ctx)
	}
	if rerr := setRoutes(netip.Addr{}); rerr != nil && !noRoutes(rerr) {
		err = errors.Join(err, rerr)
	}
	return err
}

// missing reports whether the kernel lacks nftables.
func missing(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) ||
		errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT)
}

// noRoutes reports whether the kernel lacks routing rules.
func noRoutes(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT)
}

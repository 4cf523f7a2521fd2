// Package firewall keeps ordinary users and containers away from the
// platform's address, which hands root-equivalent secrets to whoever can
// connect (asks S1).
//
// The rules live in one nftables table of our own, put in place over netlink
// in one transaction: no other table is read or changed, and replacing the
// rules leaves no gap (asks U09). Only new TCP connections are judged: of
// local processes that are not root, and of anything forwarded for a
// container or another network. Root is never judged by connection state,
// because root's own packets can be classified invalid. DNS (port 53), UDP
// and everything that comes from the platform (load balancer probes) pass.
//
// Where the kernel has no nftables the same three rules go to the iptables
// table "security", as the Python agent does it (spec/protocol §12.1).
package firewall

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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

// Code is AZ-FW-APPLY (rules could not be set) or AZ-FW-SELFTEST (they were
// taken back because the agent itself lost the platform).
func (e *Error) Code() string { return e.code }

// A Firewall protects one address.
type Firewall struct {
	addr netip.Addr
	run  host.Runner
	// reach is how the self-test asks whether root still gets through.
	reach func(context.Context) error
}

// New returns a firewall for the platform's address. port is one that must
// stay reachable for root: 80.
func New(addr netip.Addr, port uint16, run host.Runner) *Firewall {
	target := netip.AddrPortFrom(addr, port).String()
	return &Firewall{addr: addr, run: run, reach: func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
		if err != nil {
			return err
		}
		return c.Close()
	}}
}

// Apply puts the rules in place, or leaves them if they are there and
// whole. If root could reach the address before and can't after, the rules
// are taken back: a firewall that cuts off its own agent is worse than none.
func (f *Firewall) Apply(ctx context.Context) (Backend, error) {
	if !f.addr.Is4() || f.addr.IsLoopback() {
		return None, nil
	}
	ok, err := present(f.addr)
	if err == nil && ok {
		return NFTables, nil
	}
	before := f.reach(ctx)
	backend, err := f.set(ctx)
	if err != nil {
		return None, &Error{"AZ-FW-APPLY", fmt.Errorf("set firewall rules: %w", err)}
	}
	if before != nil {
		return backend, nil //nolint:nilerr // nothing to compare with; the next check will
	}
	if after := f.reach(ctx); after != nil && ctx.Err() == nil {
		err := fmt.Errorf("platform unreachable after setting firewall rules, taken back: %w", after)
		return None, &Error{"AZ-FW-SELFTEST", errors.Join(err, f.Remove(ctx))}
	}
	return backend, nil
}

func (f *Firewall) set(ctx context.Context) (Backend, error) {
	err := replace(f.addr)
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
	err := remove()
	if missing(err) {
		// Only then can there be rules of the other kind.
		return f.removeIPTables(ctx)
	}
	return err
}

// missing says that the kernel does not know nftables.
func missing(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) ||
		errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT)
}

// Package firewall keeps ordinary users and containers away from the
// platform's address, which hands root-equivalent secrets to whoever can
// connect (asks S1).
//
// The rules live in one nftables table of our own, put in place over netlink
// in one transaction: no other table is read or changed (but for the one that
// the Python agent may have left), and replacing the rules leaves no gap (asks
// U09). Only the first packet of TCP connections is judged: of local processes
// that are not root, and of anything forwarded for a container or another
// network. Connection tracking is not asked: it would be switched on for the
// whole machine, and root's own packets can be classified invalid. DNS (port
// 53), UDP and everything that comes from the platform (load balancer probes)
// pass.
//
// Where the kernel has no nftables the same three rules go to the iptables
// table "security", as the Python agent does it (spec/protocol §12.1).
//
// [Watch] tells when somebody takes the rules away, [Firewall.Exposed] finds
// out whether they do what they are for.
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

// Code is AZ-FW-APPLY (rules could not be set) or AZ-FW-REVERTED (they were
// taken back because the agent itself lost the platform).
func (e *Error) Code() string { return e.code }

// A Firewall protects one address.
type Firewall struct {
	addr   netip.Addr
	run    host.Runner
	target netip.AddrPort
	// reach is how the self-test asks whether root still gets through.
	reach func(context.Context) error
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

// Apply puts the rules in place, or leaves them if they are there and
// whole; changed tells which. If root could reach the address before and can't after, the rules
// are taken back: a firewall that cuts off its own agent is worse than none.
func (f *Firewall) Apply(ctx context.Context) (backend Backend, changed bool, err error) {
	if !f.addr.Is4() || f.addr.IsLoopback() {
		return None, false, nil
	}
	ok, err := present(f.addr)
	if err == nil && ok {
		return NFTables, false, nil
	}
	if missing(err) && f.iptablesPresent(ctx) {
		return IPTables, false, nil
	}
	// The rules are set first and only doubt is looked into: to ask before
	// would leave the address open for as long as the answer takes.
	var lost error
	for range 2 { // once may be chance
		if backend, err = f.set(ctx); err != nil {
			return None, false, &Error{"AZ-FW-APPLY", fmt.Errorf("set firewall rules: %w", err)}
		}
		if lost = f.reach(ctx); lost == nil || ctx.Err() != nil {
			return backend, true, nil //nolint:nilerr // a context that ends proves nothing
		}
		if err := f.Remove(ctx); err != nil {
			return None, false, &Error{"AZ-FW-REVERTED", errors.Join(reverted(lost), err)}
		}
		if f.reach(ctx) == nil {
			continue
		}
		// Not our doing: there is nothing to reach, for anybody.
		if backend, err = f.set(ctx); err != nil {
			return None, false, &Error{"AZ-FW-APPLY", fmt.Errorf("set firewall rules: %w", err)}
		}
		return backend, true, nil
	}
	return None, false, &Error{"AZ-FW-REVERTED", reverted(lost)}
}

func reverted(lost error) error {
	return fmt.Errorf("platform unreachable after setting firewall rules, taken back: %w", lost)
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

package platform

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol/discover"
	"github.com/azguest/azguest/protocol/internal/web"
)

// nics opens connections to the platform on a machine with several network
// interfaces. The platform answers on the one that it configured by DHCP, and
// the route with the lowest metric may lead out of another. The
// kernel's choice comes first; when that does not answer within a moment each
// interface is tried, and the one that worked is asked first from then on.
type nics struct {
	plain   web.Dial
	through func(name string) web.Dial
	list    func() []string

	mu   sync.Mutex // guards last
	last string     // interface that worked; "" is the kernel's choice
}

// nicPatience is how long the first choice has before the others are tried
// beside it: SYN and its first repetition.
const nicPatience = 1500 * time.Millisecond

// newNICs makes the dialer for the platform's own addresses. instead stands for
// the network itself in tests, on a machine with one interface.
func newNICs(root host.Root, plain *net.Dialer, instead web.Dial) *nics {
	if instead != nil {
		return &nics{plain: instead, list: func() []string { return nil }}
	}
	through := func(name string) web.Dial {
		d := *plain
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var serr error
			err := c.Control(func(fd uintptr) { serr = unix.BindToDevice(int(fd), name) })
			return errors.Join(err, serr)
		}
		return d.DialContext
	}
	return &nics{plain: plain.DialContext, through: through, list: func() []string { return interfaces(root) }}
}

// interfaces are those that may lead to the platform and have an address to ask
// from.
func interfaces(root host.Root) []string {
	all, err := discover.Uplinks(root)
	if err != nil {
		return nil
	}
	var out []string
	for _, i := range all {
		addrs, err := i.Addrs()
		if err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && n.IP.To4() != nil
		}) {
			out = append(out, i.Name)
		}
	}
	return out
}

// dial is a net.Dialer's DialContext.
func (n *nics) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	first := n.last
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of the attempts that lost
	type result struct {
		name string
		conn net.Conn
		err  error
	}
	results := make(chan result)
	running := 0
	start := func(name string) {
		d := n.plain
		if name != "" {
			d = n.through(name)
		}
		running++
		go func() {
			conn, err := d(ctx, network, addr)
			select {
			case results <- result{name, conn, err}:
			case <-ctx.Done():
				if conn != nil {
					_ = conn.Close() // somebody else was faster
				}
			}
		}()
	}
	start(first)
	patience := time.NewTimer(nicPatience)
	defer patience.Stop()
	late := patience.C
	others := func() {
		late = nil
		names := n.list()
		if len(names) < 2 && first == "" {
			return // the kernel has no choice
		}
		for _, name := range append([]string{""}, names...) {
			if name != first {
				start(name)
			}
		}
	}
	var err error
	for running > 0 || late != nil {
		select {
		case <-ctx.Done():
			// Nobody listens to the attempts any more; each closes what it gets.
			if err == nil {
				err = &net.OpError{Op: "dial", Net: network, Err: context.Cause(ctx)}
			}
			return nil, err
		case <-late:
			others()
		case r := <-results:
			running--
			if r.err == nil {
				n.mu.Lock()
				n.last = r.name
				n.mu.Unlock()
				return r.conn, nil
			}
			if err == nil || r.name == "" {
				err = r.err // the kernel's is the one that people can read
			}
			if late != nil {
				others()
			}
		}
	}
	return nil, err
}

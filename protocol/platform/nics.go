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

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol/discover"
	"github.com/azguest/azguest/protocol/internal/web"
)

// nics opens connections to the platform on a machine with several network
// interfaces. The platform answers on the one that it configured by DHCP, and
// the route with the lowest metric may lead through another. The kernel's
// choice is tried first; when that does not answer within nicPatience each
// interface is tried, and the one that worked is tried first from then on.
type nics struct {
	kernel  web.Dial                   // the interface that the routes choose
	through func(name string) web.Dial // one interface
	list    func() []string            // their names

	mu     sync.Mutex // guards worked
	worked string     // interface that worked last; "" is the kernel's choice
}

// nicPatience is how long the first choice has before the others are tried
// beside it: SYN and its first repetition.
const nicPatience = 1500 * time.Millisecond

// newNICs makes the dialer for the platform's own addresses. A test passes
// instead, which then is the only way to connect.
func newNICs(root host.Root, plain *net.Dialer, instead web.Dial) *nics {
	if instead != nil {
		return &nics{kernel: instead, list: func() []string { return nil }}
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
	return &nics{kernel: plain.DialContext, through: through, list: func() []string { return interfaces(root) }}
}

// interfaces lists the interfaces that may lead to the platform and have an
// IPv4 address to connect from.
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

// dial is a net.Dialer's DialContext. The interface that worked last comes
// first, the others are tried beside it if it fails or needs too long; the first
// connection counts.
func (n *nics) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	r := &race{nics: n, network: network, addr: addr, results: make(chan dialed)}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the attempts that lost
	r.first = n.first()
	r.start(ctx, r.first)
	patience := time.NewTimer(nicPatience)
	defer patience.Stop()
	othersTried := false
	for {
		select {
		case <-ctx.Done():
			// The attempts are not waited for: each closes its connection, and
			// ends with its own time limit at the latest.
			if r.err == nil {
				r.err = &net.OpError{Op: "dial", Net: network, Err: context.Cause(ctx)}
			}
			return nil, r.err
		case <-patience.C:
		case d := <-r.results:
			r.running--
			if d.err == nil {
				n.remember(d.name)
				return d.conn, nil
			}
			r.fail(d)
		}
		if !othersTried {
			othersTried = true
			r.startOthers(ctx)
		}
		if r.running == 0 {
			return nil, r.err
		}
	}
}

func (n *nics) first() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.worked
}

func (n *nics) remember(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.worked = name
}

// race is one dial over several interfaces.
type race struct {
	*nics
	network, addr string
	first         string // interface that was tried first
	results       chan dialed
	running       int   // attempts whose result was not received yet
	err           error // to be returned if all fail
}

// dialed is the result of one attempt.
type dialed struct {
	name string
	conn net.Conn
	err  error
}

// start begins an attempt through an interface, or as the kernel chooses.
func (r *race) start(ctx context.Context, name string) {
	dial := r.kernel
	if name != "" {
		dial = r.through(name)
	}
	r.running++
	go func() {
		defer crash.Guard()
		conn, err := dial(ctx, r.network, r.addr)
		select {
		case r.results <- dialed{name, conn, err}:
		case <-ctx.Done():
			if conn != nil {
				_ = conn.Close() // another one was faster
			}
		}
	}()
}

// startOthers begins all attempts but the first one.
func (r *race) startOthers(ctx context.Context) {
	names := r.list()
	if len(names) < 2 && r.first == "" {
		return // the kernel has no choice
	}
	for _, name := range append([]string{""}, names...) {
		if name != r.first {
			r.start(ctx, name)
		}
	}
}

// fail keeps the most useful error: that of the kernel's choice, which people
// know how to read, else the first one.
func (r *race) fail(d dialed) {
	if r.err == nil || d.name == "" {
		r.err = d.err
	}
}

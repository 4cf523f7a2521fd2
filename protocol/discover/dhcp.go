package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
)

// dhcpWait is how long answers of DHCP servers are waited for.
const dhcpWait = 10 * time.Second

// DHCP asks the network for option 245 with a DHCPDISCOVER on all of the
// Uplinks at once. It is the last resort: nothing is leased or configured, and
// the DHCP client of the machine, if there is one, keeps the port (both use
// SO_REUSEADDR, as WALinuxAgent does). It ends within ten seconds.
func DHCP(ctx context.Context, root host.Root) (netip.Addr, error) {
	ifs, err := Uplinks(root)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("discover by DHCP: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dhcpWait, errors.New("no answer"))
	defer cancel()
	type answer struct {
		addr netip.Addr
		err  error
	}
	answers := make(chan answer, len(ifs))
	for _, i := range ifs {
		go func() {
			defer crash.Guard()
			a, err := ask(ctx, i)
			answers <- answer{a, err}
		}()
	}
	err = errors.New("no network interface")
	for range ifs {
		// wait: each ask ends with the context
		a := <-answers
		if a.err == nil {
			return a.addr, nil
		}
		err = a.err
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return netip.Addr{}, fmt.Errorf("discover by DHCP: %w", err)
}

func ask(ctx context.Context, i net.Interface) (netip.Addr, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var serr error
		err := rc.Control(func(fd uintptr) {
			serr = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), i.Name))
		})
		return errors.Join(err, serr)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:68")
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req, err := Discover(i.HardwareAddr)
	if err != nil {
		return netip.Addr{}, err
	}
	if _, err := conn.WriteTo(req.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
		return netip.Addr{}, err
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return netip.Addr{}, err
		}
		if a := Offer(buf[:n], req); a.IsValid() {
			return a, nil
		}
	}
}

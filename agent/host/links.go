package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A LinkEvent is a change of a network interface, as reported by the kernel.
type LinkEvent struct {
	Name  string
	Index int
	Gone  bool // the interface was removed
	Up    bool // it can carry traffic (operational state up)
}

// Links listens to the kernel's link events from the moment it is opened.
type Links struct{ f *os.File }

// OpenLinks subscribes in the network namespace of the calling thread.
func OpenLinks() (*Links, error) { return subscribe(unix.RTMGRP_LINK) }

// OpenRoutes subscribes to changes of IPv4 addresses and routes instead, such
// as a DHCP client makes. Next then returns without events when there was one.
func OpenRoutes() (*Links, error) {
	return subscribe(unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE)
}

func subscribe(groups uint32) (*Links, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("listen for link events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for link events: %w", err), unix.Close(fd))
	}
	return &Links{os.NewFile(uintptr(fd), "netlink")}, nil
}

// Close ends the subscription.
func (l *Links) Close() error { return l.f.Close() }

// Next waits for events and returns those of one message. If the kernel had to
// drop events (ENOBUFS) it returns none: the caller must look at the
// interfaces itself.
func (l *Links) Next(ctx context.Context) ([]LinkEvent, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.f.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		stop()
		_ = l.f.SetReadDeadline(time.Time{})
	}()
	b := make([]byte, 64<<10)
	n, err := l.f.Read(b)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if errors.Is(err, unix.ENOBUFS) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listen for link events: %w", err)
	}
	return parseLinks(b[:n]), nil
}

// parseLinks reads RTM_NEWLINK and RTM_DELLINK messages (rtnetlink(7)).
func parseLinks(b []byte) []LinkEvent {
	var out []LinkEvent
	for len(b) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return out
		}
		msg := b[unix.SizeofNlMsghdr:n]
		b = b[min(len(b), (n+3)&^3):]
		if (kind != unix.RTM_NEWLINK && kind != unix.RTM_DELLINK) || len(msg) < unix.SizeofIfInfomsg {
			continue
		}
		e := LinkEvent{Index: int(int32(binary.NativeEndian.Uint32(msg[4:]))), Gone: kind == unix.RTM_DELLINK}
		for attr := msg[unix.SizeofIfInfomsg:]; len(attr) >= 4; {
			size := int(binary.NativeEndian.Uint16(attr))
			if size < 4 || size > len(attr) {
				break
			}
			value := attr[4:size]
			switch binary.NativeEndian.Uint16(attr[2:]) {
			case unix.IFLA_IFNAME:
				e.Name = strings.TrimRight(string(value), "\x00")
			case unix.IFLA_OPERSTATE:
				// 6 is IF_OPER_UP; lo and some drivers never say more than 0.
				e.Up = len(value) > 0 && value[0] == 6
			}
			attr = attr[min(len(attr), (size+3)&^3):]
		}
		out = append(out, e)
	}
	return out
}

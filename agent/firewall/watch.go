package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/crash"
)

// Messages of the kernel about nftables (linux/netfilter/nfnetlink.h,
// nf_tables.h).
const (
	groupNFTables = 7
	msgDelTable   = 2
	msgNewChain   = 3
	msgDelChain   = 5
	msgNewRule    = 6
	msgDelRule    = 8
	attrTable     = 1 // the table's name, in each of these messages
)

// Watch calls changed after every change of the agent's table, by whatever
// process, until the context ends. Another firewall that loads its rules
// ("flush ruleset") removes the table, and until the next periodic check,
// everyone could reach the platform.
func Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("watch firewall: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nftables events")
	defer f.Close() // read only
	// A socket without an address does not get most messages.
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (groupNFTables - 1)}); err != nil {
		return fmt.Errorf("watch firewall: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, unix.ENOBUFS):
			changed() // messages were lost, perhaps about our table
		case err != nil:
			return fmt.Errorf("watch firewall: %w", err)
		case touched(buf[:n]):
			changed()
		}
	}
}

// touched reports whether one of the messages is about our table.
func touched(b []byte) bool {
	const header, nfgen = 16, 4
	for len(b) >= header {
		size := int(binary.NativeEndian.Uint32(b))
		if size < header || size > len(b) {
			return false
		}
		kind := binary.NativeEndian.Uint16(b[4:])
		msg := b[header:size]
		b = b[min((size+3)&^3, len(b)):]
		if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(msg) < nfgen+4 || msg[0] != unix.NFPROTO_IPV4 {
			continue
		}
		switch kind & 0xff {
		case msgDelTable, msgNewChain, msgDelChain, msgNewRule, msgDelRule:
		default:
			continue
		}
		attr := msg[nfgen:]
		n := int(binary.NativeEndian.Uint16(attr))
		if n < 4 || n > len(attr) || binary.NativeEndian.Uint16(attr[2:])&^unix.NLA_F_NESTED != attrTable {
			continue
		}
		if string(bytes.TrimRight(attr[4:n], "\x00")) == TableName {
			return true
		}
	}
	return false
}

// nobody is the id of an ordinary user on every distribution, with or without
// an entry in passwd.
const nobody = 65534

// Exposed tries to connect as an ordinary user, which the rules forbid, and
// reports whether that succeeds. A connection that is not made within patience
// counts as blocked; patience should be longer than root's connection takes.
func (f *Firewall) Exposed(ctx context.Context, patience time.Duration) (bool, error) {
	type answer struct {
		open bool
		err  error
	}
	c := make(chan answer, 1)
	go func() {
		defer crash.Guard()
		runtime.LockOSThread()
		open, err := f.connectAs(nobody, patience)
		if back, rerr := unix.SetfsuidRetUid(-1); rerr == nil && back == os.Geteuid() {
			// Otherwise the thread stays locked, so that it ends with this
			// goroutine: a thread with another user id must not be used again.
			runtime.UnlockOSThread()
		}
		c <- answer{open, err}
	}()
	select {
	case a := <-c:
		return a.open, a.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// connectAs makes a connection whose owner is uid. The rules match the user for
// file access with which the socket was made, which is a property of the
// thread.
func (f *Firewall) connectAs(uid int, patience time.Duration) (bool, error) {
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		return false, fmt.Errorf("become uid %d: %w", uid, err)
	}
	defer func() { _, _ = unix.SetfsuidRetUid(os.Geteuid()) }() // the caller checks whether it worked
	if now, _ := unix.SetfsuidRetUid(-1); now != uid {          // it returns no error
		return false, fmt.Errorf("become uid %d: refused", uid)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, fmt.Errorf("create socket: %w", err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(f.target.Port()), Addr: f.target.Addr().As4()})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return false, nil //nolint:nilerr // refused at once: counts as blocked
	}
	until := time.Now().Add(patience)
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for {
		left := time.Until(until)
		if left <= 0 {
			return false, nil
		}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("wait for connection: %w", err)
		}
		if n == 0 {
			return false, nil
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			return false, fmt.Errorf("check connection: %w", err)
		}
		return code == 0, nil
	}
}

// Root measures how long a connection of root takes. If the agent's own rules
// block it, they are removed, and the code of the error is AZ-FW-REVERTED: a
// firewall that cuts off its own agent is worse than none. If only the host
// does not answer, the rules stay.
func (f *Firewall) Root(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	err := f.reach(ctx)
	if err == nil {
		return time.Since(began), nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	err = fmt.Errorf("connect to %s: %w", f.target, err)
	if ctx.Err() != nil || !f.lockedOut() {
		return 0, err
	}
	return 0, &Error{"AZ-FW-REVERTED", errors.Join(
		fmt.Errorf("firewall rules block connections of root and were removed: %w", err), f.Remove(ctx))}
}

// lockedOut sends the first packet of a connection with a mark that only root
// can set, and checks whether it reached the rule that drops. The rules are
// evaluated while it is sent.
func (f *Firewall) lockedOut() bool {
	before, err := refused()
	if err != nil {
		return false
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, probeMark); err != nil {
		return false
	}
	_ = unix.Connect(fd, &unix.SockaddrInet4{Port: int(f.target.Port()), Addr: f.target.Addr().As4()}) // the counter is the answer
	after, err := refused()
	return err == nil && after > before
}

package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A socket is a netlink socket. The kernel processes a request while it is
// sent, so that the answer is there when sending returns: nothing blocks.
type socket struct{ fd int }

func dial(protocol int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &socket{fd}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) } // nothing is lost if it fails

// attribute returns struct nlattr with its payload, padded.
func attribute(kind uint16, parts ...[]byte) []byte {
	b := make([]byte, 4)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	return append(b, make([]byte, -len(b)&3)...)
}

// message returns struct nlmsghdr with its payload.
func message(kind, flags uint16, parts ...[]byte) []byte {
	b := make([]byte, unix.SizeofNlMsghdr)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
	return b
}

// ask sends one request and returns the payloads of the kernel's answers: only
// an error, unless the request is a dump.
func (s *socket) ask(request []byte) (answers [][]byte, err error) {
	if err := unix.Sendto(s.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("netlink", err)
	}
	buf := make([]byte, 64<<10)
	for heard := false; ; heard = true {
		n, _, rerr := unix.Recvfrom(s.fd, buf, 0)
		switch {
		case errors.Is(rerr, unix.EINTR):
			continue
		case errors.Is(rerr, unix.EAGAIN) && heard:
			return answers, err
		case rerr != nil:
			return nil, errors.Join(err, os.NewSyscallError("netlink", rerr))
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return nil, errors.New("netlink: truncated answer")
			}
			kind, payload := binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size]
			b = b[min((size+3)&^3, len(b)):]
			switch {
			case kind == unix.NLMSG_DONE:
			case kind != unix.NLMSG_ERROR:
				answers = append(answers, append([]byte(nil), payload...))
			case len(payload) >= 4 && err == nil:
				if code := -int32(binary.NativeEndian.Uint32(payload)); code != 0 {
					err = os.NewSyscallError("netlink", unix.Errno(code))
				}
			}
		}
	}
}

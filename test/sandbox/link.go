package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// The network card that agents expect. Its peer stays in the same namespace
// unconnected: the platform's addresses are local.
const (
	cardName    = "eth0"
	cardPeer    = "fabric0"
	cardAddress = "10.0.0.4"
	cardGateway = "10.0.0.1"
)

// addCard creates eth0 with an address, a default route and a route to the
// WireServer, as DHCP would. Agents read the interface, its MAC address and the
// route table before they connect to the platform.
func addCard() error {
	nl, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(nl)
	link := append(ifInfo(0, 0), attr(unix.IFLA_IFNAME, cstring(cardName))...)
	link = append(link, attr(unix.IFLA_ADDRESS, []byte{0x00, 0x0d, 0x3a, 0, 0, 1})...)
	peer := append(ifInfo(0, 0), attr(unix.IFLA_IFNAME, cstring(cardPeer))...)
	const vethInfoPeer = 1
	link = append(link, attr(unix.IFLA_LINKINFO,
		attr(unix.IFLA_INFO_KIND, []byte("veth")),
		attr(unix.IFLA_INFO_DATA, attr(vethInfoPeer, peer)))...)
	if err := talk(nl, unix.RTM_NEWLINK, link); err != nil {
		return fmt.Errorf("make %s: %w", cardName, err)
	}
	card, err := net.InterfaceByName(cardName)
	if err != nil {
		return err
	}
	other, err := net.InterfaceByName(cardPeer)
	if err != nil {
		return err
	}
	// Not at creation: an interface can't be up before its peer exists.
	for _, i := range []*net.Interface{card, other} {
		if err := talk(nl, unix.RTM_SETLINK, ifInfo(int32(i.Index), unix.IFF_UP)); err != nil {
			return fmt.Errorf("bring %s up: %w", i.Name, err)
		}
	}
	ip := net.ParseIP(cardAddress).To4()
	addr := []byte{unix.AF_INET, 24, 0, 0}
	addr = binary.NativeEndian.AppendUint32(addr, uint32(card.Index))
	addr = append(addr, attr(unix.IFA_LOCAL, ip)...)
	addr = append(addr, attr(unix.IFA_ADDRESS, ip)...)
	if err := talk(nl, unix.RTM_NEWADDR, addr); err != nil {
		return fmt.Errorf("address of %s: %w", cardName, err)
	}
	for _, to := range []string{"", WireServer, IMDS} {
		bits := byte(0)
		if to != "" {
			bits = 32
		}
		rt := []byte{unix.AF_INET, bits, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_DHCP, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
		if to != "" {
			rt = append(rt, attr(unix.RTA_DST, net.ParseIP(to).To4())...)
		}
		rt = append(rt, attr(unix.RTA_GATEWAY, net.ParseIP(cardGateway).To4())...)
		rt = append(rt, attr(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(card.Index)))...)
		if err := talk(nl, unix.RTM_NEWROUTE, rt); err != nil {
			return fmt.Errorf("route to %q: %w", to, err)
		}
	}
	return nil
}

// ifInfo encodes a struct ifinfomsg.
func ifInfo(index int32, flags uint32) []byte {
	b := make([]byte, 4, 16) // family, padding, type
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, flags)
}

// attr encodes a struct rtattr with its payload, padded.
func attr(kind uint16, parts ...[]byte) []byte {
	b := make([]byte, 4)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func cstring(s string) []byte { return append([]byte(s), 0) }

// talk sends one request that creates something and waits for the
// acknowledgement.
func talk(nl int, kind uint16, body []byte) error {
	msg := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(msg, uint32(16+len(body)))
	binary.NativeEndian.PutUint16(msg[4:], kind)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if err := unix.Sendto(nl, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(nl, b, 0)
	if err != nil {
		return err
	}
	if n < 20 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errors.New("no answer from netlink")
	}
	if code := int32(binary.NativeEndian.Uint32(b[16:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

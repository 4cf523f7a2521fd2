package discover

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// Constants of the DHCP request that is sent, and of the answer (RFC 2131,
// RFC 2132, RFC 3396).
const (
	bootRequest, bootReply = 1, 2
	ethernet               = 1
	broadcast              = 0x8000 // flags: answer by broadcast, as we have no address yet

	// Where the fields of a packet are.
	atXID, atFlags, atHardware, atServer, atFile, atCookie, atOptions = 4, 10, 28, 44, 108, 236, 240

	// Options.
	optionPad, optionMask, optionRouter, optionDNS, optionDomain = 0, 1, 3, 6, 15
	optionOverload, optionType, optionWanted, optionEnd          = 52, 53, 55, 255
	// optionEndpoint is how the platform's DHCP server names the WireServer.
	optionEndpoint = 245

	typeDiscover = 1
	// minPacket is the least size that servers and relays for BOOTP accept.
	minPacket = 300
)

var cookie = []byte{99, 130, 83, 99}

// A Request is a DHCPDISCOVER: the hardware address that asks, and the
// transaction id that the answer repeats.
type Request struct {
	XID [4]byte
	MAC [6]byte
}

// Discover makes a request with a random transaction id.
func Discover(mac net.HardwareAddr) (*Request, error) {
	r := &Request{}
	if len(mac) != len(r.MAC) {
		return nil, fmt.Errorf("build DHCP request: %s is not an Ethernet address", mac)
	}
	copy(r.MAC[:], mac)
	_, err := rand.Read(r.XID[:])
	return r, err
}

// ToBytes is the packet as it is sent. It also requests the options that an
// ordinary client wants, as a server may ignore an unusual list.
func (r *Request) ToBytes() []byte {
	b := make([]byte, atOptions, minPacket)
	b[0], b[1], b[2] = bootRequest, ethernet, byte(len(r.MAC))
	copy(b[atXID:], r.XID[:])
	binary.BigEndian.PutUint16(b[atFlags:], broadcast)
	copy(b[atHardware:], r.MAC[:])
	copy(b[atCookie:], cookie)
	wanted := []byte{optionMask, optionRouter, optionDomain, optionDNS, optionEndpoint}
	b = append(b, optionType, 1, typeDiscover, optionWanted, byte(len(wanted)))
	b = append(b, wanted...)
	b = append(b, optionEnd)
	return b[:minPacket]
}

// Offer reads option 245 from an answer to req. For any other packet it
// returns the zero Addr.
func Offer(b []byte, req *Request) netip.Addr {
	if len(b) < atOptions || b[0] != bootReply || b[1] != ethernet || int(b[2]) != len(req.MAC) ||
		!bytes.Equal(b[atXID:atXID+4], req.XID[:]) || !bytes.Equal(b[atHardware:atHardware+len(req.MAC)], req.MAC[:]) ||
		!bytes.Equal(b[atCookie:atOptions], cookie) {
		return netip.Addr{}
	}
	var endpoint, overload []byte
	// A long option is split (RFC 3396), and options that do not fit continue
	// in the fields for the file and server names.
	read := func(area []byte) bool {
		return options(area, func(code byte, value []byte) {
			switch code {
			case optionEndpoint:
				endpoint = append(endpoint, value...)
			case optionOverload:
				overload = append(overload, value...)
			}
		})
	}
	if !read(b[atOptions:]) {
		return netip.Addr{}
	}
	if len(overload) == 1 {
		areas := overload[0]
		if areas&1 != 0 && !read(b[atFile:atCookie]) || areas&2 != 0 && !read(b[atServer:atFile]) {
			return netip.Addr{}
		}
	}
	return usable(endpoint)
}

// options calls found for each option of an area. It returns false if the
// length of one exceeds the area.
func options(area []byte, found func(code byte, value []byte)) bool {
	for len(area) > 0 {
		code := area[0]
		switch code {
		case optionPad:
			area = area[1:]
			continue
		case optionEnd:
			return true
		}
		if len(area) < 2 || len(area) < 2+int(area[1]) {
			return false
		}
		n := 2 + int(area[1])
		found(code, area[2:n])
		area = area[n:]
	}
	return true
}

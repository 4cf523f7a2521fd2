package discover

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// The one question that is asked of a DHCP server, and what is read of its
// answer (RFC 2131, RFC 2132, RFC 3396).
const (
	bootRequest, bootReply = 1, 2
	ethernet               = 1
	broadcast              = 0x8000 // flags: the answer cannot be sent to an address that we do not have

	// Where the fields of a packet are.
	atXID, atFlags, atHardware, atServer, atFile, atCookie, atOptions = 4, 10, 28, 44, 108, 236, 240

	// Options.
	optionPad, optionMask, optionRouter, optionDNS, optionDomain = 0, 1, 3, 6, 15
	optionOverload, optionType, optionWanted, optionEnd          = 52, 53, 55, 255
	// optionEndpoint is how the platform's DHCP server names the WireServer.
	optionEndpoint = 245

	typeDiscover = 1
	// minPacket is what servers and relays of the time of BOOTP insist on.
	minPacket = 300
)

var cookie = []byte{99, 130, 83, 99}

// A Request is a DHCPDISCOVER: who asks, and the number by which the answer is
// known.
type Request struct {
	XID [4]byte
	MAC [6]byte
}

// Discover makes a request with a number of its own.
func Discover(mac net.HardwareAddr) (*Request, error) {
	r := &Request{}
	if len(mac) != len(r.MAC) {
		return nil, fmt.Errorf("build DHCP request: %s is not an Ethernet address", mac)
	}
	copy(r.MAC[:], mac)
	_, err := rand.Read(r.XID[:])
	return r, err
}

// ToBytes is the packet as it is sent. It wants what an ordinary client wants
// besides: a server may answer nothing to a stranger list.
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

// Offer reads option 245 from an answer to req; what is not one is ignored.
func Offer(b []byte, req *Request) netip.Addr {
	if len(b) < atOptions || b[0] != bootReply || b[1] != ethernet || int(b[2]) != len(req.MAC) ||
		!bytes.Equal(b[atXID:atXID+4], req.XID[:]) || !bytes.Equal(b[atHardware:atHardware+len(req.MAC)], req.MAC[:]) ||
		!bytes.Equal(b[atCookie:atOptions], cookie) {
		return netip.Addr{}
	}
	var endpoint, overload []byte
	// An option that is too long for one comes in pieces, and what has no
	// room goes on in the fields for two names.
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

// options calls found for each option of an area. It is false for one whose
// length leads out of it.
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

package discover

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// maxUplinks bounds the number of interfaces that are tried.
const maxUplinks = 16

// Uplinks lists the interfaces that may lead to the platform: network cards,
// bonds and VLANs on top of them, and interfaces with a gateway through which
// the machine reaches the platform's address. Bridges and links of containers
// and guests are left out. A socket that is bound to an interface without a
// route looks for the platform's address on that link, so a container behind a
// bridge could answer in its place, and root does what the platform says.
func Uplinks(root host.Root) ([]net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	led := gateways()
	var out []net.Interface
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 || len(i.HardwareAddr) != 6 {
			continue
		}
		if !led[i.Index] && !card(root, i.Name) {
			continue
		}
		if out = append(out, i); len(out) == maxUplinks {
			break
		}
	}
	return out, nil
}

// card reports whether an interface is a device of the machine, or has one
// below it: a bond, a VLAN.
func card(root host.Root, name string) bool {
	dir := "/sys/class/net/" + name
	if root.Exists(dir + "/device") {
		return true
	}
	entries, err := root.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "lower_") && root.Exists(dir+"/"+e.Name()+"/device") {
			return true
		}
	}
	return false
}

// gateways are the interfaces, by index, through whose gateway a route of any
// table leads to the platform's address.
func gateways() map[int]bool {
	b, err := syscall.NetlinkRIB(unix.RTM_GETROUTE, unix.AF_INET)
	if err != nil {
		return nil // only network cards count, then
	}
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil
	}
	out := map[int]bool{}
	for i := range msgs {
		if index := gateway(&msgs[i]); index != 0 {
			out[index] = true
		}
	}
	return out
}

// gateway is the interface index of a route that leads to the platform's
// address through a gateway, 0 for any other route.
func gateway(m *syscall.NetlinkMessage) int {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg || m.Data[7] != unix.RTN_UNICAST {
		return 0
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return 0
	}
	to := netip.PrefixFrom(netip.IPv4Unspecified(), int(m.Data[1]))
	through, index := false, 0
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			if addr, ok := netip.AddrFromSlice(a.Value); ok {
				to = netip.PrefixFrom(addr, int(m.Data[1]))
			}
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			through = true
		case unix.RTA_OIF:
			if len(a.Value) == 4 {
				index = int(binary.NativeEndian.Uint32(a.Value))
			}
		}
	}
	if !through || !to.Contains(netip.MustParseAddr(Default)) {
		return 0
	}
	return index
}

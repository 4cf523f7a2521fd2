package discover

import (
	"context"
	"net/netip"
)

// DHCP asks the network for option 245.
func DHCP(context.Context) (netip.Addr, error) { return netip.Addr{}, nil }

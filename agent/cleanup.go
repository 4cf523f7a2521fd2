package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/azguest/azguest/agent/firewall"
	"github.com/azguest/azguest/agent/host"
)

// Cleanup takes back what outlives the process and no package manager knows
// of: the firewall rules. Packages call it before their removal,
// when the agent has been stopped.
func Cleanup(ctx context.Context, run host.Runner) error {
	// The rules are found by their name, whichever address they are about.
	addr := netip.AddrFrom4([4]byte{168, 63, 129, 16})
	if err := firewall.New(addr, wirePort, run).Remove(ctx); err != nil {
		return fmt.Errorf("remove firewall rules: %w", err)
	}
	return nil
}

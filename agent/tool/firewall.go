package tool

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/firewall"
	"github.com/azguest/azguest/protocol/discover"
)

// Firewall is the command "azguest firewall": it sets the rules as the agent
// would, for the time before the agent runs.
func (t *Tool) Firewall(ctx context.Context) int {
	if !agent.FirewallWanted(t.Root, t.Config) {
		return exitOK
	}
	address := discover.Default
	if b, err := t.Root.ReadFile(path.Join(t.Config.Paths.Lib, "WireServerEndpoint")); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(b))); err == nil && a.Is4() {
			address = a.String()
		}
	}
	return t.end(t.firewall(ctx, address))
}

// firewall sets the rules once, as the boot unit of the classic agent does.
func (t *Tool) firewall(ctx context.Context, address string) error {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("set firewall rules: %w", err)
	}
	backend, _, err := firewall.New(addr, agent.WirePort, t.Runner).Apply(ctx)
	if err == nil {
		fmt.Fprintf(t.Out, "Firewall rules for %s are set (%s)\n", addr, backend)
	}
	return err
}

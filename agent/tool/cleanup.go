package tool

import (
	"context"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/host"
)

// Cleanup is "azguest cleanup": it takes back what outlives the process and no
// package manager knows of, the firewall rules. Packages call it before their
// removal, when the agent has been stopped.
func Cleanup(ctx context.Context, run host.Runner) error { return agent.RemoveFirewall(ctx, run) }

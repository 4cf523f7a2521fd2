package tool

import (
	"context"

	"github.com/azguest/azguest/agent"
	"github.com/azguest/azguest/agent/host"
)

// Cleanup is the command "azguest cleanup": it removes what outlives the
// process and no package manager knows about, the firewall rules. Packages call
// it before they are removed, after the agent was stopped.
func Cleanup(ctx context.Context, run host.Runner) error { return agent.RemoveFirewall(ctx, run) }

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/firewall"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/discover"
)

// WirePort is the WireServer's. It must stay reachable for root whatever the firewall does.
const WirePort = 80

// firewallJob is what the guard job remembers.
type firewallJob struct {
	mu        sync.Mutex // guards what follows; rules are set under it, nothing is waited for
	fw        *firewall.Firewall
	addr      netip.Addr // that fw protects
	installed bool       // the rules were there before
	next      time.Time  // no look before, after the rules were taken back
	tested    bool       // they do what they are for

	trying sync.Mutex // one test at a time
	off    bool       // under trying: switched off, and cleaned up
}

// reverted is how long rules that had cut the agent off are not tried again:
// each try costs the machine the platform for seconds.
const reverted = time.Hour

// keepFirewall is the job that keeps the platform's address for root, or
// takes the rules away where they are switched off. It tries them out, too,
// which takes seconds where the host is silent.
func (a *Agent) keepFirewall(ctx context.Context) error {
	if a.cfg.Protocol.Endpoint != "" {
		return nil // the endpoint of a test: the rules would be about somebody else's address
	}
	x := &a.firewallJob
	x.trying.Lock()
	defer x.trying.Unlock()
	if !a.cfg.OS.EnableFirewall {
		if x.off {
			return nil
		}
		x.off = true // once per start is enough to clean up
		return RemoveFirewall(ctx, a.Runner)
	}
	fw, err := a.setFirewall(ctx)
	if fw == nil || err != nil {
		return err
	}
	results, done, err := a.testFirewall(ctx, fw)
	x.mu.Lock()
	defer x.mu.Unlock()
	if fw != x.fw {
		return nil // about an address that is not the platform's any more
	}
	x.tested = done
	if err != nil {
		x.next, x.installed = time.Now().Add(reverted), false
	}
	a.showFirewall(err, func(f *status.Firewall) { f.Results = results })
	return err
}

// azureTag is the chassis asset tag of every machine of the platform.
const azureTag = "7783-7084-3265-9085-8269-3286-77"

// FirewallWanted says whether there are to be rules: where the configuration says so,
// and else on the platform's machines, which are known by their tag or by
// having found the platform.
func FirewallWanted(root host.Root, c *config.Config) bool {
	if _, _, said := c.Said("OS.EnableFirewall"); said || !c.OS.EnableFirewall {
		return c.OS.EnableFirewall
	}
	tag, err := root.ReadFile("/sys/class/dmi/id/chassis_asset_tag")
	return err == nil && strings.TrimSpace(string(tag)) == azureTag || root.Exists(path.Join(c.Paths.Lib, "WireServerEndpoint"))
}

// setFirewall puts the rules in place and returns the firewall if it has to be tried
// out.
func (a *Agent) setFirewall(ctx context.Context) (*firewall.Firewall, error) {
	x := &a.firewallJob
	x.mu.Lock()
	defer x.mu.Unlock()
	if time.Now().Before(x.next) || !FirewallWanted(a.Root, a.cfg) {
		return nil, nil
	}
	addr, err := netip.ParseAddr(a.platform.Endpoint())
	if err != nil {
		return nil, fmt.Errorf("protect platform address: %w", err)
	}
	if x.fw == nil || x.addr != addr {
		if x.fw != nil {
			x.fw.Close() // the next one replaces its table
		}
		x.fw, x.addr, x.tested = firewall.Keep(addr, WirePort, a.Runner), addr, false
	}
	backend, changed, err := x.fw.Apply(ctx)
	if changed {
		x.tested = false
	}
	if changed && x.installed {
		a.Log.Warn().Str("code", "AZ-FW-DRIFT").Msg("firewall rules were removed by another program, restored")
		a.live.note("firewall", "rules removed by another program, restored")
	}
	x.installed = err == nil && backend != firewall.None
	a.showFirewall(err, func(f *status.Firewall) { f.Backend = string(backend) })
	if !x.installed || x.tested {
		return nil, err
	}
	return x.fw, nil
}

// showFirewall puts what was just found out on the board.
func (a *Agent) showFirewall(err error, change func(*status.Firewall)) {
	was := a.live.copy().Firewall
	now := status.Firewall{State: status.OK, Backend: was.Backend, VerifiedAt: time.Now().UTC(), Results: was.Results}
	change(&now)
	bad := func(st status.State, code, message string) {
		now.State, now.Message, now.Problem = st, message, problem(code, now.VerifiedAt)
		if was.Code == code {
			now.Since = was.Since
		}
	}
	switch {
	case err != nil:
		code := "AZ-FW-APPLY"
		if fe, ok := errors.AsType[*firewall.Error](err); ok {
			code = fe.Code()
		}
		bad(status.Error, code, err.Error())
	case now.Results[ordinaryUsers] == "reach it":
		bad(status.Warn, "AZ-FW-SELFTEST", "a connection of an unprivileged user was not blocked")
	}
	set := func(s *status.Snapshot) { s.Firewall = now }
	if was.State == now.State && was.Code == now.Code {
		a.live.mu.Lock()
		set(&a.live.snap)
		a.live.mu.Unlock()
	} else {
		a.live.set(set)
	}
}

// ordinaryUsers is the key of the result that counts.
const ordinaryUsers = "ordinary users"

// testFirewall tries out the rules. Nothing can be said while root can't reach the
// platform either; then it has to be done again. An error says that the rules
// themselves stop root, and are gone.
func (a *Agent) testFirewall(ctx context.Context, fw *firewall.Firewall) (results map[string]string, done bool, err error) {
	took, err := fw.Root(ctx)
	if err != nil {
		if _, ours := errors.AsType[*firewall.Error](err); !ours {
			err = nil
		}
		return map[string]string{"root": "does not reach it"}, false, err
	}
	results = map[string]string{"root": "reaches it"}
	open, err := fw.Exposed(ctx, max(300*time.Millisecond, 5*took))
	switch {
	case err != nil:
		a.Log.Debug().Err(err).Msg("could not test firewall rules")
		return results, false, nil
	case open:
		results[ordinaryUsers] = "reach it"
	default:
		results[ordinaryUsers] = "blocked"
	}
	return results, true, nil
}

// watchFirewall puts the rules back as soon as somebody has taken them away;
// the job would need its period. Trying them out again is left to the job.
func (a *Agent) watchFirewall(ctx context.Context) error {
	if a.cfg.Protocol.Endpoint != "" || !a.cfg.OS.EnableFirewall {
		return nil
	}
	look := func() {
		if _, err := a.setFirewall(ctx); err != nil && ctx.Err() == nil {
			a.Log.Debug().Err(err).Msg("could not check firewall rules")
		}
	}
	look() // until the table is ours again, others can flush it
	err := firewall.Watch(ctx, look)
	if ctx.Err() == nil {
		// The job goes on looking.
		a.Log.Debug().Err(err).Msg("could not watch firewall rules; changes are found at the next check")
	}
	return nil
}

// RemoveFirewall takes the rules away, whichever address they are about: they
// are found by their name.
func RemoveFirewall(ctx context.Context, run host.Runner) error {
	if err := firewall.New(netip.MustParseAddr(discover.Default), WirePort, run).Remove(ctx); err != nil {
		return fmt.Errorf("remove firewall rules: %w", err)
	}
	return nil
}

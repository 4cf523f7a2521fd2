package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/firewall"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/discover"
)

// WirePort is the WireServer's TCP port. It must stay reachable for root
// whatever the firewall does.
const WirePort = 80

// firewallJob is what the firewall job remembers.
type firewallJob struct {
	setting   turn               // held while rules are set; guards the fields below
	fw        *firewall.Firewall // nil before the first time
	addr      netip.Addr         // the address that fw protects
	installed bool               // the rules were in place at the last check
	next      time.Time          // no check before, after rules that blocked root were removed
	tested    bool               // the rules were tested since they last changed
	open      bool               // the last test found that an unprivileged user gets through

	testing turn // held while rules are tested; guards the field below
	off     bool // switched off by the configuration, rules removed
}

func newFirewallJob() firewallJob { return firewallJob{setting: newTurn(), testing: newTurn()} }

// reverted is how long rules that had cut the agent off are not tried again:
// each try cuts the machine off from the platform for seconds.
const reverted = time.Hour

// keepFirewall is the job that keeps the rules in place that reserve the
// platform's address for root, or removes them if they are switched off. It
// also tests them, which takes seconds if the host does not answer.
func (a *Agent) keepFirewall(ctx context.Context) error {
	if a.cfg.Protocol.Endpoint != "" {
		return nil // the endpoint of a test: the rules would protect an unrelated address
	}
	x := &a.firewallJob
	end, err := x.testing.take(ctx)
	if err != nil {
		return err
	}
	defer end()
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
	test, err := a.testFirewall(ctx, fw)
	endSetting, terr := x.setting.take(ctx)
	if terr != nil {
		return terr
	}
	defer endSetting()
	if fw != x.fw {
		return nil // the test was of an address that is no longer the platform's
	}
	x.tested, x.open = test.done, test.open
	if err != nil {
		x.next, x.installed = time.Now().Add(reverted), false
	}
	a.showFirewall(err, func(f *status.Firewall) { f.Results = test.results })
	return err
}

// azureTag is the chassis asset tag of every machine of the platform.
const azureTag = "7783-7084-3265-9085-8269-3286-77"

// FirewallWanted reports whether the rules have to be set: as the configuration
// says, or, if it does not set OS.EnableFirewall, on the platform's machines.
// Those are known by their asset tag or because an endpoint of the platform was
// found earlier.
func FirewallWanted(root host.Root, c *config.Config) bool {
	if _, _, said := c.Said("OS.EnableFirewall"); said || !c.OS.EnableFirewall {
		return c.OS.EnableFirewall
	}
	tag, err := root.ReadFile("/sys/class/dmi/id/chassis_asset_tag")
	return err == nil && strings.TrimSpace(string(tag)) == azureTag || root.Exists(path.Join(c.Paths.Lib, "WireServerEndpoint"))
}

// setFirewall sets the rules and returns the firewall if it has to be tested.
func (a *Agent) setFirewall(ctx context.Context) (*firewall.Firewall, error) {
	x := &a.firewallJob
	end, err := x.setting.take(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
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

// showFirewall shows the result of setting or testing the rules. The caller
// must hold firewallJob.setting.
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
	case a.firewallJob.open:
		bad(status.Warn, "AZ-FW-SELFTEST", "a connection of an unprivileged user was not blocked")
	}
	set := func(s *status.Snapshot) { s.Firewall = now }
	if was.State == now.State && was.Code == now.Code {
		a.live.update(set)
	} else {
		a.live.set(set)
	}
}

// firewallTest is the result of a test of the rules.
type firewallTest struct {
	results map[string]string // who reaches the platform, to be shown
	open    bool              // an unprivileged user reaches the platform
	done    bool              // the test was conclusive; else it is repeated
}

// testFirewall tests the rules. The test is inconclusive while root can't reach
// the platform either. An error means that the rules themselves blocked root
// and were removed.
func (a *Agent) testFirewall(ctx context.Context, fw *firewall.Firewall) (firewallTest, error) {
	took, err := fw.Root(ctx)
	if err != nil {
		if _, ours := errors.AsType[*firewall.Error](err); !ours {
			err = nil
		}
		return firewallTest{results: map[string]string{"root": "does not reach it"}}, err
	}
	t := firewallTest{results: map[string]string{"root": "reaches it"}}
	t.open, err = fw.Exposed(ctx, max(300*time.Millisecond, 5*took))
	if err != nil {
		a.Log.Debug().Err(err).Msg("could not test firewall rules")
		t.open = false
		return t, nil
	}
	t.done = true
	t.results["ordinary users"] = "blocked"
	if t.open {
		t.results["ordinary users"] = "reach it"
	}
	return t, nil
}

// watchFirewall restores the rules as soon as another program has removed them;
// the job would notice only in its next turn. Testing is left to the job.
func (a *Agent) watchFirewall(ctx context.Context) error {
	if a.cfg.Protocol.Endpoint != "" || !a.cfg.OS.EnableFirewall {
		return nil
	}
	look := func() {
		if _, err := a.setFirewall(ctx); err != nil && ctx.Err() == nil {
			a.Log.Debug().Err(err).Msg("could not check firewall rules")
		}
	}
	look() // until our table is in place, others can flush it
	err := firewall.Watch(ctx, look)
	if ctx.Err() == nil {
		// The job still checks the rules.
		a.Log.Debug().Err(err).Msg("could not watch firewall rules; changes are found at the next check")
	}
	return nil
}

// RemoveFirewall removes the rules, whichever address they protect: they are
// found by name.
func RemoveFirewall(ctx context.Context, run host.Runner) error {
	if err := firewall.New(netip.MustParseAddr(discover.Default), WirePort, run).Remove(ctx); err != nil {
		return fmt.Errorf("remove firewall rules: %w", err)
	}
	return nil
}

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/imds"
)

// checkTime is the time limit for all checks of one doctor request.
const checkTime = 5 * time.Second

// doctorLoginTime is the time limit for the check of the log-in, which runs
// meanwhile. agentctl waits longer.
const doctorLoginTime = 20 * time.Second

// doctor probes the platform's services now and returns its findings. It
// changes nothing, but a failed probe counts as a failure of that endpoint.
func (a *Agent) doctor(ctx context.Context) status.Response {
	login := make(chan []doctor.Finding, 1)
	// wait: doctorLoginTime is its bound
	go func() {
		defer crash.Guard()
		login <- a.loginFindings(ctx)
	}()
	probe, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	n := doctor.Network{}
	failing := false
	for _, f := range a.platform.Probe(probe) {
		f.Failures += flaky // on request, one failure is enough to be reported
		e := endpoint(f)
		failing = failing || e.State != status.OK
		n.Endpoints = append(n.Endpoints, e)
	}
	n.Skew, _, n.SkewKnown = a.platform.Skew()
	n.DNS = lookUp(probe, storageHosts(a.loop.current()))
	if failing {
		rctx, rcancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer rcancel()
		n.Rules = a.blockingRules(rctx)
	}
	// wait: doctorLoginTime is its bound
	data, err := json.Marshal(append(n.Findings(), <-login...))
	if err != nil {
		return status.Response{Error: err.Error()}
	}
	a.live.poke()
	return status.Response{OK: true, Data: data}
}

// lookUp resolves the first host that has a name instead of an address.
func lookUp(ctx context.Context, hosts []status.Host) error {
	for _, h := range hosts {
		u, err := url.Parse(h.URL)
		if err != nil || net.ParseIP(u.Hostname()) != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err = net.DefaultResolver.LookupHost(ctx, u.Hostname())
		return err
	}
	return nil
}

// blockingRules returns the firewall rules of this machine, as listed by nft or
// iptables, that block the platform.
func (a *Agent) blockingRules(ctx context.Context) []string {
	addrs := []string{a.platform.Endpoint(), imds.Address}
	if _, _, err := net.SplitHostPort(addrs[0]); err == nil {
		return nil // an endpoint of a test
	}
	var listing []byte
	cmds := []host.Cmd{{Name: "nft", Args: []string{"list", "ruleset"}}}
	for _, table := range []string{"filter", "security", "raw", "mangle"} {
		cmds = append(cmds, host.Cmd{Name: "iptables", Args: []string{"-w", "-t", table, "-S"}})
	}
	for _, c := range cmds {
		c.Timeout = time.Second
		r, err := a.Runner.Run(ctx, c)
		if err != nil {
			var exit *host.ExitError
			if !errors.As(err, &exit) && !host.NotFound(err) && ctx.Err() == nil {
				a.Log.Debug().Err(err).Msg("could not read firewall rules")
			}
			continue
		}
		listing = append(append(listing, r.Stdout...), '\n')
	}
	return doctor.BlockingRules(string(listing), addrs...)
}

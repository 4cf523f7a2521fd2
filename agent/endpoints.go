package agent

import (
	"cmp"
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
)

const (
	// flaky is how many consecutive failures make an endpoint a problem: a
	// single one may be caused by a live migration.
	flaky = 2
	// probeFirst and probeAgain are the shortest and the longest pause between
	// two probes of a failing endpoint. Without probes, an endpoint that is not
	// in use at the moment would be shown as failing for ever. That makes 15 in
	// the first hour.
	probeFirst = 30 * time.Second
	probeAgain = 5 * time.Minute
)

// fillEndpoints adds the platform client's view of its endpoints to a snapshot.
func (a *Agent) fillEndpoints(s *status.Snapshot) {
	s.Endpoints = nil
	for _, f := range a.platform.Endpoints() {
		e := endpoint(f)
		if f.Name == platform.Storage {
			e.Hosts = storageHosts(a.loop.current())
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	s.Platform.EndpointFrom = a.platform.EndpointFrom()
	s.Platform.VMSettings = status.VMSettings{Supported: a.platform.FastTrack(), Version: a.platform.HostVersion()}
	skew, at, known := a.platform.Skew()
	fillClock(&s.Clock, skew, at, known)
}

// storageHosts returns the storage servers that a goal state refers to; a
// firewall has to let them through.
func storageHosts(gs *protocol.GoalState) []status.Host {
	if gs == nil {
		return nil
	}
	why := map[string][]string{}
	add := func(u secret.URL, what string) {
		p, err := url.Parse(u.String())
		if err != nil || p.Host == "" {
			return
		}
		host := p.Scheme + "://" + p.Host
		if !slices.Contains(why[host], what) {
			why[host] = append(why[host], what)
		}
	}
	add(gs.StatusBlob.URL, "status reports")
	for _, h := range gs.Handlers {
		for _, u := range h.Manifests {
			add(u, h.Name)
		}
	}
	for _, f := range gs.Families {
		for _, u := range f.ManifestURIs {
			add(u, "agent updates")
		}
	}
	var out []status.Host
	for _, host := range slices.Sorted(maps.Keys(why)) {
		out = append(out, status.Host{URL: host, Why: strings.Join(why[host], ", ")})
	}
	return out
}

// endpoint returns the state of one endpoint.
func endpoint(f platform.EndpointFact) status.Endpoint {
	e := status.Endpoint{
		Name: f.Name, URL: f.URL, Via: f.Via, Proxy: f.Proxy, State: status.OK,
		LatencyS: float64(f.Latency.Round(100*time.Microsecond)) / float64(time.Second),
		LastOK:   f.LastOK, LastError: f.Err, Why: why(f.Name),
	}
	if !f.Failing() {
		return e
	}
	e.State = status.Warn
	if f.Failures < flaky && !f.LastOK.IsZero() {
		return e // a single failure is not a problem yet
	}
	if f.Name == platform.WireServer && f.Fault != platform.FaultStatus {
		e.State = status.Error
	}
	code := endpointCode(f.Name, f.Fault)
	fix := "agentctl doctor"
	if c, ok := doctor.Lookup(code); ok {
		fix = c.Fix
	}
	e.Problem = status.Problem{Code: code, Since: f.Since, Fix: fix}
	return e
}

// endpointCode returns the code for what keeps an endpoint from answering.
func endpointCode(name, fault string) string {
	switch fault {
	case platform.FaultRoute:
		return "AZ-NET-NOROUTE"
	case platform.FaultBlocked:
		return "AZ-FW-BLOCKED"
	case platform.FaultStatus:
		return "AZ-NET-BUSY"
	case platform.FaultProxy:
		return "AZ-NET-PROXY" // for the platform's own address: a proxy that intercepts all traffic
	}
	switch name {
	case platform.WireServer:
		return "AZ-NET-WIRESERVER"
	case platform.HostPlugin:
		return "AZ-NET-HOSTPLUGIN"
	case platform.Metadata:
		return "AZ-NET-IMDS"
	}
	switch fault {
	case platform.FaultTLS:
		return "AZ-NET-TLS"
	case platform.FaultDNS:
		return "AZ-NET-DNS"
	}
	return "AZ-NET-STORAGE"
}

// why returns what an endpoint is needed for.
func why(name string) string {
	return map[string]string{
		platform.WireServer: "goal state, certificates, health reports",
		platform.HostPlugin: "status reports, fast-track goal state, packages",
		platform.Metadata:   "VM data for telemetry; provisioning without a medium",
		platform.Storage:    "packages and status, if the HostGAPlugin does not relay them",
	}[name]
}

// probeFailing is the job that probes failing endpoints.
func (a *Agent) probeFailing(ctx context.Context) error {
	a.probe(ctx, func(f platform.EndpointFact) bool {
		pause := probeAgain
		if n := f.Failures - flaky; n < 4 {
			pause = min(probeFirst<<max(n, 0), probeAgain)
		}
		return time.Since(f.LastFail) >= pause-time.Second
	})
	return nil
}

// probe probes the failing endpoints that are due.
func (a *Agent) probe(ctx context.Context, due func(platform.EndpointFact) bool) {
	var names []string
	for _, f := range a.platform.Endpoints() {
		if f.Failing() && f.Name != platform.Storage && due(f) {
			names = append(names, f.Name)
		}
	}
	if len(names) > 0 {
		a.platform.Probe(ctx, names...)
		a.live.poke()
	}
}

// platformCode returns the code for a failed poll: the WireServer could not be
// reached, or its answer could not be used.
func (a *Agent) platformCode() string {
	for _, f := range a.platform.Endpoints() {
		if f.Name == platform.WireServer && f.Failing() && f.Fault != platform.FaultStatus {
			return endpointCode(f.Name, f.Fault)
		}
	}
	return "AZ-PLAT-GOALSTATE"
}

// fixOf returns the advice for a code, from the table of codes.
func fixOf(code string) string {
	c, _ := doctor.Lookup(code)
	return cmp.Or(c.Fix, "agentctl explain "+code)
}

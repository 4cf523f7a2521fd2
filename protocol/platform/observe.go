package platform

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/internal/web"
	"github.com/azguest/azguest/protocol/wire"
)

// Names of what is reported to the HealthService (protocol/SPEC.md §10.4).
const (
	obsHeartbeat = "GuestAgentPluginHeartbeat"
	obsStatus    = "GuestAgentPluginStatus"
	obsArtifact  = "GuestAgentPluginArtifact"
	obsMetadata  = "InstanceMetadataHeartbeat"
)

// failureWindow is how long a service must have failed before that is
// reported.
func failureWindow(name string) time.Duration {
	switch name {
	case obsHeartbeat, obsArtifact:
		return 5 * time.Minute
	case obsMetadata:
		return 3 * time.Minute
	}
	return 0
}

// relayUsed records the result of a request through the host's relay.
func (c *Client) relayUsed(err error) {
	c.noteRelay(err)
	c.observe(obsArtifact, err)
}

// observe records the result of a call to a host service, for the next
// Heartbeat.
func (c *Client) observe(name string, err error) {
	if c.o.NoTelemetry {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := wire.Observation{Name: name, Healthy: true}
	if notTheService(err) {
		delete(c.failingSince, name)
	} else {
		now := time.Now()
		if c.failingSince[name].IsZero() {
			c.failingSince[name] = now
		}
		if now.Sub(c.failingSince[name]) >= failureWindow(name) {
			o.Healthy, o.Description = false, err.Error()
		}
	}
	c.observations[name] = o
}

// notTheService reports whether an error is not the service's fault: our
// request was wrong, what is behind the service failed (502), a name was stale,
// or it has answered and the answer is not what we wanted or could not be used
// on this machine. No error counts, too.
func notTheService(err error) bool {
	if err == nil || errors.Is(err, hostga.ErrLater) || web.Ours(err) || protocol.Local(err) {
		return true
	}
	if _, answered := errors.AsType[*web.ContentError](err); answered {
		return true
	}
	if _, answered := errors.AsType[*web.SizeError](err); answered {
		return true
	}
	se, ok := errors.AsType[*web.StatusError](err)
	return ok && (se.Status < 500 || se.Status == 502)
}

// recentAnswer is how old the host's last answer may be for Heartbeat not to
// ask for its health.
const recentAnswer = 30 * time.Second

// Heartbeat asks for the health of the host, unless the host has just answered
// something else, and of the metadata service if that is wanted, and sends all
// observations since the last one. Call it about once a minute; it does
// nothing without telemetry.
func (c *Client) Heartbeat(ctx context.Context) error {
	if c.o.NoTelemetry {
		return nil
	}
	var err error
	if !c.reach.answeredWithin(HostPlugin, recentAnswer) {
		err = c.hostClient().Healthy(ctx)
	}
	c.observe(obsHeartbeat, err)
	if c.o.IMDSHeartbeat {
		c.observe(obsMetadata, c.metadata.Alive(ctx))
	}
	c.mu.Lock()
	var obs []wire.Observation
	for _, o := range c.observations {
		obs = append(obs, o)
	}
	clear(c.observations)
	c.mu.Unlock()
	slices.SortFunc(obs, func(a, b wire.Observation) int { return strings.Compare(a.Name, b.Name) })
	return c.wireClient().PostHealthService(ctx, c.o.AgentName, obs)
}

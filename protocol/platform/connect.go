package platform

import (
	"context"
	"fmt"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/discover"
	"github.com/azguest/azguest/protocol/wire"
)

// Connect finds the WireServer and agrees on the protocol version. It repeats,
// logging little, until the platform answers or the context ends.
func (c *Client) Connect(ctx context.Context) error {
	c.key.start()
	pause := time.Second
	// If NetworkManager may know other addresses, there is a first, short round
	// that does not ask it.
	round := 0
	if c.o.Endpoint == "" && discover.HasBus(c.o.Root) {
		round = -1
	}
	for ; ; round++ {
		cands := c.candidates(ctx, round)
		for _, cand := range cands {
			patience := 5 * time.Second
			if len(cands) == 1 && round >= 0 {
				patience = 30 * time.Second
			}
			v, err := wire.New(c.hostWeb, cand.Addr, c.o.AgentName).Versions(ctx, patience)
			if err != nil && cand.Addr != discover.Default && cand.Origin != "configuration" {
				c.reach.noteWrongEndpoint(cand.Addr, cand.Origin, err)
			}
			switch {
			case err == nil:
				if !v.Speaks() {
					c.o.Log.Warn().Str("preferred", v.Preferred).Strs("supported", v.Supported).Msg("platform does not list the agent's protocol version, trying it")
				}
				c.useEndpoint(cand.Addr)
				c.mu.Lock()
				c.endpointOrigin = cand.Origin
				c.mu.Unlock()
				c.o.Log.Debug().Str("endpoint", cand.Addr).Str("origin", cand.Origin).Msg("connected to the platform")
				c.writeEndpoint()
				return nil
			case ctx.Err() != nil:
				return fmt.Errorf("connect to the platform: %w", context.Cause(ctx))
			case protocol.Loud(err):
				c.o.Log.Warn().Err(err).Str("endpoint", cand.Addr).Str("origin", cand.Origin).Msg("platform not reachable yet")
			}
		}
		woken, err := c.hostWeb.Wait(ctx, pause)
		if err != nil {
			return fmt.Errorf("connect to the platform: %w", err)
		}
		pause = min(2*pause, 15*time.Second)
		if woken { // earlier attempts used the network before the change
			pause = time.Second
			c.o.Log.Debug().Msg("network changed, connecting to the platform again")
		}
	}
}

func (c *Client) candidates(ctx context.Context, round int) []discover.Candidate {
	if c.o.Endpoint != "" {
		return []discover.Candidate{{Addr: hostPart(c.o.Endpoint), Origin: "configuration"}}
	}
	list := discover.Candidates(ctx, c.o.Root, c.o.LibDir, time.Now(), round < 0)
	if c.o.DHCP && round > 0 && round%4 == 1 {
		a, err := discover.DHCP(ctx, c.o.Root)
		if err != nil {
			c.o.Log.Debug().Err(err).Msg("could not discover the platform address by DHCP")
		}
		if a.IsValid() {
			list = append(list, discover.Candidate{Addr: a.String(), Origin: "dhcp"})
		}
	}
	return list
}

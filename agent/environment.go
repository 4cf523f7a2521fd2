package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/azguest/azguest/agent/firewall"
	"github.com/azguest/azguest/agent/status"
)

// wirePort must stay reachable for root whatever the firewall does.
const wirePort = 80

// guard is the job that keeps the platform's address for root (asks S1), or
// takes the rules away where they are switched off.
func (a *Agent) guard(ctx context.Context) error {
	if a.cfg.Protocol.Endpoint != "" {
		return nil // the endpoint of a test: the rules would be about somebody else's address
	}
	addr, err := netip.ParseAddr(a.platform.Endpoint())
	if err != nil {
		return fmt.Errorf("protect the platform's address: %w", err)
	}
	fw := firewall.New(addr, wirePort, a.Runner)
	if !a.cfg.OS.EnableFirewall {
		if a.loop.guarded {
			return nil
		}
		a.loop.guarded = true // once per start is enough to clean up
		return fw.Remove(ctx)
	}
	backend, err := fw.Apply(ctx)
	was := a.board.copy().Firewall
	now := status.Firewall{State: status.OK, Backend: string(backend), VerifiedAt: time.Now().UTC()}
	if err != nil {
		now.State, now.Message = status.Error, err.Error()
		now.Problem = status.Problem{Code: "AZ-FW-APPLY", Since: now.VerifiedAt, Fix: fixOf("AZ-FW-APPLY")}
		if fe, ok := errors.AsType[*firewall.Error](err); ok {
			now.Code, now.Fix = fe.Code(), fixOf(fe.Code())
		}
		if was.State == status.Error {
			now.Since = was.Since
		}
	}
	change := func(s *status.Snapshot) { s.Firewall = now }
	if was.State == now.State {
		a.board.mu.Lock()
		change(&a.board.snap)
		a.board.mu.Unlock()
	} else {
		a.board.set(change)
	}
	return err
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/firewall"
	"github.com/azguest/azguest/agent/status"
)

// wirePort must stay reachable for root whatever the firewall does.
const wirePort = 80

// fence is what the guard job remembers.
type fence struct {
	mu     sync.Mutex // one look at a time; guards what follows
	off    bool       // switched off, and cleaned up
	known  bool       // the rules were there before
	next   time.Time  // no look before, after the rules were taken back
	tested bool       // they do what they are for
}

// reverted is how long rules that had cut the agent off are not tried again:
// each try costs the machine the platform for seconds.
const reverted = time.Hour

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
	x := &a.fence
	x.mu.Lock()
	defer x.mu.Unlock()
	fw := firewall.New(addr, wirePort, a.Runner)
	if !a.cfg.OS.EnableFirewall {
		if x.off {
			return nil
		}
		x.off = true // once per start is enough to clean up
		return fw.Remove(ctx)
	}
	if time.Now().Before(x.next) {
		return nil
	}
	backend, changed, err := fw.Apply(ctx)
	was := a.board.copy().Firewall
	now := status.Firewall{State: status.OK, Backend: string(backend), VerifiedAt: time.Now().UTC(), Results: was.Results}
	if changed {
		x.tested = false
	}
	if err == nil && backend != firewall.None && !x.tested {
		now.Results, x.tested = a.provoke(ctx, fw)
	}
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
		if code == "AZ-FW-REVERTED" {
			x.next = time.Now().Add(reverted)
		}
		bad(status.Error, code, err.Error())
	case now.Results[ordinary] == "reach it":
		bad(status.Warn, "AZ-FW-SELFTEST", "a connection of an ordinary user was not stopped")
	}
	if changed && x.known {
		a.Log.Warn().Str("code", "AZ-FW-DRIFT").Msg("somebody had removed the firewall rules; they are back")
		a.board.note("firewall", "rules removed by somebody, put back")
	}
	x.known = err == nil && backend != firewall.None
	change := func(s *status.Snapshot) { s.Firewall = now }
	if was.State == now.State && was.Code == now.Code {
		a.board.mu.Lock()
		change(&a.board.snap)
		a.board.mu.Unlock()
	} else {
		a.board.set(change)
	}
	return err
}

// ordinary is the key of the result that counts.
const ordinary = "ordinary users"

// provoke tries out the rules. Nothing can be said while root can't reach the
// platform either; then it has to be done again.
func (a *Agent) provoke(ctx context.Context, fw *firewall.Firewall) (results map[string]string, done bool) {
	took, err := fw.Root(ctx)
	if err != nil {
		return map[string]string{"root": "does not reach it"}, false
	}
	results = map[string]string{"root": "reaches it"}
	open, err := fw.Exposed(ctx, max(300*time.Millisecond, 5*took))
	switch {
	case err != nil:
		a.Log.Debug().Err(err).Msg("firewall not tried out")
		return results, false
	case open:
		results[ordinary] = "reach it"
	default:
		results[ordinary] = "blocked"
	}
	return results, true
}

// watchFirewall puts the rules back as soon as somebody has taken them away;
// the job would need its period.
func (a *Agent) watchFirewall(ctx context.Context) error {
	if a.cfg.Protocol.Endpoint != "" || !a.cfg.OS.EnableFirewall {
		return nil
	}
	err := firewall.Watch(ctx, func() {
		if err := a.guard(ctx); err != nil && ctx.Err() == nil {
			a.Log.Debug().Err(err).Msg("firewall")
		}
	})
	if ctx.Err() == nil {
		// The job goes on looking.
		a.Log.Debug().Err(err).Msg("changes of the firewall are noticed late")
	}
	return nil
}

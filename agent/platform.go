package agent

import (
	"context"
	"errors"
	"time"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
)

// serve connects to the platform, fetches goal states and runs extensions.
// After a few seconds it no longer waits for provisioning; only the handlers
// do.
func (a *Agent) serve(ctx context.Context) error {
	// Leave the first seconds to provisioning and its report.
	select {
	case <-a.provisionedLatch.opened:
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if off, err := a.machine(provisioning.Identity{}).AgentDisabled(); off || err != nil {
		if err != nil {
			a.Log.Warn().Err(err).Msg("could not check whether the agent is disabled for this VM")
		}
		if off {
			// The VM was ordered without an agent: it was provisioned, and that
			// is all the platform expects (provisioning/SPEC.md §7.13).
			a.Log.Info().Msg("agent disabled for this VM (disable_agent): no extensions and no status reports")
			a.live.note("agent", "disabled for this VM (disable_agent)")
			a.loop.end(errSwitchedOff)
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	a.live.set(func(s *status.Snapshot) { s.Platform.Endpoint = a.platform.Endpoint() })
	a.runParts(ctx, part{name: "extensions", run: a.engine}, part{name: "jobs", run: a.runJobs}, part{name: "gate", run: a.openStartGate, once: true})
	return context.Cause(ctx)
}

// engine runs the extension engine. After a restart, the engine is given the
// current goal state again.
func (a *Agent) engine(ctx context.Context) error {
	defer a.pulse.begin("extensions", a.cfg.Extensions.StatusPoll)()
	a.checkState() // also the engine's state, before it is read again
	a.ext.Offer(a.loop.current())
	return a.ext.Run(ctx)
}

// openStartGate lets extensions start when provisioning has finished or failed.
func (a *Agent) openStartGate(ctx context.Context) error {
	select {
	case <-a.provisionedLatch.opened:
		a.startGate.open()
		a.ext.Wake()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// runJobs runs the table of jobs.
func (a *Agent) runJobs(ctx context.Context) error {
	a.loop.busy()
	a.setIdle(false)
	sched, err := startJobs(ctx, a.Log, a.jobs())
	if err != nil {
		return err
	}
	a.loop.begin()
	defer a.loop.end(errNotConnected)
	defer a.pulse.begin(jobGoalState, a.cfg.Extensions.Period)()
	a.keepPace(ctx, sched)
	if err := sched.Shutdown(); err != nil {
		a.Log.Warn().Err(err).Msg("job did not stop in time")
	}
	return context.Cause(ctx)
}

// connect connects to the platform. Until that works, it shows the reason in
// the status.
func (a *Agent) connect(ctx context.Context) error {
	done := inBackground(func() error { return a.platform.Connect(ctx) })
	if err := a.measure(ctx); err != nil { // its job begins later
		a.Log.Debug().Err(err).Msg("could not measure disk")
	}
	look := time.NewTicker(2 * time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			// wait: it ends with the context
			<-done //nolint:errcheck // its error does not matter once the context has ended
			return context.Cause(ctx)
		case err := <-done:
			if err == nil {
				a.platformOK()
				// Other endpoints that failed may be back, too.
				a.probe(ctx, func(platform.EndpointFact) bool { return true })
				a.live.problem("endpoint", "AZ-NET-ENDPOINT", fixOf("AZ-NET-ENDPOINT"), a.platform.WrongEndpoint())
			}
			return err
		case <-look.C:
			a.jit.askForCheck()
			for _, f := range a.platform.Endpoints() {
				if e := endpoint(f); f.Name == platform.WireServer && e.Code != "" {
					a.platformFailed(errors.New(e.LastError))
				}
			}
		}
	}
}

// platformOK clears the platform's problem, because the platform has answered.
func (a *Agent) platformOK() {
	if a.live.copy().Platform.Code == "" {
		return
	}
	a.live.set(func(s *status.Snapshot) { s.Platform.Problem, s.Platform.Waiting = status.Problem{}, "" })
}

// platformFailed shows why the platform cannot be asked.
func (a *Agent) platformFailed(err error) {
	code := a.platformCode()
	a.live.set(func(s *status.Snapshot) {
		p := &s.Platform
		if p.Since.IsZero() {
			p.Since = time.Now().UTC()
		}
		p.Code = code
		p.Fix, p.Waiting = fixOf(p.Code), "the platform: "+secret.Redact(err.Error())
	})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
)

// Polling: fast while something is going on, slow and cheap when idle
// (asks U55, U07).
const (
	fastPoll = time.Second
	fastFor  = 5 * time.Minute
)

// loop is what the goal-state job remembers.
type loop struct {
	turn sync.Mutex // one tick at a time: the job's, or one asked for by agentctl

	mu      sync.Mutex // guards what follows
	known   string
	gs      *protocol.GoalState
	changed time.Time // last new goal state, or the start
	sched   *scheduler
	slow    bool
}

func (l *loop) current() *protocol.GoalState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gs
}

// serve talks to the platform: goal states in, status out, extensions run.
// It starts at once; only the handlers wait for provisioning.
func (a *Agent) serve(ctx context.Context, provisioned <-chan struct{}) error {
	// The first seconds belong to provisioning and its report.
	select {
	case <-provisioned:
	case <-time.After(3 * time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if off, err := provisioning.AgentDisabled(a.system(), a.provisioningOptions()); off || err != nil {
		if err != nil {
			a.Log.Warn().Err(err).Msg("is the agent switched off for this VM?")
		}
		if off {
			// The VM was ordered without an agent: it was provisioned, and
			// nobody will speak to us (spec/provisioning §3.2).
			a.Log.Info().Msg("the VM was ordered without an agent (disable_agent): nothing more to do")
			a.board.note("agent", "switched off by the VM's order")
			<-ctx.Done()
			return context.Cause(ctx)
		}
	}
	if err := a.connect(ctx); err != nil {
		return err
	}
	a.board.set(func(s *status.Snapshot) { s.Platform.Endpoint = a.platform.Endpoint() })
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.ext.Run(ctx) })
	g.Go(func() error {
		// Extensions start when the machine is made, or was given up on.
		select {
		case <-provisioned:
			a.gate.open()
			a.ext.Wake()
		case <-ctx.Done():
		}
		return nil
	})
	a.loop.changed = time.Now()
	sched, err := startJobs(ctx, a.Log, a.jobs())
	if err != nil {
		return err
	}
	a.loop.mu.Lock()
	a.loop.sched = sched
	a.loop.mu.Unlock()
	g.Go(func() error {
		<-ctx.Done()
		if err := sched.Shutdown(); err != nil {
			a.Log.Warn().Err(err).Msg("a job did not end in time")
		}
		return context.Cause(ctx)
	})
	return g.Wait()
}

// connect waits for the platform, and says so where people look.
func (a *Agent) connect(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- a.platform.Connect(ctx) }()
	if err := a.measure(ctx); err != nil { // its job begins later
		a.Log.Debug().Err(err).Msg("disk not measured")
	}
	look := time.NewTicker(2 * time.Second)
	defer look.Stop()
	for {
		select {
		case err := <-done:
			if err == nil {
				a.platformWell()
				// Who was away with the platform is back with it.
				a.ask(ctx, func(platform.EndpointFact) bool { return true })
				a.board.problem("endpoint", "AZ-NET-ENDPOINT", fixOf("AZ-NET-ENDPOINT"), a.platform.BogusEndpoint())
			}
			return err
		case <-look.C:
			a.checkAccounts(ctx)
			for _, f := range a.platform.Endpoints() {
				if e := endpoint(f); f.Name == platform.WireServer && e.Code != "" {
					a.platformIll(errors.New(e.LastError))
				}
			}
		}
	}
}

// tick is one turn of the goal-state job. It never waits for a handler.
func (a *Agent) tick(ctx context.Context) error {
	a.loop.turn.Lock()
	defer a.loop.turn.Unlock()
	defer a.checkAccounts(ctx)
	gs, err := a.platform.GoalState(ctx, a.loop.known)
	switch {
	case errors.Is(err, protocol.ErrNotModified):
		a.platformWell()
		a.pace()
		return nil
	case err != nil:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a.platformIll(err)
		a.pace()
		if !protocol.Loud(err) {
			return fmt.Errorf("get goal state: %w (%w)", err, errKnown)
		}
		return fmt.Errorf("get goal state: %w", err)
	}
	a.platformWell()
	a.adopt(gs)
	a.pace()
	return nil
}

// adopt hands a new goal state to everybody it concerns.
func (a *Agent) adopt(gs *protocol.GoalState) {
	l := &a.loop
	l.mu.Lock()
	first := l.gs == nil
	l.gs, l.known, l.changed = gs, gs.Key(), time.Now()
	l.mu.Unlock()
	a.Log.Info().Str("goal_state", gs.ID).Str("source", string(gs.Source)).Str("activity", gs.ActivityID).
		Int("handlers", len(gs.Handlers)).Int("certificates", len(gs.Certs)).Bool("on_hold", gs.OnHold).Msg("new goal state")
	if gs.CertsErr != nil {
		a.Log.Warn().Err(gs.CertsErr).Str("code", certsCode(gs.CertsErr)).Msg("certificates incomplete")
	}
	a.board.problem("certificates", certsCode(gs.CertsErr), fixOf(certsCode(gs.CertsErr)), gs.CertsErr)
	a.asked.set(gs)
	a.showPolicy()
	a.board.set(func(s *status.Snapshot) {
		g := &s.Platform.GoalState
		g.ID, g.ETag, g.Source, g.Activity, g.Received = gs.ID, gs.ETag, string(gs.Source), gs.ActivityID, gs.Received
		g.Applied, g.LagS = time.Time{}, 0
		s.Platform.OnHold = gs.OnHold
		s.Platform.RequiredFeatures = gs.RequiredFeatures
		s.VM.ContainerID = gs.ContainerID
		s.Certs = certs(gs)
	})
	if !first {
		a.board.note("goal state", gs.ID)
	}
	a.access.set(gs.Users)
	a.ext.Offer(gs)
	a.rep.force()
	a.board.poke()
}

// pollEvery is the period that fits the moment.
func (a *Agent) pollEvery() time.Duration {
	if time.Since(a.loop.changed) < fastFor {
		return min(fastPoll, a.cfg.Extensions.Period)
	}
	return a.cfg.Extensions.Period
}

// pace switches between fast and slow polling.
func (a *Agent) pace() {
	l := &a.loop
	l.mu.Lock()
	defer l.mu.Unlock()
	every := a.cfg.Extensions.Period
	fast := time.Since(l.changed) < fastFor
	if fast {
		every = min(fastPoll, every)
	}
	if l.sched == nil || fast != l.slow {
		return
	}
	if err := l.sched.every(job{"goal-state", every, a.tick}); err != nil {
		a.Log.Warn().Err(err).Msg("poll period not changed")
		return
	}
	l.slow = !fast
	a.rest(l.slow)
}

// rest leaves one processor to an agent to which nothing happens: waking a
// second one costs more than the little that both do. It also needs less
// memory from now on.
func (a *Agent) rest(quiet bool) {
	if quiet {
		a.trimmed.Store(0)
	}
	if a.Processors < 1 {
		return // not our process
	}
	if quiet {
		debug.SetGCPercent(quietGC)
		runtime.GOMAXPROCS(1)
		host.SetTimerSlack(quietSlack)
		return
	}
	debug.SetGCPercent(BusyGC)
	runtime.GOMAXPROCS(a.Processors)
	host.SetTimerSlack(host.ExactTimers)
}

// quietSlack is how late a timer may be when nothing is urgent.
const quietSlack = 4 * time.Millisecond

// How much of the heap may be garbage, in percent of what is used. An agent
// that rests makes so little that a small heap costs no more collections than
// those that the runtime makes every two minutes anyway.
const (
	BusyGC  = 50
	quietGC = 20
)

func (a *Agent) platformWell() {
	if a.board.copy().Platform.Code == "" {
		return
	}
	a.board.set(func(s *status.Snapshot) { s.Platform.Problem, s.Platform.Waiting = status.Problem{}, "" })
}

func (a *Agent) platformIll(err error) {
	a.board.set(func(s *status.Snapshot) {
		p := &s.Platform
		if p.Since.IsZero() {
			p.Since = time.Now().UTC()
		}
		p.Code = a.platformCode()
		p.Fix, p.Waiting = fixOf(p.Code), "the platform: "+secret.Redact(err.Error())
	})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/host/process"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/provisioning"
)

// Polling: fast while something is going on, slow and cheap when idle.
const (
	fastPoll = time.Second
	fastFor  = 5 * time.Minute
)

// loop is what the goal-state job remembers.
type loop struct {
	// turn is held by the one tick there is: the job's, or one that agentctl
	// asks for. It guards known and slow.
	turn  chan struct{}
	known string
	slow  bool

	mu      sync.Mutex // guards what follows
	gs      *protocol.GoalState
	changed time.Time // last new goal state, or the start
	// sched runs the jobs; nil while there is nobody to ask for a goal state,
	// and absent says why.
	sched  *scheduler
	absent error
}

func newLoop() loop { return loop{turn: make(chan struct{}, 1), absent: errNotConnected} }

// Why nobody asks the platform for a goal state.
var (
	errNotConnected = errors.New("not connected to the platform yet")
	errSwitchedOff  = errors.New("the agent is disabled for this VM (disable_agent)")
)

// begin says that there is somebody to ask from now on.
func (l *loop) begin(s *scheduler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sched, l.absent = s, nil
}

// end says that there is nobody.
func (l *loop) end(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sched, l.absent = nil, why
}

// ready is nil if the platform is asked for goal states, else why not.
func (l *loop) ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.absent
}

func (l *loop) scheduler() *scheduler {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sched
}

// busy makes the polling fast for a while.
func (l *loop) busy() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changed = time.Now()
}

func (l *loop) lately() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.changed) < fastFor
}

func (l *loop) current() *protocol.GoalState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gs
}

// serve talks to the platform: goal states in, status out, extensions run.
// It starts at once; only the handlers wait for provisioning.
func (a *Agent) serve(ctx context.Context) error {
	// The first seconds belong to provisioning and its report.
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
			// The VM was ordered without an agent: it was provisioned, and
			// nobody will speak to us (provisioning/SPEC.md §7.13).
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

// engine runs the extension engine. One that was started anew gets to know what
// the platform wants.
func (a *Agent) engine(ctx context.Context) error {
	defer a.pulse.begin("extensions", a.cfg.Extensions.StatusPoll)()
	a.checkState() // of the engine, before it looks at it again
	a.ext.Offer(a.loop.current())
	return a.ext.Run(ctx)
}

// openStartGate lets extensions start when the machine is made, or was given up
// on.
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
	sched, err := startJobs(ctx, a.Log, a.jobs())
	if err != nil {
		return err
	}
	a.loop.begin(sched)
	defer a.loop.end(errNotConnected)
	defer a.pulse.begin(jobGoalState, a.cfg.Extensions.Period)()
	<-ctx.Done()
	if err := sched.Shutdown(); err != nil {
		a.Log.Warn().Err(err).Msg("job did not stop in time")
	}
	return context.Cause(ctx)
}

// connect waits for the platform, and says so where people look.
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
			return context.Cause(ctx)
		case err := <-done:
			if err == nil {
				a.platformOK()
				// Who was away with the platform is back with it.
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

// turnLimit bounds one turn of a job that the agent can't be without; it is
// more than the requests of one turn take together on a slow host.
const turnLimit = 4 * time.Minute

// poll is one turn of the goal-state job.
func (a *Agent) poll(ctx context.Context) error {
	defer a.pulse.beat(jobGoalState)
	ctx, cancel := context.WithTimeoutCause(ctx, turnLimit, fmt.Errorf("not finished after %v", turnLimit))
	defer cancel()
	return a.tick(ctx)
}

// tick asks the platform for a goal state. It never waits for a handler.
func (a *Agent) tick(ctx context.Context) error {
	select {
	case a.loop.turn <- struct{}{}:
		// wait: it gives back what this call has put there
		defer func() { <-a.loop.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer a.jit.askForCheck()
	gs, err := a.platform.GoalState(ctx, a.loop.known)
	switch {
	case errors.Is(err, protocol.ErrNotModified):
		a.platformOK()
		a.pace()
		return nil
	case err != nil:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a.platformFailed(err)
		a.pace()
		if !protocol.Loud(err) {
			return fmt.Errorf("get goal state: %w (%w)", err, errKnown)
		}
		return fmt.Errorf("get goal state: %w", err)
	}
	a.platformOK()
	a.adopt(gs)
	a.pace()
	return nil
}

// adopt hands a new goal state to everybody it concerns.
func (a *Agent) adopt(gs *protocol.GoalState) {
	l := &a.loop
	l.mu.Lock()
	first := l.gs == nil
	l.gs, l.changed = gs, time.Now()
	l.mu.Unlock()
	l.known = gs.Key()
	a.Log.Info().Str("goal_state", gs.ID).Str("source", string(gs.Source)).Str("activity", gs.ActivityID).
		Int("handlers", len(gs.Handlers)).Int("certificates", len(gs.Certs)).Bool("on_hold", gs.OnHold).Msg("new goal state")
	if gs.CertsErr != nil {
		a.Log.Warn().Err(gs.CertsErr).Str("code", certsCode(gs.CertsErr)).Msg("certificates incomplete")
	}
	a.live.problem("certificates", certsCode(gs.CertsErr), fixOf(certsCode(gs.CertsErr)), gs.CertsErr)
	a.requesters.set(gs)
	a.showPolicy()
	a.live.set(func(s *status.Snapshot) {
		g := &s.Platform.GoalState
		g.ID, g.ETag, g.Source, g.Activity, g.Received = gs.ID, gs.ETag, string(gs.Source), gs.ActivityID, gs.Received
		g.Applied, g.LagS = time.Time{}, 0
		s.Platform.OnHold = gs.OnHold
		s.Platform.RequiredFeatures = gs.RequiredFeatures
		s.VM.ContainerID = gs.ContainerID
		s.Certs = certs(gs)
	})
	if !first {
		a.live.note("goal state", gs.ID)
	}
	a.jit.set(gs.Users)
	a.ext.Offer(gs)
	a.rep.force()
	a.live.poke()
}

// pollEvery is the period that fits the moment.
func (a *Agent) pollEvery() time.Duration {
	if a.loop.lately() {
		return min(fastPoll, a.cfg.Extensions.Period)
	}
	return a.cfg.Extensions.Period
}

// pace switches between fast and slow polling; who calls it has the turn.
func (a *Agent) pace() {
	l := &a.loop
	sched, fast := l.scheduler(), l.lately()
	if sched == nil || fast != l.slow {
		return
	}
	if err := sched.every(repeated{jobGoalState, a.pollEvery(), a.poll}); err != nil {
		a.Log.Warn().Err(err).Msg("could not change poll period")
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
		process.SetTimerSlack(quietSlack)
		return
	}
	debug.SetGCPercent(BusyGC)
	runtime.GOMAXPROCS(a.Processors)
	process.SetTimerSlack(process.ExactTimers)
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

func (a *Agent) platformOK() {
	if a.live.copy().Platform.Code == "" {
		return
	}
	a.live.set(func(s *status.Snapshot) { s.Platform.Problem, s.Platform.Waiting = status.Problem{}, "" })
}

func (a *Agent) platformFailed(err error) {
	a.live.set(func(s *status.Snapshot) {
		p := &s.Platform
		if p.Since.IsZero() {
			p.Since = time.Now().UTC()
		}
		p.Code = a.platformCode()
		p.Fix, p.Waiting = fixOf(p.Code), "the platform: "+secret.Redact(err.Error())
	})
}

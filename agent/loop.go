package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol"
)

// Polling: fast while something is going on, slow and cheap when idle.
const (
	fastPoll = time.Second
	fastFor  = 5 * time.Minute
)

// loop is what the goal-state job remembers.
type loop struct {
	// turn is held during a tick, which either the job or a request of agentctl
	// starts. It guards known.
	turn  turn
	known string
	// polled has capacity 1: a poll has ended, and the period may have to
	// change.
	polled chan struct{}

	mu      sync.Mutex // guards what follows
	gs      *protocol.GoalState
	changed time.Time // last new goal state, or the start
	absent  error     // why no goal states are fetched; nil while they are
}

func newLoop() loop {
	return loop{turn: newTurn(), polled: make(chan struct{}, 1), absent: errNotConnected}
}

// Reasons why no goal states are fetched.
var (
	errNotConnected = errors.New("not connected to the platform yet")
	errSwitchedOff  = errors.New("the agent is disabled for this VM (disable_agent)")
)

// begin records that goal states are fetched from now on.
func (l *loop) begin() { l.end(nil) }

// end records why no goal states are fetched from now on.
func (l *loop) end(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.absent = why
}

// ready returns nil if goal states are fetched, else why not.
func (l *loop) ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.absent
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

// turnLimit bounds one turn of a vital job; it is more than all requests of one
// turn take on a slow host.
const turnLimit = 4 * time.Minute

// poll is one turn of the goal-state job.
func (a *Agent) poll(ctx context.Context) error {
	defer a.pulse.beat(jobGoalState)
	ctx, cancel := context.WithTimeoutCause(ctx, turnLimit, fmt.Errorf("not finished after %v", turnLimit))
	defer cancel()
	return a.tick(ctx)
}

// tick fetches the goal state if it has changed. It never waits for a handler.
func (a *Agent) tick(ctx context.Context) error {
	end, err := a.loop.turn.take(ctx)
	if err != nil {
		return err
	}
	defer a.loop.tellPolled()
	defer end()
	defer a.jit.askForCheck()
	gs, err := a.platform.GoalState(ctx, a.loop.known)
	switch {
	case errors.Is(err, protocol.ErrNotModified):
		a.platformOK()
		return nil
	case err != nil:
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a.platformFailed(err)
		if !protocol.Loud(err) {
			return fmt.Errorf("get goal state: %w (%w)", err, errKnown)
		}
		return fmt.Errorf("get goal state: %w", err)
	}
	a.platformOK()
	a.adopt(gs)
	return nil
}

// adopt passes a new goal state to all parts that use it.
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

// pollEvery returns the current polling period.
func (a *Agent) pollEvery() time.Duration {
	if a.loop.lately() {
		return min(fastPoll, a.cfg.Extensions.Period)
	}
	return a.cfg.Extensions.Period
}

// tellPolled signals that a poll has ended.
func (l *loop) tellPolled() {
	select {
	case l.polled <- struct{}{}:
	default:
	}
}

// keepPace switches between fast and slow polling until the context ends. Only
// the goroutine that has started the scheduler changes it.
func (a *Agent) keepPace(ctx context.Context, sched *scheduler) {
	fast := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.loop.polled:
		}
		lately := a.loop.lately()
		if lately == fast {
			continue
		}
		if err := sched.every(periodicJob{jobGoalState, a.pollEvery(), a.poll}); err != nil {
			a.Log.Warn().Err(err).Msg("could not change poll period")
			continue
		}
		fast = lately
		a.setIdle(!fast)
	}
}

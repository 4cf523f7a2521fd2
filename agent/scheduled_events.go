package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/hook"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/protocol/imds"
)

// An eventWatch asks for scheduled events and has each of them handled by an
// eventCase, a goroutine that alone writes the record of its event.
type eventWatch struct {
	*Agent
	runner hook.Runner
	cases  map[string]*eventCase // by key; only run uses it
	all    sync.WaitGroup        // of the cases

	failing  time.Time // since when there is no usable answer
	logged   time.Time // when that was last written
	reported bool
}

// eventPatience is how long the service may fail before it is a problem.
const eventPatience = 30 * time.Second

func newEventWatch(a *Agent, x hook.Runner, runs []status.HookRun) *eventWatch {
	w := &eventWatch{Agent: a, runner: x, cases: map[string]*eventCase{}}
	for _, r := range runs {
		if r.Announced() && r.Ended.IsZero() {
			w.cases[r.Key] = newEventCase(w, r)
		}
	}
	return w
}

// run asks until the context ends.
func (w *eventWatch) run(ctx context.Context) error {
	// wait: every case ends with the context
	defer w.all.Wait()
	tick := time.NewTicker(w.cfg.Hooks.Period)
	defer tick.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// look asks once.
func (w *eventWatch) look(ctx context.Context) {
	name, err := w.platform.MachineName(ctx)
	var doc imds.ScheduledEvents
	if err == nil {
		doc, err = w.platform.ScheduledEvents(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	w.tellService(err)
	if err != nil {
		return
	}
	there := map[string]bool{}
	for _, id := range doc.Unusable {
		there[eventKey(id)] = true
	}
	// Those of this machine come first: a scale set can have many.
	slices.SortStableFunc(doc.Events, func(a, b imds.ScheduledEvent) int { return prefer(a.Concerns(name), b.Concerns(name)) })
	left := 0
	for _, e := range doc.Events {
		key := eventKey(e.ID)
		there[key] = true
		c := w.cases[key]
		if c == nil || c.over.Load() {
			here := e.Concerns(name)
			if c == nil && !w.room(here) {
				if here {
					left++
				}
				continue
			}
			if c = w.open(key, e, name); c == nil {
				continue
			}
			w.cases[key] = c
		}
		c.tell(ctx, shown(e, name))
	}
	if left > 0 {
		doc.Refused = errors.Join(doc.Refused, fmt.Errorf("%d more events of this machine wait until others are over", left))
	}
	w.live.problem("scheduled events of the platform", codeEventDocument, fixOf(codeEventDocument), doc.Refused)
	for key, c := range w.cases {
		if !there[key] {
			c.tell(ctx, nil)
			// Until its scripts have ended, the event may come back, as when one
			// answer of the service was wrong.
			if c.over.Load() {
				delete(w.cases, key)
			}
		}
	}
}

// How many events are followed at a time, and how many of them may be about other
// machines only: nothing is done about those, and each is a file and a goroutine.
const (
	maxCases   = 100
	maxForeign = 20
)

// room reports whether one more event can be followed.
func (w *eventWatch) room(here bool) bool {
	if here {
		return len(w.cases) < maxCases
	}
	foreign := 0
	for _, c := range w.cases {
		if !c.here {
			foreign++
		}
	}
	return foreign < maxForeign
}

// prefer compares two values so that true comes first.
func prefer(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// open makes the case of an event that is new to this process. It returns nil if
// there is nothing left to do about it, or if its record cannot be written.
func (w *eventWatch) open(key string, e imds.ScheduledEvent, name string) *eventCase {
	if r, ok := w.runner.Store.Load(key); ok && r.Event != nil {
		if !r.Ended.IsZero() {
			// An event that was thought to be over is in the document again.
			r.Ended, r.Event.Gone, r.Event.Outcome = time.Time{}, time.Time{}, ""
		}
		return newEventCase(w, r)
	}
	ev := shown(e, name)
	hookName := strings.ToLower(e.Type)
	var scripts []hook.Script
	var err error
	if ev.Here && e.Status == imds.EventScheduled && knownType(e.Type) {
		scripts, err = hook.Find(w.Root, hookName)
	}
	r := w.runner.Store.New(key, hookName, w.vmID(), w.Root.BootID(), scripts, err)
	r.Event, r.ClockAheadS = ev, int(w.ahead()/time.Second)
	if err := w.runner.Store.Save(r); err != nil {
		w.hooksStopped(key, err)
		return nil
	}
	w.hooksStopped(key, nil)
	w.Log.Info().Str("event", e.ID).Str("type", e.Type).Str("status", e.Status).Time("not_before", e.NotBefore).Strs("resources", e.Resources).
		Bool("this_machine", ev.Here).Int("scripts", len(scripts)).Msg("scheduled event")
	w.showRun(r)
	return newEventCase(w, r)
}

// tellService logs and shows that there is no usable answer.
func (w *eventWatch) tellService(err error) {
	const what = "scheduled events"
	switch {
	case err == nil && w.failing.IsZero():
		return
	case err == nil:
		if !w.logged.IsZero() {
			w.Log.Info().Dur("after", time.Since(w.failing)).Msg("scheduled events of the platform can be read again")
		}
		w.failing, w.logged = time.Time{}, time.Time{}
	case w.failing.IsZero():
		w.failing = time.Now()
		return
	case time.Since(w.failing) < eventPatience:
		return
	case time.Since(w.logged) >= quietFor:
		w.logged = time.Now()
		w.Log.Warn().Err(err).Str("code", codeEventService).Msg("scheduled events of the platform cannot be read")
	}
	if err != nil || w.reported {
		w.reported = err != nil
		w.live.problem(what, codeEventService, fixOf(codeEventService), err)
	}
}

// leastAhead is the difference of two clocks below which they count as equal: the
// platform's answers have whole seconds.
const leastAhead = 3 * time.Second

// ahead returns how far this machine's clock is ahead of the platform's: an event
// must not look as if it had started because a clock is wrong.
func (w *eventWatch) ahead() time.Duration {
	skew, _, ok := w.platform.Skew()
	if !ok || skew.Abs() < leastAhead {
		return 0
	}
	return skew
}

// knownType reports whether there is a hook for a type of event.
func knownType(t string) bool {
	switch t {
	case imds.EventFreeze, imds.EventReboot, imds.EventRedeploy, imds.EventPreempt, imds.EventTerminate:
		return true
	}
	return false
}

func eventKey(id string) string { return status.EventKey + strings.ToLower(id) }

// shown is an event as records have it.
func shown(e imds.ScheduledEvent, name string) *status.HookEvent {
	return &status.HookEvent{
		ID: e.ID, Type: e.Type, Status: e.Status, NotBefore: e.NotBefore, Source: e.Source, Description: e.Description,
		DurationS: int(e.Duration / time.Second), Resources: e.Resources, Here: e.Concerns(name),
	}
}

// An eventCase is what the agent does about one event.
type eventCase struct {
	w       *eventWatch
	started bool
	here    bool // it is about this machine, as far as known when the case was made
	// news has the event as it is in the document now, or nil once it is not in
	// it any more. Its capacity is 1; what nobody has taken is replaced.
	news chan *status.HookEvent
	over atomic.Bool    // the goroutine does not write the record any more
	run  status.HookRun // only its goroutine uses it
	next status.HookRun // of the scripts that follow; the same
	try  time.Time      // before this the acknowledgement is not repeated

	unsaved bool // the record on disk is older than run
}

func newEventCase(w *eventWatch, r status.HookRun) *eventCase {
	return &eventCase{w: w, news: make(chan *status.HookEvent, 1), run: r, here: r.Event.Here}
}

// tell passes on what the document says, and starts the goroutine with it: an
// earlier process may have seen another state.
func (c *eventCase) tell(ctx context.Context, e *status.HookEvent) {
	select {
	case <-c.news:
	default:
	}
	select {
	case c.news <- e:
	default: // only this function sends, so there is room
	}
	if !c.started {
		c.started = true
		c.w.all.Go(func() {
			defer crash.Guard()
			c.handle(ctx)
		})
	}
}

// handle does what Decide says, until nothing is left to do or the context ends.
func (c *eventCase) handle(ctx context.Context) {
	ended := make(chan status.HookRun, 1) // a script has
	waiting := false
	select {
	case <-ctx.Done():
		return
	case e := <-c.news:
		if c.learn(e) {
			c.saved(ctx, c.w.runner.Store.Save(c.run))
		}
	}
	for ctx.Err() == nil {
		// The times of an event are the platform's. The clock may have been set
		// since the event was seen.
		now, ahead := time.Now(), c.w.ahead()
		judged := c.run
		judged.Seen = judged.Seen.Add(-time.Duration(judged.ClockAheadS) * time.Second)
		act := hook.Decide(judged, now.Add(-ahead), hook.Policy{Acknowledge: c.w.cfg.Hooks.Acknowledge, Timeout: c.w.cfg.Hooks.Timeout})
		if act.Do == hook.Acknowledge && now.Before(c.try) {
			act = hook.Action{Do: hook.Wait, At: c.try.Add(-ahead)}
		}
		var err error
		if c.unsaved && act.Do == hook.Wait {
			c.saved(ctx, c.w.runner.Store.Save(c.run))
			continue
		}
		switch act.Do {
		case hook.Start:
			c.run, err = c.w.runner.Start(c.run, act.Script, act.Timeout)
		case hook.Skip:
			c.run = hook.Skipped(c.run, act.Why)
			err = c.w.runner.Store.Save(c.run)
		case hook.Settle:
			err = c.settle(status.AckNone, act.Why)
		case hook.Acknowledge:
			err = c.acknowledge(ctx, act.Why)
		case hook.Wait:
			if i := c.running(); i >= 0 && !waiting {
				waiting = true
				c.await(ctx, i, ended)
			}
			var end bool
			at := act.At
			if !at.IsZero() {
				at = at.Add(ahead)
			}
			if end, err = c.wait(ctx, at, ended); end {
				waiting = false
			}
		case hook.End:
			// The record of what follows is first on disk, so that it is not
			// forgotten.
			if err = c.after(); err != nil {
				break
			}
			c.run.Ended = now.UTC()
			if err = c.w.runner.Store.Save(c.run); err == nil {
				c.end(ctx)
				return
			}
		}
		if act.Do != hook.Wait || err != nil {
			c.saved(ctx, err)
		}
	}
}

// saved shows the record, or that it cannot be written; then it waits before that
// is tried again.
func (c *eventCase) saved(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	c.w.hooksStopped(c.run.Key, err)
	if c.unsaved = err != nil; c.unsaved {
		c.pause(ctx)
		return
	}
	c.w.showRun(c.run)
}

// end runs the scripts that follow an event whose record is complete.
func (c *eventCase) end(ctx context.Context) {
	c.over.Store(true)
	c.w.hooksStopped(c.run.Key, nil)
	c.w.live.problem(c.ackProblem(), "", "", nil)
	c.w.showRun(c.run)
	c.w.logRun(c.run)
	c.w.finishRun(ctx, c.w.runner, c.next)
}

// after makes the record of the scripts for the time after an event, if there are
// any and the event was about this machine. One that exists already belongs to
// resumeHooks, or to the time when the event was over before.
func (c *eventCase) after() error {
	key := hook.Ended + "-" + strings.TrimPrefix(c.run.Key, status.EventKey)
	if _, known := c.w.runner.Store.Load(key); known {
		return nil
	}
	scripts, err := hook.Find(c.w.Root, hook.Ended)
	if !c.run.Event.Here || err == nil && len(scripts) == 0 {
		return nil
	}
	r := c.w.runner.Store.New(key, hook.Ended, c.run.VM, c.w.Root.BootID(), scripts, err)
	r.Event = c.run.Event
	if err := c.w.runner.Store.Save(r); err != nil {
		return err
	}
	c.next = r
	return nil
}

// pause waits before something that failed is tried again.
func (c *eventCase) pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryRecord):
	}
}

const retryAck = 2 * time.Second

func (c *eventCase) running() int {
	for i, s := range c.run.Scripts {
		if s.State == status.HookRunning {
			return i
		}
	}
	return -1
}

// await has a goroutine wait for a script. It ends with the context.
func (c *eventCase) await(ctx context.Context, i int, ended chan<- status.HookRun) {
	run := c.run
	c.w.all.Go(func() {
		defer crash.Guard()
		if r, err := c.w.runner.Await(ctx, run, i); err == nil {
			ended <- r
		}
	})
}

// wait waits for news, the end of a script or a time, and records what it
// learns. end means that a script has ended.
func (c *eventCase) wait(ctx context.Context, at time.Time, ended <-chan status.HookRun) (end bool, err error) {
	var alarm <-chan time.Time
	if !at.IsZero() {
		alarm = time.After(time.Until(at))
	}
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-alarm:
		return false, nil
	case r := <-ended:
		c.run.Scripts = r.Scripts
		err = c.w.runner.Store.Save(c.run)
		c.w.showRun(c.run)
		return true, err
	case e := <-c.news:
		if !c.learn(e) {
			return false, nil
		}
		err = c.w.runner.Store.Save(c.run)
		c.w.showRun(c.run)
		return false, err
	}
}

// learn takes over what the document says about the event, and reports whether
// that is new.
func (c *eventCase) learn(e *status.HookEvent) bool {
	old := c.run.Event
	next := *old
	switch {
	case e == nil && old.Gone.IsZero():
		next.Gone, next.Outcome = time.Now().UTC(), c.outcome()
		c.w.Log.Info().Str("event", old.ID).Str("type", old.Type).Str("outcome", next.Outcome).Msg("scheduled event is over")
	case e == nil:
		return false
	case e.Status == old.Status && e.NotBefore.Equal(old.NotBefore) && old.Gone.IsZero() && e.Here == old.Here:
		return false
	default:
		if e.Status != old.Status {
			c.w.Log.Info().Str("event", e.ID).Str("type", e.Type).Str("status", e.Status).Msg("scheduled event has changed")
		}
		next = *e
		if next.NotBefore.IsZero() {
			next.NotBefore = old.NotBefore // it is blank once the event has started
		}
	}
	c.run.Event = &next
	return true
}

// outcome says how an event ended that is not in the document any more.
func (c *eventCase) outcome() string {
	e := c.run.Event
	switch {
	case e.Status == imds.EventStarted:
		return status.OutcomeCompleted
	case c.run.Ack != nil && c.run.Ack.State == status.AckSent, e.NotBefore.IsZero(), time.Until(e.NotBefore.Add(c.w.ahead())) < c.w.cfg.Hooks.Period+time.Second:
		return status.OutcomeOver
	}
	return status.OutcomeCancelled
}

// settle records what became of the acknowledgement.
func (c *eventCase) settle(state, why string) error {
	c.run.Ack = &status.HookAck{State: state, At: time.Now().UTC(), Why: why}
	return c.w.runner.Store.Save(c.run)
}

// ackProblem is what a problem with the acknowledgement is called. It lasts as
// long as the event.
func (c *eventCase) ackProblem() string { return "acknowledgement of event " + c.run.Event.ID }

// acknowledge tells the platform that the event may start. A request that got no
// answer is repeated as long as that makes sense: twice does no harm.
func (c *eventCase) acknowledge(ctx context.Context, why string) error {
	what := c.ackProblem()
	err := c.w.platform.StartEvent(ctx, c.run.Event.ID)
	switch {
	case err == nil:
		c.w.Log.Info().Str("event", c.run.Event.ID).Str("why", why).Msg("scheduled event acknowledged")
		c.w.live.note("event "+c.run.Event.Type, "acknowledged: "+why)
		c.w.live.problem(what, "", "", nil)
		return c.settle(status.AckSent, why)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case imds.RefusedAcknowledgement(err):
		c.w.Log.Warn().Err(err).Str("code", codeEventAck).Str("event", c.run.Event.ID).Msg("platform refused the acknowledgement of a scheduled event")
		c.w.live.problem(what, codeEventAck, fixOf(codeEventAck), err)
		return c.settle(status.AckFailed, err.Error())
	}
	if c.try.IsZero() {
		c.w.Log.Warn().Err(err).Str("code", codeEventAck).Str("event", c.run.Event.ID).Msg("acknowledgement of a scheduled event could not be sent, it is repeated")
		c.w.live.problem(what, codeEventAck, fixOf(codeEventAck), err)
	}
	c.try = time.Now().Add(retryAck)
	return nil
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/hook"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/test/fabric"
)

// TestScheduledEventsAreWatched: one request in each period, a service that fails
// is a problem after half a minute and no sooner, and what the platform takes
// back is noticed.
func TestScheduledEventsAreWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fabric.New(t)
		vm := f.CreateVM("vm-01")
		a := testAgent(t, f, func(c *config.Config) { c.Hooks.Enabled, c.Hooks.Period = true, 2*time.Second })
		defer a.platform.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.runHooks(ctx) }()
		defer func() {
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}()
		asked := func(during time.Duration) int {
			from := time.Now()
			time.Sleep(during)
			synctest.Wait()
			return count(f, from, fabric.ScheduledEvents)
		}
		if n := asked(time.Minute); n != 0 {
			t.Errorf("%d requests before the machine is provisioned", n)
		}
		a.provisionedLatch.open()
		asked(time.Second)
		if n := asked(time.Minute); n != 30 {
			t.Errorf("%d requests in a minute, want 30", n)
		}
		run := func() status.HookRun {
			s := a.live.copy()
			if s.Hooks == nil || len(s.Hooks.Runs) != 1 {
				t.Fatalf("shown: %+v", s.Hooks)
			}
			return s.Hooks.Runs[0]
		}
		id, err := vm.ScheduleEvent(fabric.ScheduledEvent{Type: fabric.Freeze})
		if err != nil {
			t.Fatal(err)
		}
		asked(4 * time.Second)
		if r := run(); r.Event.ID != id || !r.Event.Here || r.Ack == nil || r.Ack.State != status.AckNone || !r.Ended.IsZero() {
			t.Errorf("%+v %+v %+v", r, r.Event, r.Ack)
		}
		shows := func() bool {
			return slices.ContainsFunc(a.live.copy().Problems, func(p status.Item) bool { return p.Code == codeEventService })
		}
		fault, err := f.Fail(fabric.Fault{Kind: fabric.ScheduledEvents, Status: 500})
		if err != nil {
			t.Fatal(err)
		}
		if asked(eventPatience - 3*time.Second); shows() {
			t.Error("a short failure is a problem")
		}
		if asked(10 * time.Second); !shows() {
			t.Error("a failure is no problem")
		}
		if err := vm.CancelEvent(id); err != nil {
			t.Fatal(err)
		}
		f.RemoveFault(fault)
		if asked(4 * time.Second); shows() {
			t.Error("the problem is not over")
		}
		if r := run(); r.Event.Outcome != status.OutcomeCancelled || r.Ended.IsZero() {
			t.Errorf("%+v %+v", r, r.Event)
		}
	})
}

// TestScheduledEventsOfAScaleSet: what is about other machines, however many,
// takes no room from what is about this one; an event that cannot be read any
// more is not over.
func TestScheduledEventsOfAScaleSet(t *testing.T) {
	t.Parallel()
	const event = `{"EventId":%q,"EventType":"Preempt","EventStatus":%q,"Resources":["%s"],"NotBefore":""}`
	own := func(status string) string { return fmt.Sprintf(event, "OWN", status, "VM-01") }
	var crowd strings.Builder
	for i := range 300 {
		fmt.Fprintf(&crowd, event+",", fmt.Sprint("other-", i), "Scheduled", fmt.Sprint("vmss_", i))
	}
	synctest.Test(t, func(t *testing.T) {
		f := fabric.New(t)
		f.CreateVM("vm-01")
		a := testAgent(t, f, func(c *config.Config) { c.Hooks.Enabled, c.Hooks.Period = true, time.Second })
		defer a.platform.Close()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.runHooks(ctx) }()
		defer func() {
			cancel()
			<-done //nolint:errcheck // it ends with the context
		}()
		a.provisionedLatch.open()
		x := a.hookRunner()
		last := 0
		for _, step := range []struct {
			name, events string
			status, gone string // of the own event
			foreign      int    // records of other machines' events
		}{
			{"crowd", strings.TrimSuffix(crowd.String(), ","), "", "", maxForeign},
			{"the own one is the last", crowd.String() + own("Scheduled"), "Scheduled", "", maxForeign},
			{"a state that is not known", crowd.String() + own("Completed"), "Scheduled", "", maxForeign},
			{"started", crowd.String() + own("Started"), "Started", "", maxForeign},
			{"over", "", "Started", status.OutcomeCompleted, maxForeign},
			{"others", strings.ReplaceAll(strings.TrimSuffix(crowd.String(), ","), "other-", "new-"), "Started", status.OutcomeCompleted, 2 * maxForeign},
		} {
			body := `{"DocumentIncarnation":1,"Events":[` + step.events + `]}`
			next, err := f.Fail(fabric.Fault{Kind: fabric.ScheduledEvents, Status: 200, Body: &body})
			if err != nil {
				t.Fatal(err)
			}
			if last != 0 { // 0 removes all
				f.RemoveFault(last)
			}
			last = next
			time.Sleep(3 * time.Second)
			synctest.Wait()
			runs, err := x.Store.List()
			if err != nil {
				t.Fatal(err)
			}
			foreign := 0
			for _, r := range runs {
				if r.Foreign() {
					foreign++
				}
			}
			var got status.HookEvent
			r, ok := x.Store.Load("event-own")
			if ok {
				got = *r.Event
			}
			shown := slices.ContainsFunc(a.live.copy().Hooks.Runs, func(r status.HookRun) bool { return r.Key == "event-own" })
			if foreign != step.foreign || got.Status != step.status || got.Outcome != step.gone || shown != ok || len(a.live.copy().Hooks.Runs) > shownRuns {
				t.Errorf("%s: %d events of others, own one %+v, shown: %v", step.name, foreign, got, shown)
			}
		}
	})
}

// TestEventWhoseClockWasSet: the time of an event counts although the clock was
// wrong when it was seen, and has been set since.
func TestEventWhoseClockWasSet(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"right": 0, "hours ahead": 3 * time.Hour, "hours behind": -3 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := fabric.New(t)
				vm := f.CreateVM("vm-01")
				a := testAgent(t, f, func(c *config.Config) { c.Hooks.Acknowledge = hook.Deadline })
				defer a.platform.Close()
				a.showHooks(nil)
				x := a.hookRunner()
				if err := x.Store.Open(); err != nil {
					t.Fatal(err)
				}
				id, err := vm.ScheduleEvent(fabric.ScheduledEvent{Type: fabric.Freeze})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now().Add(15 * time.Minute)
				r := x.Store.New(eventKey(id), hook.Freeze, "", a.Root.BootID(), nil, nil)
				r.Seen, r.ClockAheadS = r.Seen.Add(ahead), int(ahead/time.Second)
				r.Scripts = []status.HookScript{{Name: "10-a", State: status.HookFailed, Code: hook.CodeFailed}}
				r.Event = &status.HookEvent{ID: id, Type: "Freeze", Status: "Scheduled", Here: true, NotBefore: start, Resources: []string{"vm-01"}}
				ctx, cancel := context.WithCancel(t.Context())
				w := newEventWatch(a, x, nil)
				newEventCase(w, r).tell(ctx, r.Event)
				time.Sleep(time.Until(start))
				cancel()
				w.all.Wait()
				if r, _ := x.Store.Load(r.Key); r.Ack == nil || r.Ack.State != status.AckSent || start.Sub(r.Ack.At).Round(time.Second) != 5*time.Second {
					t.Errorf("acknowledged: %+v, event at %v", r.Ack, start)
				}
			})
		})
	}
}

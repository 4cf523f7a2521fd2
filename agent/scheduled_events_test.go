package agent

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/config"
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

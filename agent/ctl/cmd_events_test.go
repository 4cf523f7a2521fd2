package ctl

import (
	"testing"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// TestTrialIsNoEvent: somebody who tries scripts is not told that the platform
// waits for anything.
func TestTrialIsNoEvent(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	event := func() *status.HookEvent {
		return &status.HookEvent{ID: "x", Type: "Freeze", Status: "Scheduled", NotBefore: at, Here: true}
	}
	for _, tc := range []struct {
		r          status.HookRun
		event, ack string
		open       bool
	}{
		{status.HookRun{Key: "run-freeze-1", Event: event()}, "trial", "-", false},
		{status.HookRun{Key: "event-x", Event: event()}, "scheduled, not before 2026-01-02 03:04:05 UTC", "not yet", true},
		{status.HookRun{Key: "ended-x", Event: event()}, "scheduled, not before 2026-01-02 03:04:05 UTC", "-", false},
		{status.HookRun{Key: "startup-b"}, "-", "-", false},
		{status.HookRun{Key: "shutdown-b", Event: &status.HookEvent{Type: "reboot"}}, "-", "-", false},
	} {
		if e, a := eventLine(tc.r), ackLine(tc.r); e != tc.event || a != tc.ack {
			t.Errorf("%s: %q, %q", tc.r.Key, e, a)
		}
		tc.r.Hook = "freeze"
		s := status.Snapshot{Hooks: &status.Hooks{Runs: []status.HookRun{tc.r}}}
		if got := (view{snap: s, now: at}).hooksRow().text; (got[:4] != "last") != tc.open {
			t.Errorf("%s: %q", tc.r.Key, got)
		}
	}
}

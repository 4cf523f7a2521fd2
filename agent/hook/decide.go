package hook

import (
	"slices"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// Values of Policy.Acknowledge.
const (
	OnSuccess = "success"  // only when all scripts have succeeded
	Deadline  = "deadline" // and otherwise shortly before the event starts anyway
	Never     = "never"
)

// A Policy is what the configuration says.
type Policy struct {
	Acknowledge string
	Timeout     time.Duration // of one script
}

// What to do about an event.
type What string

// The values of What.
const (
	Start       What = "start"       // the script, with the timeout
	Skip        What = "skip"        // all scripts that have not been started
	Settle      What = "settle"      // record that the event is not acknowledged
	Acknowledge What = "acknowledge" // tell the platform that the event may start
	Wait        What = "wait"        // for news, for the end of a script, or until At
	End         What = "end"         // nothing is left to do
)

// An Action is the next thing to do.
type Action struct {
	Do      What
	Script  int
	Timeout time.Duration
	At      time.Time // of Wait; zero: no time limit
	Why     string    // of Skip, Settle and Acknowledge
}

// scheduled is the state of an event that has not started.
const scheduled = "Scheduled"

// lead is how long before an event starts it is acknowledged in any case with
// Deadline: little, but enough for a request to be repeated.
const lead = 5 * time.Second

// leastTime is the time below which no script is started.
const leastTime = time.Second

// Decide returns what to do next about a scheduled event.
func Decide(r status.HookRun, now time.Time, p Policy) Action {
	e := r.Event
	open := e.Gone.IsZero() && e.Status == scheduled
	start := startTime(r)
	late := !start.IsZero() && start.Sub(now) < leastTime
	running := slices.ContainsFunc(r.Scripts, func(s status.HookScript) bool { return s.State == status.HookRunning })
	pending := slices.IndexFunc(r.Scripts, func(s status.HookScript) bool { return s.State == status.HookPending })
	var due time.Time // of the acknowledgement in any case
	if p.Acknowledge == Deadline && open && e.Here && !start.IsZero() && hasScripts(r) {
		due = start.Add(-lead)
	}
	switch {
	case r.Ack == nil && !due.IsZero() && !now.Before(due):
		return Action{Do: Acknowledge, Why: "the event starts in any case (Hooks.Acknowledge=deadline)"}
	case running && r.Ack == nil:
		return Action{Do: Wait, At: due}
	case running:
		return Action{Do: Wait}
	case pending >= 0 && !e.Gone.IsZero():
		return Action{Do: Skip, Why: "the event was over"}
	case pending >= 0 && (!open || late):
		return Action{Do: Skip, Why: "the event had started"}
	case pending >= 0:
		t := p.Timeout
		if !start.IsZero() {
			t = min(t, start.Sub(now))
		}
		return Action{Do: Start, Script: pending, Timeout: t}
	case r.Ack == nil:
		return acknowledgement(r, p, open, due)
	case !e.Gone.IsZero():
		return Action{Do: End}
	}
	return Action{Do: Wait}
}

// startTime returns when an event may start, zero if that is not known. A time
// that had passed when the event was first seen says nothing: the event has not
// started, so the platform is late, or the clock of this machine is wrong.
func startTime(r status.HookRun) time.Time {
	if t := r.Event.NotBefore; t.After(r.Seen) {
		return t
	}
	return time.Time{}
}

// acknowledgement decides when all scripts have ended.
func acknowledgement(r status.HookRun, p Policy, open bool, due time.Time) Action {
	_, failed := r.Failed()
	why := ""
	switch {
	case !r.Event.Here:
		why = "it is about other machines"
	case p.Acknowledge == Never:
		why = "Hooks.Acknowledge=never"
	case !hasScripts(r):
		why = "there is no script for it"
	case !open:
		why = "it did not wait for an acknowledgement any more"
	case failed:
		why = "not all scripts have succeeded"
	case len(r.Event.Resources) > 1:
		// An acknowledgement counts for all of them.
		why = "other machines that it is about may not be ready"
	default:
		return Action{Do: Acknowledge, Why: "all scripts have succeeded"}
	}
	if !due.IsZero() {
		return Action{Do: Wait, At: due}
	}
	return Action{Do: Settle, Why: why}
}

// hasScripts reports whether somebody has prepared for the event.
func hasScripts(r status.HookRun) bool { return len(r.Scripts) > 0 || r.Refused != "" }

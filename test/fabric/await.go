package fabric

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Condition is a state of a VM to wait for.
type Condition struct {
	Name  string
	check func(v *VM) (met bool, now string) // the caller holds f.mu
}

// HealthIs waits until the state of the guest's last health report is state, or
// with a slash until state and sub-status are: "NotReady/ProvisioningFailed".
func HealthIs(state string) Condition {
	return Condition{"health=" + state, func(v *VM) (bool, string) {
		now := v.health.State
		if v.health.SubStatus != "" {
			now += "/" + v.health.SubStatus
		}
		return strings.EqualFold(now, state) || !strings.Contains(state, "/") && strings.EqualFold(v.health.State, state),
			"health is " + or(now, "not reported")
	}}
}

// Ready waits until a handler is reported Ready and the extension's operation
// has succeeded. The name is that of the handler (Publisher.Type) or of an
// extension.
func Ready(name string) Condition {
	return Condition{"handler=" + name, func(v *VM) (bool, string) {
		handler := name
		if e := v.extensionNamed(name); e != nil {
			handler = e.handler()
		}
		for _, e := range v.extensions {
			if (strings.EqualFold(e.name, name) || strings.EqualFold(e.handler(), name)) && e.state != stateSucceeded {
				return false, fmt.Sprintf("extension %s is %s%s", e.name, e.state, errorText(e.failure))
			}
		}
		return v.handlerIs(handler, "Ready")
	}}
}

// HandlerIs waits for a handler status: Ready, NotReady, Unresponsive, or gone.
func HandlerIs(handler, status string) Condition {
	return Condition{"handler=" + handler + ":" + status, func(v *VM) (bool, string) { return v.handlerIs(handler, status) }}
}

func (v *VM) handlerIs(handler, status string) (bool, string) {
	if v.status == nil {
		return false, "no status yet"
	}
	for _, h := range v.status.Aggregate.Handlers {
		if strings.EqualFold(h.Name, handler) {
			return strings.EqualFold(h.Status, status), fmt.Sprintf("handler %s is %s (%d): %s", h.Name, h.Status, h.Code, h.Message.Message)
		}
	}
	return strings.EqualFold(status, "gone"), "handler " + handler + " is not in the status"
}

// ExtensionIs waits for an extension's provisioningState: Succeeded, Failed,
// or gone.
func ExtensionIs(name, state string) Condition {
	return Condition{"extension=" + name + ":" + state, func(v *VM) (bool, string) {
		e := v.extensionNamed(name)
		if e == nil {
			return strings.EqualFold(state, "gone"), "extension " + name + " does not exist"
		}
		return strings.EqualFold(e.state, state), fmt.Sprintf("extension %s is %s%s", e.name, e.state, errorText(e.failure))
	}}
}

func errorText(e *apiError) string {
	if e == nil {
		return ""
	}
	return " with " + e.Code + ": " + e.Message
}

// StatusSays waits until the last status document contains a text.
func StatusSays(text string) Condition {
	return Condition{"says=" + text, func(v *VM) (bool, string) {
		if v.status == nil {
			return false, "no status yet"
		}
		return strings.Contains(string(v.status.raw), text), "the status does not contain this text"
	}}
}

// StatusReports waits for n status documents in total.
func StatusReports(n int) Condition {
	return Condition{"status=" + strconv.Itoa(n), func(v *VM) (bool, string) {
		return v.statuses >= n, fmt.Sprintf("%d status documents received", v.statuses)
	}}
}

// Requested waits for n requests of a kind in total.
func Requested(kind Kind, n int) Condition {
	return Condition{fmt.Sprintf("request=%s:%d", kind, n), func(v *VM) (bool, string) {
		have := len(v.f.journal.find(Query{Kind: kind, VM: v.name}))
		return have >= n, fmt.Sprintf("%d requests of kind %s received", have, kind)
	}}
}

// Converged waits until the guest reports that it has processed the current
// goal state.
func Converged() Condition {
	return Condition{"converged", func(v *VM) (bool, string) {
		if v.status == nil {
			return false, "no status yet"
		}
		n := v.goalOrdinal(v.status)
		return n == v.ordinal, fmt.Sprintf("goal state %d is processed, the current one is %d", n, v.ordinal)
	}}
}

// eventStates are the states that EventIs waits for.
var eventStates = []string{EventScheduled, "Acknowledged", EventStarted, EventCompleted, EventCancelled}

// ParseCondition parses a condition as written on the command line:
//
//	ready                     health=Ready
//	health=NotReady/ProvisioningFailed
//	extension=NAME[:succeeded|failed|gone]
//	handler=Publisher.Type[:Ready|NotReady|gone]
//	says=TEXT                 the last status contains TEXT
//	status[=N]                N status documents, default 1
//	request=KIND[:N]          N requests of the kind, default 1
//	converged                 the current goal state is processed
//	event=TYPE|ID[:STATE]     acknowledged (default), scheduled, started, completed, cancelled
func ParseCondition(s string) (Condition, error) {
	name, value, _ := strings.Cut(s, "=")
	number := func(text string) (int, error) {
		if text == "" {
			return 1, nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return 0, fmt.Errorf("read condition %q: %q is not a number from 1 on", s, text)
		}
		return n, nil
	}
	first, last := value, ""
	if i := strings.LastIndex(value, ":"); i >= 0 {
		first, last = value[:i], value[i+1:]
	}
	known := func(c Condition, what, word string, words ...string) (Condition, error) {
		i := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, word) })
		if i >= 0 {
			return c, nil
		}
		return Condition{}, fmt.Errorf("read condition %q: %w", s, OneOf(what, word, words...))
	}
	switch {
	case name == "ready" && value == "":
		return HealthIs("Ready"), nil
	case name == "health" && value != "":
		state, _, _ := strings.Cut(value, "/")
		return known(HealthIs(value), "state", state, "Ready", "NotReady")
	case name == "extension" && first != "":
		return known(ExtensionIs(first, or(last, stateSucceeded)), "state", or(last, stateSucceeded), "succeeded", "failed", "gone", "creating", "updating", "deleting")
	case name == "handler" && first != "":
		return known(HandlerIs(first, or(last, "Ready")), "status", or(last, "Ready"), "Ready", "NotReady", "Installing", "Unresponsive", "gone")
	case name == "says" && value != "":
		return StatusSays(value), nil
	case name == "status":
		n, err := number(value)
		return StatusReports(n), err
	case name == "request" && first != "":
		if err := KnownKind(first, append(Kinds(), Events()...)); err != nil {
			return Condition{}, fmt.Errorf("read condition %q: %w", s, err)
		}
		n, err := number(last)
		return Requested(Kind(first), n), err
	case name == "converged" && value == "":
		return Converged(), nil
	case name == "event" && first != "":
		return known(EventIs(first, or(last, "Acknowledged")), "state", or(last, "Acknowledged"), eventStates...)
	}
	words := []string{"ready", "health=…", "extension=…", "handler=…", "says=…", "status[=N]", "request=KIND[:N]", "converged", "event=…"}
	names := []string{"ready", "health", "extension", "handler", "says", "status", "request", "converged", "event"}
	near := ""
	if n := nearest(name, names); n != "" && n != name {
		near = fmt.Sprintf("; did you mean %q?", n)
	}
	return Condition{}, fmt.Errorf("unknown condition %q%s (must be one of: %s)", s, near, strings.Join(words, ", "))
}

// recheck is the interval at which conditions are checked that change with time
// alone, such as an operation that times out.
const recheck = 200 * time.Millisecond

// Wait blocks until the condition is met. The error of a cancelled ctx says
// what the state was instead.
func (v *VM) Wait(ctx context.Context, c Condition) error {
	for {
		changed := v.f.journal.wait()
		v.f.mu.Lock()
		v.finishOperations()
		met, now := c.check(v)
		v.f.mu.Unlock()
		if met {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(recheck):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s: %s: %w", c.Name, v.name, now, context.Cause(ctx))
		}
	}
}

// Await is Wait for tests: it fails the test after two minutes.
func (v *VM) Await(t TB, c Condition) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := v.Wait(ctx, c); err != nil {
		t.Fatalf("%v", err)
	}
}

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// hold is the operator's request to start no extension until a given time.
type hold struct {
	mu sync.Mutex // guards held
	held
}

// held is a hold as it is saved on disk, so that it survives restarts and
// reboots.
type held struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason,omitempty"`
}

func (h *hold) set(to held) {
	h.mu.Lock()
	h.held = to
	h.mu.Unlock()
}

// now returns the hold, and whether it is in force.
func (h *hold) now() (held, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := time.Until(h.Until)
	// A hold that was set while the clock was far ahead must not last for
	// years.
	return h.held, left > 0 && left <= status.HoldMax
}

// why returns a text for what handlers wait for, "" if there is no hold.
func (h *hold) why() string {
	if held, on := h.now(); on {
		return "the end of the hold (" + held.Until.UTC().Format(time.DateTime) + " UTC)"
	}
	return ""
}

func (a *Agent) holdFile() string { return a.cfg.Paths.Lib + "/azguest/hold.json" }

// keepHold saves a hold and puts it in force; a zero h ends it.
func (a *Agent) keepHold(h held) error {
	var err error
	if h.Until.IsZero() {
		err = a.Root.Remove(a.holdFile())
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else {
		var b []byte
		if b, err = json.Marshal(h); err == nil {
			err = errors.Join(a.Root.MkdirAll(a.cfg.Paths.Lib+"/azguest", 0o700), a.Root.WriteFile(a.holdFile(), append(b, '\n'), 0o600))
		}
	}
	a.hold.set(h) // in force, even if only until the next restart
	if err != nil {
		return fmt.Errorf("save hold: %w", err)
	}
	return nil
}

// restoreHold restores the hold that a previous process saved.
func (a *Agent) restoreHold() {
	b, err := a.Root.ReadFile(a.holdFile())
	var h held
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.Log.Warn().Err(err).Msg("hold not readable, not in force")
		}
		return
	}
	a.hold.set(h)
}

// control serves agentctl's requests to change something. Only requests from
// root are accepted, and each one is logged. No other part needs the socket:
// agentctl status reads a file.
func (a *Agent) control(ctx context.Context) error {
	return status.Serve(ctx, a.paths.Socket, a.request)
}

func (a *Agent) request(ctx context.Context, r status.Request) status.Response {
	a.Log.Info().Str("op", r.Op).Str("handler", r.Extension).Str("reason", r.Reason).Int("uid", r.UID).Int("pid", r.PID).Msg("operator request")
	refuse := func(err error) status.Response { return status.Response{Error: err.Error()} }
	switch r.Op {
	case status.OpRetry:
		if r.Extension == "" {
			return refuse(fmt.Errorf("retry: no extension named"))
		}
		if err := a.loop.ready(); errors.Is(err, errSwitchedOff) {
			return refuse(err) // there will be no goal state
		}
		a.ext.Retry(r.Extension, r.Config, "operator: "+r.Reason)
		text := "retry requested for " + r.Extension
		if a.loop.current() == nil {
			text += "; it starts when there is a goal state"
		}
		return status.Response{OK: true, Message: text}
	case status.OpCancel:
		did, err := a.ext.Cancel(ctx, r.Extension, r.Config)
		if err != nil {
			return refuse(err)
		}
		return status.Response{OK: true, Message: did}
	case status.OpHold:
		if d := time.Duration(r.ForS * float64(time.Second)); d < time.Second || d > status.HoldMax {
			return refuse(fmt.Errorf("hold: duration must be between 1s and %.0fh", status.HoldMax.Hours()))
		}
		h := held{time.Now().Add(time.Duration(r.ForS * float64(time.Second))).UTC().Truncate(time.Second), r.Reason}
		if err := a.keepHold(h); err != nil {
			return refuse(err)
		}
		a.ext.Wake() // so that waiting handlers show what they wait for
		a.live.note("extensions", "held by the operator"+because(r.Reason))
		return status.Response{OK: true, Message: fmt.Sprintf("no extension starts until %s UTC; running commands continue", h.Until.Format(time.DateTime))}
	case status.OpResume:
		if err := a.keepHold(held{}); err != nil {
			return refuse(err)
		}
		a.ext.Wake()
		a.live.note("extensions", "hold ended by the operator")
		return status.Response{OK: true, Message: "hold ended"}
	case status.OpClean:
		freed, err := a.clean(true)
		if err != nil {
			return refuse(err)
		}
		return status.Response{OK: true, Message: fmt.Sprintf("freed %d bytes", freed)}
	case status.OpReport:
		if err := a.loop.ready(); err != nil {
			return refuse(err)
		}
		if err := a.tick(ctx); err != nil {
			return refuse(err)
		}
		a.rep.force()
		a.live.poke()
		return status.Response{OK: true, Message: "goal state fetched, status report scheduled"}
	case status.OpDoctor:
		return a.doctor(ctx)
	default:
		return status.Response{Error: fmt.Sprintf("unknown request %q", r.Op), Code: "AZ-CTL-UNKNOWN"}
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// hold is the operator's "start no extension until then".
type hold struct {
	mu    sync.Mutex // guards until
	until time.Time
}

func (h *hold) set(until time.Time) {
	h.mu.Lock()
	h.until = until
	h.mu.Unlock()
}

// why says what is waited for, or "".
func (h *hold) why() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if left := time.Until(h.until); left > 0 {
		return fmt.Sprintf("operator's hold for another %v", left.Round(time.Second))
	}
	return ""
}

// control serves agentctl's requests to change something. Only root is
// heard, and each request is written to the log. Without the socket the
// agent is whole: agentctl status reads a file.
func (a *Agent) control(ctx context.Context) error {
	err := status.Serve(ctx, a.paths.Socket, a.request)
	if err != nil && ctx.Err() == nil {
		a.Log.Warn().Err(err).Msg("no control socket; agentctl can only look")
	}
	return nil
}

func (a *Agent) request(ctx context.Context, r status.Request) status.Response {
	a.Log.Info().Str("op", r.Op).Str("handler", r.Extension).Str("reason", r.Reason).Int("uid", r.UID).Int("pid", r.PID).Msg("operator's request")
	refuse := func(err error) status.Response { return status.Response{Error: err.Error()} }
	switch r.Op {
	case status.OpRetry:
		if r.Extension == "" {
			return refuse(fmt.Errorf("retry: name an extension"))
		}
		a.ext.Retry(r.Extension, r.Config, "operator: "+r.Reason)
		return status.Response{OK: true, Message: "asked for another try of " + r.Extension}
	case status.OpCancel:
		if err := a.ext.Cancel(r.Extension); err != nil {
			return refuse(err)
		}
		return status.Response{OK: true, Message: "stopped what ran for " + r.Extension}
	case status.OpHold:
		if r.ForS <= 0 || r.ForS > 24*3600 {
			return refuse(fmt.Errorf("hold: at most 24 hours"))
		}
		a.hold.set(time.Now().Add(time.Duration(r.ForS * float64(time.Second))))
		a.board.note("extensions", "held by the operator")
		return status.Response{OK: true, Message: "no extension will be started until then; what runs goes on"}
	case status.OpResume:
		a.hold.set(time.Time{})
		a.ext.Wake()
		return status.Response{OK: true, Message: "hold ended"}
	case status.OpClean:
		freed, err := a.clean(true)
		if err != nil {
			return refuse(err)
		}
		return status.Response{OK: true, Message: fmt.Sprintf("freed %d bytes", freed)}
	case status.OpReport:
		if err := a.tick(ctx); err != nil {
			return refuse(err)
		}
		a.rep.force()
		a.board.poke()
		return status.Response{OK: true, Message: "goal state fetched, status on its way"}
	case status.OpDoctor:
		return a.doctor(ctx)
	default:
		return status.Response{Error: fmt.Sprintf("unknown request %q", r.Op), Code: "AZ-CTL-UNKNOWN"}
	}
}

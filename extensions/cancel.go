package extensions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/protocol"
)

// A cancelRequest is an operator's request to cancel, sent to the loop.
type cancelRequest struct {
	name, config string // the instance of a multi-config handler, or "" for all of it
	answer       chan cancelAnswer
}

type cancelAnswer struct {
	did   string
	ended chan string // receives work.how when the stopped step has ended; nil if nothing ran
	err   error
}

// cancelTime is the time limit of a request, including endTime.
const cancelTime = time.Minute

// Cancel stops the processing of an extension until the next goal state or
// Retry: a running command is killed, and a waiting extension is skipped. It
// returns a description of what it did. A removal continues after its command
// was killed.
func (m *Manager) Cancel(ctx context.Context, name, config string) (string, error) {
	ctx, stop := context.WithTimeoutCause(ctx, cancelTime, errors.New("no answer from the agent"))
	defer stop()
	c := cancelRequest{name: name, config: config, answer: make(chan cancelAnswer, 1)}
	select {
	case m.cancels <- c:
	case <-ctx.Done():
		return "", fmt.Errorf("cancel %s: %w", name, context.Cause(ctx))
	}
	var a cancelAnswer
	select {
	case a = <-c.answer:
	case <-ctx.Done():
		return "", fmt.Errorf("cancel %s: %w", name, context.Cause(ctx))
	}
	if a.err != nil || a.ended == nil {
		return a.did, a.err
	}
	select {
	case how := <-a.ended:
		if how != "" {
			a.did += "; " + how
		}
		return a.did, nil
	case <-ctx.Done():
		return a.did + "; it is still stopping", nil
	}
}

// cancelled is the problem of an extension that an operator cancelled. when
// completes the message.
func cancelled(when string) fault.Problem {
	return fault.Problem{Code: fault.CodeOther, Cause: fault.CauseCancelled, Text: fault.CauseCancelled + ": cancelled by the operator " + when}
}

// cancel handles a request in the loop.
func (m *Manager) cancel(ctx context.Context, c cancelRequest) cancelAnswer {
	key := strings.ToLower(c.name)
	h, p := m.handlers[key], m.pass
	var mine []pair
	if p != nil {
		mine = slices.DeleteFunc(slices.Clone(p.pairs), func(q pair) bool {
			return strings.ToLower(q.handler.Name) != key || c.config != "" && q.ext != c.config
		})
	}
	if h != nil && h.busy != nil && (c.config == "" || h.busy.Ext == "" || h.busy.Ext == c.config) {
		t := *h.busy
		// Removing must always be possible, even if one of its commands hangs.
		// Everything else is not processed further in this goal state.
		if c.config == "" && slices.ContainsFunc(mine, func(q pair) bool { return q.handler.Want == protocol.WantEnabled }) {
			p.off[key] = cancelled("during " + string(t.Op))
		}
		h.stop(errCancelled)
		return cancelAnswer{did: fmt.Sprintf("stopped %s: %s of version %s", h.name, t.Op, t.Version), ended: h.ended}
	}
	for _, q := range mine {
		h := m.handler(q.handler.Name)
		r := m.rowOf(q)
		waits := cmp.Or(p.waits[q.key()], p.gate, "its turn")
		settled, working := m.enabledRow(r)
		switch {
		case m.cfg.Mode != ModeOn || p.refused || !p.skipped[q.key()].None() || !p.off[key].None() || q.handler.Invalid != "":
			continue
		case !q.enable && !m.pairOpen(q), q.enable && r.end != endOpen, settled && !working:
			continue
		case settled && h.busy == nil:
			return m.endRemains(ctx, h, r)
		}
		m.giveUpOn(q, cancelled("while it waited for "+waits))
		return cancelAnswer{did: fmt.Sprintf("%s was waiting for %s; cancelled until the next goal state", q.row, waits)}
	}
	return cancelAnswer{err: fmt.Errorf("cancel %s: nothing is running or waiting", c.name)}
}

// giveUpOn makes sure that a waiting pair is not processed in this goal state.
func (m *Manager) giveUpOn(q pair, why fault.Problem) {
	p, h := m.pass, m.handler(q.handler.Name)
	switch {
	case h.busy != nil: // with another instance, whose step owns the records now
		p.skipped[q.key()] = why
	case q.enable && q.ext != "":
		m.skip(q, why)
	default:
		p.off[strings.ToLower(q.handler.Name)] = why
		if !q.enable {
			break
		}
		// Record it, so that it is still cancelled after a restart of the agent.
		w := newWork(m, h, q.handler, plan.Task{Op: plan.Enable, Version: m.versionOf(q.handler)})
		if err := w.failTarget(w.rec(w.task.Version), why); err != nil {
			m.log.Warn().Err(err).Str("extension", q.row).Msg("could not save record")
		}
		h.recs = w.recs
	}
	delete(p.waits, q.key())
	h.settled = false
	m.log.Warn().Str("extension", q.row).Str("why", why.Text).Msg("extension cancelled")
}

// enabledRow reports whether an extension is enabled as wanted (settled), and
// whether its enable has not led to a final status yet (working).
func (m *Manager) enabledRow(r row) (settled, working bool) {
	q := r.pair
	e, known := r.rec.Exts[q.ext]
	wish := plan.ExtWish{Name: q.ext, Seq: q.seq, Hash: settingsHash(r.status.Version, q), Force: m.pass.forced[q.key()]}
	settled = q.enable && known && plan.WhyEnable(wish, r.rec.State, e.ExtFact, known, m.now()) == "" && e.FailKey == ""
	st := r.status.Extension
	return settled, e.Last != nil && e.Last.Op == plan.Enable && (r.missing || st != nil && st.Status == handler.Transitioning)
}

// endRemains kills the processes that the last enable of an extension has left
// running. From then on its status counts as final.
func (m *Manager) endRemains(ctx context.Context, h *managed, r row) cancelAnswer {
	version, ext := r.rec.Version, r.pair.ext
	w := newWork(m, h, r.pair.handler, plan.Task{Op: plan.Enable, Version: version, Ext: ext, Why: "cancelled"})
	m.begin(ctx, h, w, func(ctx context.Context) error {
		rec := w.rec(version)
		e := rec.Exts[ext]
		kill, stop := context.WithTimeout(ctx, endTime)
		defer stop()
		w.ended(job.End(kill, m.store.JobDir(e.Last.Job)))
		e.Cancelled = e.Last.Job
		return w.put(rec.SetExt(ext, e))
	})
	return cancelAnswer{did: "stopped " + r.pair.row + ": enable had finished, but the status was still transitioning", ended: h.ended}
}

// ended notes for the operator how many processes were killed and which remain.
func (w *work) ended(e job.Ending) {
	w.how = fmt.Sprintf("%d processes were killed", e.Killed)
	if len(e.Left) > 0 {
		w.how += fmt.Sprintf(", processes %v did not exit", e.Left)
	}
}

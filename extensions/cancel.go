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

// A cancelRequest is an operator's, for the loop.
type cancelRequest struct {
	name, config string // the instance of a multi-config handler, or "" for all of it
	answer       chan cancelAnswer
}

type cancelAnswer struct {
	did   string
	ended chan string // of what was stopped, with how; nil if nothing ran
	err   error
}

// cancelTime bounds a request, endTime included.
const cancelTime = time.Minute

// Cancel ends whatever is going on for an extension, in whatever state that is:
// what runs is killed and what waits is given up, until the next goal state or
// Retry. It says what it did. A removal goes on without the command that was
// killed.
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

// cancelled is why an extension that waited, or was fetched, has failed.
func cancelled(when string) fault.Problem {
	return fault.Problem{Code: fault.CodeOther, Cause: fault.CauseCancelled, Text: fault.CauseCancelled + ": cancelled by the operator " + when}
}

// cancel does the operator's will.
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
		// Deleting must always be possible, the more so when a command of it
		// hangs; anything else ends here.
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

// giveUpOn keeps a pair that waits from being processed in this goal state.
func (m *Manager) giveUpOn(q pair, why fault.Problem) {
	p, h := m.pass, m.handler(q.handler.Name)
	switch {
	case h.busy != nil: // with another instance; its records are away
		p.skipped[q.key()] = why
	case q.enable && q.ext != "":
		m.skip(q, why)
	default:
		p.off[strings.ToLower(q.handler.Name)] = why
		if !q.enable {
			break
		}
		// The next start of the agent knows it too.
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

// enabledRow says that an extension is enabled as it should be, and that it has
// not reported an end of that yet.
func (m *Manager) enabledRow(r row) (settled, working bool) {
	q := r.pair
	e, known := r.rec.Exts[q.ext]
	wish := plan.ExtWish{Name: q.ext, Seq: q.seq, Hash: settingsHash(r.status.Version, q), Force: m.pass.forced[q.key()]}
	settled = q.enable && known && plan.WhyEnable(wish, r.rec.State, e.ExtFact, known, m.now()) == "" && e.FailKey == ""
	st := r.status.Extension
	return settled, e.Last != nil && e.Last.Op == plan.Enable && (r.missing || st != nil && st.Status == handler.Transitioning)
}

// endRemains kills what the last enable of an extension has left at work, and
// takes its status for final.
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

// Ended notes what was met when a command was killed, for the operator.
func (w *work) ended(e job.Ending) {
	w.how = fmt.Sprintf("%d processes were killed", e.Killed)
	if len(e.Left) > 0 {
		w.how += fmt.Sprintf(", processes %v did not exit", e.Left)
	}
}

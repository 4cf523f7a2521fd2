package extensions

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// A package, or the manifest that names it, that can't be had now is waited for
// (DESIGN.md, decision 96). The handler's extensions stay "transitioning", and it
// is asked for at the pace of failing requests. After Timeouts.Fetch they are
// reported as failed, and so they are at once if an answer says that it is not
// there; it is still asked for in this goal state, and the failure is taken back
// when it comes.

// An await is what the loop knows about the wait of one handler. What has to
// survive a restart of the agent is in the record (store.Awaited).
type await struct {
	since  time.Time     // when the wait began; the clock of this process can't be set
	next   time.Time     // no attempt before
	asked  time.Time     // when the requests said that they will be made again
	pace   protocol.Pace // of attempts that failed without a request
	text   string        // what is waited for
	failed bool          // it is reported as failed
	// local: this machine is at fault, and perhaps its disk. free is the most
	// that was free after an attempt, and the last one was at tried.
	local bool
	free  store.FreeSpace
	tried time.Time
}

// lookAgain is the longest pause between two attempts. One that comes too early
// for the pace of its requests makes none; but it lets a cheap one find out
// whether the host is back (protocol/SPEC.md §2.5).
const lookAgain = 45 * time.Second

// awaited returns what is waited for in a goal state, or nil.
func awaited(recs map[string]store.Record, key, boot string) *store.Awaited {
	var out *store.Awaited
	for _, r := range recs {
		if a := r.Awaited; a != nil && a.Key == key && a.Boot == boot && (out == nil || a.Waited > out.Waited) {
			out = a
		}
	}
	return out
}

// awaitText is for "is waiting for …".
func awaitText(a *store.Awaited) string {
	return fmt.Sprintf("%s, which is not available yet, trying again since %s: %s", a.What, a.Since.UTC().Format(time.RFC3339), a.Why)
}

// waitFor is called when what a handler needs could not be had. It reports
// whether it is waited for. If it is, p is how that is reported once the time
// for it is over.
func (w *work) waitFor(what string, why error, p fault.Problem) bool {
	o := protocol.OutlookOf(why, protocol.Never)
	if o == protocol.Never {
		return false
	}
	now := time.Now()
	a := store.Awaited{Key: w.key(), Boot: w.m.boot, Since: now.UTC()}
	since := w.since
	if old := awaited(w.recs, a.Key, a.Boot); old != nil {
		a = *old
		if since.IsZero() { // the agent has restarted
			since = now.Add(-a.Waited)
		}
	}
	if since.IsZero() {
		since = now
	}
	first, failed := a.Why == "", a.Failed
	a.What, a.Why, a.Waited, a.Problem = what, handler.Clip(secret.Redact(why.Error()), maxWhy), now.Sub(since), p
	a.Problem.Text = secret.Redact(p.Text)
	a.Failed = failed || o == protocol.Absent || a.Waited >= w.m.cfg.Timeouts.Fetch
	asked := protocol.NextTry(why)
	w.wait = &await{since: since, asked: asked, text: awaitText(&a), failed: a.Failed, local: protocol.Local(why) || p.Cause == fault.CauseDiskLow, free: w.m.store.Space(), tried: now}
	if !first && a.Failed == failed && !asked.IsZero() && asked.Equal(w.asked) {
		return true // no request was made
	}
	if first || protocol.Loud(why) {
		w.m.log.Warn().Str("handler", w.name).Str("code", p.Cause).Str("for", what).Dur("since", a.Waited).Err(why).Msg("not available, trying again")
	}
	r := w.rec(w.task.Version)
	if a.Failed {
		if !failed {
			w.emit(r.Version, plan.Fetch, false, p.Text, 0)
		}
		r.Report = handler.ReportOf(a.Problem)
	}
	w.forgetAwaited(r.Version)
	r.Awaited = &a
	if err := w.put(r); err != nil {
		// A full disk may be what is waited for. Then a restart begins the wait
		// anew, which reports a failure later, never earlier.
		w.m.log.Debug().Err(err).Str("handler", w.name).Msg("could not save what is waited for")
		w.recs[r.Version] = r
	}
	return true
}

// maxWhy is how much of an error goes into messages.
const maxWhy = 1000

// forgetAwaited removes what was waited for from the records, except from one
// that is about to be stored. It reports whether that was reported as failed.
func (w *work) forgetAwaited(except string) (failed bool) {
	for v, r := range w.recs {
		if r.Awaited == nil {
			continue
		}
		failed = failed || r.Awaited.Failed && r.Awaited.Key == w.key()
		if v == except {
			continue
		}
		if r.Awaited.Failed && r.State == plan.Absent {
			r.Report = handler.Report{}
		}
		r.Awaited = nil
		if err := w.put(r); err != nil {
			w.m.log.Debug().Err(err).Str("handler", w.name).Msg("could not save record")
			w.recs[v] = r
		}
	}
	return failed
}

// arrived ends the wait: what was waited for is there.
func (w *work) arrived() {
	if w.forgetAwaited("") {
		w.back = true
		w.m.log.Info().Str("handler", w.name).Msg("available again, the failure is taken back")
	}
}

// noteAwait takes over the end of a step in the loop.
func (m *Manager) noteAwait(o outcome) {
	p, name := m.pass, strings.ToLower(o.h.name)
	if p == nil || o.pass != p || o.task.Op != plan.Fetch {
		return
	}
	old := p.awaits[name]
	if o.await == nil {
		delete(p.awaits, name)
		if o.back {
			m.takeBack()
		}
		return
	}
	if o.dec == nil {
		delete(p.versions, name) // the manifest is asked for again
	}
	a := o.await
	now := time.Now()
	if old != nil {
		a.pace = old.pace
		a.free = a.free.Max(old.free)
	}
	a.next = a.asked
	if a.next.IsZero() {
		a.next = now.Add(a.pace.Failed(now))
	}
	a.next = a.next.Add(10 * time.Millisecond) // not a moment too early
	if !a.local {
		a.next = minTime(a.next, now.Add(lookAgain))
	}
	if !a.failed {
		// It is reported in time, whatever the pace.
		a.next = minTime(a.next, a.since.Add(m.cfg.Timeouts.Fetch))
	}
	p.awaits[name] = a
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// takeBack lets extensions run that were skipped because one that they depend on
// had failed, which it has not after all.
func (m *Manager) takeBack() {
	for _, q := range m.pass.pairs {
		if m.pass.skipped[q.key()].Cause == fault.CauseBlocked {
			delete(m.pass.skipped, q.key())
			m.handler(q.handler.Name).settled = false
		}
	}
}

// tryAgain makes handlers run whose next attempt is due. With now all of them
// are, because something has changed.
func (m *Manager) tryAgain(now bool) {
	if m.pass == nil {
		return
	}
	for name, a := range m.pass.awaits {
		if now || m.roomFor(a) {
			a.next = time.Time{}
		}
		if h := m.handlers[name]; h != nil && !time.Now().Before(a.next) {
			h.settled = false
		}
	}
}

// roomPause is how often the free space is looked at, and the least time between
// two attempts because of it.
const roomPause = 2 * time.Second

// roomFor reports whether an attempt that has failed for want of room is worth
// repeating: there is more than at any that has failed. Each may be a download,
// and a disk on which others write is now and then a little emptier.
func (m *Manager) roomFor(a *await) bool {
	return a.local && time.Since(a.tried) >= roomPause && m.store.Space().More(a.free)
}

// holdsOff reports whether a handler has to wait for its next attempt, and whether
// it is done with this goal state for the time being.
func (m *Manager) holdsOff(name string, mine []pair) (wait, done bool) {
	if err := m.pass.gs.HoldErr; err != nil && !m.cfg.IgnoreHold && time.Since(m.pass.began) < m.cfg.Timeouts.Profile {
		for _, q := range mine {
			m.pass.waits[q.key()] = "the platform's word on whether it may run: " + handler.Clip(secret.Redact(err.Error()), maxWhy)
		}
		return true, false
	}
	a := m.pass.awaits[name]
	if a == nil || !time.Now().Before(a.next) {
		return false, false
	}
	if a.failed {
		return true, true
	}
	for _, q := range mine {
		m.pass.waits[q.key()] = a.text
	}
	return true, false
}

// nextTry is after how long the next attempt is due, or 0 if none is waited for.
func (m *Manager) nextTry() time.Duration {
	next := time.Duration(0)
	for name, a := range m.pass.awaits {
		if h := m.handlers[name]; h == nil || h.busy != nil {
			continue
		}
		left := max(time.Until(a.next), 10*time.Millisecond)
		if a.local {
			left = min(left, roomPause)
		}
		if next == 0 || left < next {
			next = left
		}
	}
	return next
}

// listen waits, as long as something is awaited, for changes of this machine that
// may help: of its network, its name servers, its clock.
func (m *Manager) listen(ctx context.Context) {
	need := m.pass != nil && len(m.pass.awaits) > 0
	switch {
	case need && m.deaf == nil:
		ctx, stop := context.WithCancel(ctx)
		m.deaf = stop
		m.running.Go(func() {
			defer crash.Guard()
			for ctx.Err() == nil {
				woken, err := m.fetch.Wait(ctx, time.Hour)
				if err != nil || !woken {
					continue
				}
				select {
				case m.moved <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	case !need && m.deaf != nil:
		m.deaf()
		m.deaf = nil
	}
}

// dropAwaits forgets what was waited for in earlier goal states.
func (m *Manager) dropAwaits() {
	for _, h := range m.handlers {
		if h.busy != nil || awaited(h.recs, m.pass.key, m.boot) != nil {
			continue
		}
		w := newWork(m, h, nil, plan.Task{Op: plan.Fetch})
		w.forgetAwaited("")
		maps.DeleteFunc(w.recs, func(_ string, r store.Record) bool { return r.Blank() })
		h.recs = w.recs
	}
}

// The platform may refer to a certificate a moment before it delivers it, for
// example after a hibernation (protocol/SPEC.md §4.5). A handler that is started
// before could not decrypt its protected settings, would fail and would not be
// run again. So it has to wait a while; and if it has failed without the
// certificate, it is run once more when the certificate arrives.

// lacking returns the thumbprint of a certificate that one of the pairs needs
// and whose key is not on disk, or "".
func (m *Manager) lacking(pairs []pair) string {
	for _, q := range pairs {
		if !q.enable {
			continue
		}
		for _, s := range q.handler.Settings {
			if q.ext != "" && s.Name != q.ext || s.Want == protocol.WantDisabled {
				continue
			}
			t := strings.ToUpper(s.Thumbprint)
			if t == "" || s.Protected.Empty() || strings.ContainsAny(t, "/.\x00") {
				continue
			}
			if !m.store.Root.Exists(m.store.Lib + "/" + t + ".prv") {
				return t
			}
		}
	}
	return ""
}

// lateCertificate is how long a handler waits for its certificate if the platform
// has answered without it, or with certificates that are encrypted for somebody
// else. The agent has then asked at least twice (protocol/SPEC.md §4.5).
const lateCertificate = 8 * time.Second

// waitsForCertificate returns the thumbprint of the certificate that a command
// has to wait for, or "".
func (m *Manager) waitsForCertificate(want *protocol.Handler, pairs []pair, t plan.Task) string {
	p := m.pass
	if want.Want != protocol.WantEnabled || t.Op == plan.Fetch || t.Op == plan.Copy || t.Op == plan.Remove {
		return ""
	}
	thumb := m.lacking(pairs)
	if thumb == "" {
		return ""
	}
	limit := m.cfg.Timeouts.Certificate
	if protocol.OutlookOf(p.gs.CertsErr, protocol.Absent) != protocol.Later {
		limit = min(limit, lateCertificate)
	}
	if time.Since(p.began) < limit {
		return thumb
	}
	for _, q := range pairs {
		if m.lacking([]pair{q}) != "" && p.blind[q.key()].row == "" {
			p.blind[q.key()] = q
			m.log.Warn().Str("extension", q.row).Str("certificate", thumb).Msg("certificate of the protected settings not available, continuing without it")
		}
	}
	return ""
}

// lookForCertificates makes extensions that failed without their certificate
// run once more when it has arrived.
func (m *Manager) lookForCertificates() {
	p := m.pass
	for key, q := range p.blind {
		if m.lacking([]pair{q}) != "" {
			continue
		}
		switch m.rowOf(q).end {
		case endOpen:
			continue // it may still succeed
		case endFailed, endError:
			p.forced[key] = "certificate received"
			m.rearm(strings.ToLower(q.handler.Name))
		case endGood:
		}
		delete(p.blind, key)
	}
}

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/agent/update"
	"github.com/azguest/azguest/protocol"
)

// UpdateGuardArg is the first argument of the process that watches a
// hand-over; UpdateGuard is that process.
const UpdateGuardArg = update.GuardArg

// UpdateGuard watches a hand-over to its end and returns the exit status of the
// process.
func UpdateGuard(ctx context.Context, args []string, log io.Writer) int {
	return update.Guard(ctx, args, log)
}

// LockVariable names the descriptor of the lock in the environment of a new
// version.
const LockVariable = "AZGUEST_LOCK_FD"

// Markers that the classic agent knows too (protocol/SPEC.md §14.2).
const (
	rsmMark     = "waagent_rsm_update"
	initialMark = "waagent_initial_update"
)

// updater is what the self-update job remembers.
type updater struct {
	store update.Store
	trust update.Trust
	end   context.CancelCauseFunc // ends Run
	lock  *status.Lock
	kept  bool        // the lock is passed on to the next version
	going atomic.Bool // a hand-over begins: no extension may start any more

	ready      time.Time // when extensions were allowed to start; only the job uses it
	manifest   *protocol.Manifest
	manifestAt time.Time
	manifestOf string // its first URI, to detect another family
	noted      string // what was logged last
	failing    failing
	settled    bool

	mu       sync.Mutex // guards what follows
	self     update.Self
	trial    bool
	accepted time.Time
	rsm      bool
	err      error // why the requested version is not installed
	handover *Handover
}

// beginUpdates identifies the running program and loads the update state. It
// has to be called before the first report.
func (a *Agent) beginUpdates() {
	u := &a.upd
	u.store = update.Store{Root: a.Root, Lib: a.cfg.Paths.Lib}
	me, err := update.Identify(a.Version, a.Root.Path(a.cfg.Paths.Lib))
	if err != nil {
		a.Log.Warn().Err(err).Msg("updates of the agent disabled")
		return
	}
	roots, err := update.LoadRoots(a.Root.Path(a.cfg.Update.TrustRoots))
	if err != nil {
		a.Log.Error().Err(err).Str("code", "AZ-UPD-UNSIGNED").Msg("updates of the agent cannot be verified")
	}
	u.trust = update.Trust{Roots: roots, Unsigned: !a.cfg.Update.NeedSignature}
	st, err := u.store.Load()
	if err != nil {
		a.Log.Warn().Err(err).Msg("update state not usable, ignored")
	}
	rsm := a.Root.Exists(path.Join(a.cfg.Paths.Lib, rsmMark))
	u.mu.Lock()
	u.self = me
	u.trial = st.Trial != nil && st.Trial.PID == me.PID && st.Trial.Ticks == me.Ticks && st.Trial.Boot == me.Boot
	u.rsm = rsm
	u.mu.Unlock()
	a.tellLast(st.Last)
}

// tellLast reports the result of the last update, unless a process has reported
// it already; the process that began the update has ended.
func (a *Agent) tellLast(l update.Last) {
	a.showUpdate(func(s *status.Update) {
		s.LastResult, s.LastAt = l.Text, l.At
		s.Problem = updateProblem(l.Code, l.At)
	})
	if l.Told || l.Text == "" {
		return
	}
	ev := a.Log.Info()
	if l.Code != "" {
		ev = a.Log.Error().Str("code", l.Code)
	}
	ev.Msg("agent " + l.Text)
	a.live.note("agent", l.Text)
	a.emitUpdate(l.Code == "", l.Text)
	err := a.upd.store.Change(func(st *update.State) bool {
		told := st.Last == l
		st.Last.Told = st.Last.Told || told
		return told
	})
	if err != nil {
		a.Log.Warn().Err(err).Msg("could not save that the update result was reported; it is reported again")
	}
}

// failing is a version that could not be staged yet. It is reported as failed to
// the platform as a package of an extension is (DESIGN.md, decision 96): what is
// absent at once, what can't be had now after a time. That lasts until the
// version is there or another one is wanted.
type failing struct {
	version string
	since   time.Time
	err     error // reported
}

func (x *failing) note(version string, why error, limit time.Duration) {
	if x.version != version {
		*x = failing{version: version, since: time.Now()}
	}
	if x.err != nil || protocol.OutlookOf(why, protocol.Later) != protocol.Later || time.Since(x.since) >= limit {
		x.err = why
	}
}

// of returns the error to report while a version is wanted.
func (x *failing) of(version string) error {
	if x.version != version {
		*x = failing{}
	}
	return x.err
}

func (a *Agent) emitUpdate(ok bool, text string) {
	a.events.Emit(event.Event{Kind: event.Operation, Time: time.Now().UTC(), Name: "WALinuxAgent", Version: a.Version, Op: "AgentUpgrade", OK: ok, Message: text})
}

func updateProblem(code string, since time.Time) status.Problem {
	if code == "" {
		return status.Problem{}
	}
	return status.Problem{Code: code, Since: since, Fix: "agentctl explain " + code}
}

// showUpdate changes the snapshot if there is something to change.
func (a *Agent) showUpdate(change func(*status.Update)) {
	now := a.live.copy().Agent.Update
	was := now
	change(&now)
	if now.Code == was.Code && !was.Since.IsZero() {
		now.Since = was.Since
	}
	if now != was {
		a.live.set(func(s *status.Snapshot) { s.Agent.Update = now })
	}
}

// updateEvery is the period of the self-update job, which mostly finds that
// there is nothing to do.
func (a *Agent) updateEvery() time.Duration { return min(10*time.Second, a.cfg.Update.Period) }

// selfUpdate is one turn of the job: decide, stage the version, wait for the
// right moment, hand over.
func (a *Agent) selfUpdate(ctx context.Context) error {
	u := &a.upd
	if u.end == nil || u.self.Path == "" {
		return nil
	}
	if !u.settled && time.Since(a.started) > 5*time.Minute {
		u.settled = true
		if err := errors.Join(u.store.Settled(), u.store.Prune(a.Version)); err != nil {
			a.Log.Warn().Err(err).Msg("could not remove old versions of the agent")
		}
	}
	gs := a.loop.current()
	if mode := a.cfg.Update.Mode; gs == nil || u.going.Load() || mode != update.Pinned && mode != update.Channel {
		return nil
	}
	st, err := u.store.Load()
	if err != nil {
		return err
	}
	now := time.Now()
	if u.ready.IsZero() && a.startGate.opened.Load() {
		u.ready = now
	}
	calm := !u.ready.IsZero() && now.Sub(u.ready) >= a.cfg.Update.Quiet

	f := a.updateFacts(gs, st, now)
	d := update.Decide(f)
	if d.NeedManifest && calm {
		m, err := fetcher{a.platform, a.Root}.Manifest(ctx, d.Family.ManifestURIs)
		if err != nil {
			if protocol.Loud(err) {
				return fmt.Errorf("get manifest of agent family %s: %w", d.Family.Name, err)
			}
			return errKnown
		}
		u.manifest, u.manifestAt, u.manifestOf = &m, now, d.Family.ManifestURIs[0].Reveal()
		f.Manifest = &m
		d = update.Decide(f)
	}
	if err := a.keepDecision(f, d); err != nil {
		return err
	}
	if d.Want == "" || !calm || !st.Tries[d.Want].Due(now) {
		return nil
	}
	return a.bringUp(ctx, f, d, st)
}

func (a *Agent) updateFacts(gs *protocol.GoalState, st update.State, now time.Time) update.Facts {
	c, u := a.cfg.Update, &a.upd
	f := update.Facts{
		Rules: update.Rules{
			Mode: c.Mode, Pin: c.Pin, Family: c.Family, Versioning: c.Versioning, Downgrade: c.AllowDowngrade,
			Hotfix: c.HotfixPeriod, Regular: c.RegularPeriod,
		},
		Now: now, Running: a.Version, Installed: st.Installed.Version, Families: gs.Families,
		RSM:     a.Root.Exists(path.Join(a.cfg.Paths.Lib, rsmMark)),
		Initial: !a.Root.Exists(path.Join(a.cfg.Paths.Lib, initialMark)),
		Bad:     st.Bad, Plan: st.Plan, Dice: rand.Float64(), //nolint:gosec // spreads load, keeps no secret
	}
	if f.Installed == "" {
		f.Installed = a.Version
	}
	same := func() bool {
		for _, fam := range gs.Families {
			for _, uri := range fam.ManifestURIs {
				if uri.Reveal() == u.manifestOf {
					return true
				}
			}
		}
		return false
	}
	if u.manifest != nil && now.Sub(u.manifestAt) < c.Period && same() {
		f.Manifest = u.manifest
	}
	return f
}

// keepDecision saves what must survive a restart, and shows the rest.
func (a *Agent) keepDecision(f update.Facts, d update.Decision) error {
	u := &a.upd
	var errs []error
	if f.Mode == update.Channel && d.RSM != f.RSM {
		errs = append(errs, a.marker(rsmMark, d.RSM))
	}
	if d.Attempted && d.Want == "" {
		errs = append(errs, a.marker(initialMark, true))
	}
	if d.Plan != f.Plan {
		errs = append(errs, u.store.Change(func(st *update.State) bool {
			st.Plan = d.Plan
			return true
		}))
		if d.Plan.Version != "" {
			a.Log.Info().Str("to", d.Plan.Version).Time("at", d.Plan.At).Msg("agent update planned")
		}
	}
	u.mu.Lock()
	changed := u.rsm != (f.Mode == update.Channel && d.RSM)
	u.rsm = f.Mode == update.Channel && d.RSM
	if u.rsm || f.Mode == update.Pinned {
		why := cmp.Or(d.Err, u.failing.of(d.Want))
		changed = changed || fmt.Sprint(u.err) != fmt.Sprint(why)
		u.err = why
	} else {
		u.err = nil
	}
	u.mu.Unlock()
	a.showUpdate(func(s *status.Update) { s.Requested = d.Requested })
	if d.Err != nil && u.noted != d.Err.Error() {
		u.noted = d.Err.Error()
		a.Log.Info().Str("code", update.CodeOf(d.Err)).Err(d.Err).Msg("agent not updated")
		if u.rsm || f.Mode == update.Pinned {
			// This version was requested, so the result is shown.
			a.showUpdate(func(s *status.Update) {
				s.LastResult, s.LastAt = d.Err.Error(), f.Now.UTC()
				s.Problem = updateProblem(update.CodeOf(d.Err), f.Now.UTC())
			})
		}
	}
	if changed {
		a.live.poke()
	}
	return errors.Join(errs...)
}

func (a *Agent) marker(name string, on bool) error {
	file := path.Join(a.cfg.Paths.Lib, name)
	if on {
		return a.Root.WriteFile(file, nil, 0o600)
	}
	return a.Root.Remove(file)
}

// stageTime is how long one attempt to stage a version may take.
const stageTime = 30 * time.Minute

// bringUp stages the version, and hands over as soon as the agent may be
// replaced.
func (a *Agent) bringUp(ctx context.Context, f update.Facts, d update.Decision, st update.State) error {
	u := &a.upd
	to := st.Installed
	if d.Want != st.Installed.Version || st.Installed.Path == "" {
		trust := u.trust
		trust.Now = f.Now
		stager := update.Stager{Store: u.store, Fetch: fetcher{a.platform, a.Root}, Trust: trust, Run: a.Runner, Arch: runtime.GOARCH}
		var err error
		// What was received by then is continued; another version may be wanted.
		sctx, stop := context.WithTimeout(ctx, stageTime)
		to, err = stager.Stage(sctx, d.Family, d.Want, f.Manifest)
		stop()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return a.notStaged(f, d, err)
		}
	}
	if what, text := update.Wait(a.moment(f.Now)); what != update.WaitNothing {
		if note := d.Want + " " + string(what); u.noted != note {
			u.noted = note
			a.Log.Info().Str("to", d.Want).Str("for", text).Msg("agent update ready, waiting")
		}
		return nil
	}
	// From here on no extension starts. If one has started just before, the
	// hand-over waits for it.
	u.going.Store(true)
	if busy := a.busy(); len(busy) > 0 {
		u.going.Store(false)
		a.ext.Wake()
		return nil
	}
	if f.Initial {
		if err := a.marker(initialMark, true); err != nil {
			u.going.Store(false)
			return err
		}
	}
	by := f.Mode
	if d.RSM {
		by = "platform"
	}
	args := os.Args[1:]
	trial, err := u.store.Begin(ctx, u.self, update.Trial{
		To: to, From: a.Version, By: by, Withdraw: d.Withdraw, Health: a.cfg.Update.HealthTimeout, Args: args, Managed: Managed(),
	}, a.paths.Lock, without(os.Environ(), LockVariable))
	if err != nil {
		u.going.Store(false)
		a.ext.Wake()
		return a.notStaged(f, d, err)
	}
	a.Log.Info().Str("from", a.Version).Str("to", to.Version).Str("by", by).Msg("switching to another version of the agent")
	u.mu.Lock()
	u.handover = &Handover{to: to, trial: trial, store: u.store, args: args}
	u.mu.Unlock()
	u.end(errHandover)
	return nil
}

var errHandover = errors.New("switching to another version of the agent")

// Managed reports whether a service manager starts the agent again when it
// ends.
func Managed() bool {
	return os.Getenv("INVOCATION_ID") != "" || os.Getenv("NOTIFY_SOCKET") != "" //nolint:forbidigo // the service manager's own interface
}

// notStaged records why there is no update, and when to try again: after a day
// if the package is not accepted, else after minutes, later hours.
func (a *Agent) notStaged(f update.Facts, d update.Decision, why error) error {
	u := &a.upd
	text, code := fmt.Sprintf("no update to %s: %v", d.Want, why), update.CodeOf(why)
	// On most platforms the agent family has only another agent. That is
	// normal, so it is shown as a problem only if a version was requested.
	asked := d.RSM || f.Mode == update.Pinned
	shown := code
	if update.Final(why) && !asked {
		text, shown = code+": "+text, ""
	}
	var errs []error
	if f.Initial {
		errs = append(errs, a.marker(initialMark, true))
	}
	errs = append(errs, u.store.Change(func(st *update.State) bool {
		st.Note(d.Want, why, shown, text, f.Now.UTC())
		return true
	}))
	u.failing.note(d.Want, why, a.cfg.Extensions.FetchTimeout)
	if asked {
		u.mu.Lock()
		u.err = u.failing.of(d.Want)
		u.mu.Unlock()
	}
	a.live.poke()
	if st, err := u.store.Load(); err == nil {
		a.tellLast(st.Last)
	}
	return errors.Join(errs...)
}

// moment returns what update.Wait has to know.
func (a *Agent) moment(now time.Time) update.Moment {
	busy := a.busy()
	a.upd.mu.Lock()
	accepted := a.upd.accepted
	a.upd.mu.Unlock()
	m := update.Moment{
		Now: now, Ready: a.upd.ready, Quiet: a.cfg.Update.Quiet, Busy: busy,
		Accepted: accepted, Heartbeat: a.cfg.Status.HeartbeatPeriod,
	}
	if !a.cfg.MayUpdate(now) {
		m.Closed = a.cfg.Update.Window
	}
	return m
}

// busy returns the names of the handlers that run a command or are about to.
func (a *Agent) busy() []string {
	var out []string
	for _, d := range a.ext.Details() {
		if d.Phase != "" {
			out = append(out, d.Name)
		}
	}
	if s := a.ext.Status(); len(out) == 0 && !s.Converged && s.Waiting == "" {
		out = append(out, "goal state in progress")
	}
	return out
}

// reported is called when the platform has accepted a status document. That
// completes the trial of a new version.
func (a *Agent) reported() {
	u := &a.upd
	u.mu.Lock()
	u.accepted = time.Now()
	trial, me := u.trial, u.self
	u.trial = false
	u.mu.Unlock()
	if !trial {
		return
	}
	done, err := u.store.Commit(me)
	if err != nil {
		a.Log.Error().Err(err).Str("code", "AZ-UPD-FAILED").Msg("could not save this version as installed")
		u.mu.Lock()
		u.trial = true // try again with the next report
		u.mu.Unlock()
		return
	}
	if st, err := u.store.Load(); done && err == nil {
		a.tellLast(st.Last)
	}
}

// updateStatus returns the update status, or nil unless the platform chooses
// the version (protocol/SPEC.md §9.3).
func (a *Agent) updateStatus() *protocol.UpdateStatus {
	a.upd.mu.Lock()
	defer a.upd.mu.Unlock()
	if !a.upd.rsm {
		return nil
	}
	s := &protocol.UpdateStatus{Expected: a.Version, OK: a.upd.err == nil}
	if a.upd.err != nil {
		s.Code, s.Message = 1, a.upd.err.Error()
	}
	return s
}

// governable reports whether the platform may choose the version. Without
// trusted signers it may not, because no package could be accepted.
func (a *Agent) governable() bool {
	return a.cfg.Update.Mode == config.UpdateChannel && a.cfg.Update.Versioning && (a.upd.trust.Roots != nil || a.upd.trust.Unsigned)
}

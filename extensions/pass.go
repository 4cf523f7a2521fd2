package extensions

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// pass is the processing of one goal state.
type pass struct {
	gs       *protocol.GoalState
	key      string
	began    time.Time
	opened   time.Time                 // when it had something to do (again)
	versions map[string]decision       // by lower-case handler name: the chosen package
	forced   map[string]string         // by pair: why it is run again
	skipped  map[string]fault.Problem  // by pair: why it is not tried in this goal state
	denied   map[string]handler.Report // by pair: refused by policy or configuration
	waits    map[string]string         // by pair: what it waits for, as text
	dead     map[string]deadline       // by pair: status "transitioning", but no living process
	stuck    map[string]fault.Problem  // by lower-case handler name: a result could not be stored
	locked   map[string]lockWait       // by lower-case handler name: its wait for the package manager
	awaits   map[string]*await         // by lower-case handler name: what it needs and can't be had yet
	blind    map[string]pair           // by pair: run without the certificate for its protected settings
	off      map[string]fault.Problem  // by lower-case handler name: cancelled by the operator
	pairs    []pair
	names    *names // of the pairs, built when first needed
	policy   policy.Effective
	state    *protocol.GoalStateStatus
	refused  bool // required features are missing: nothing is processed
	hold     bool
	gate     string
	settled  bool
}

// pair is one extension of one handler. Dependencies are between pairs.
type pair struct {
	handler *protocol.Handler
	id      string
	ext     string // "" for single-config
	row     string // the extension's full name, for messages
	seq     int
	level   int
	enable  bool
	bare    bool // the goal state has no settings for it, so no status is expected
	after   []protocol.Dependency
}

// pairKey is the key of a pair in maps.
func pairKey(handler, ext string) string { return strings.ToLower(handler) + "\x00" + ext }

func (p pair) key() string { return p.id }

// deadline is about an extension without a final status that has had no living
// process since a point in time.
type deadline struct {
	since   time.Time
	stamp   store.FileStamp // of the status file
	heard   bool            // the file was written although no process was known
	final   bool
	message string
	// unusable means that the file can't be used, and that others may have been
	// skipped because of that.
	unusable bool
}

// ours reports whether the error that is reported is the agent's opinion and not
// the handler's word.
func (d deadline) ours() bool { return d.final || d.unusable }

// checked returns a copy of a goal state in which handlers with duplicate
// names, or names that are unsafe as file names, are marked as invalid. Exact
// duplicates are dropped.
func checked(gs *protocol.GoalState) *protocol.GoalState {
	c := *gs
	c.Handlers = nil
	first := map[string]protocol.Handler{}
	for _, h := range gs.Handlers {
		if f, twice := first[h.Name]; !twice {
			first[h.Name] = h
		} else if reflect.DeepEqual(f, h) {
			continue
		}
		c.Handlers = append(c.Handlers, h)
	}
	seen := map[string]bool{}
	for i := range c.Handlers {
		h := &c.Handlers[i]
		bad := ""
		switch {
		case !plan.IsHandlerName(h.Name):
			bad = "invalid handler name " + bound.Quote(h.Name)
		case !plan.IsVersion(h.Version):
			bad = fmt.Sprintf("invalid version %s of handler %s", bound.Quote(h.Version), h.Name)
		case seen[strings.ToLower(h.Name)]:
			bad = fmt.Sprintf("duplicate handler %s", h.Name)
		}
		seen[strings.ToLower(h.Name)] = true
		for _, s := range h.Settings {
			switch {
			case h.MultiConfig && !plan.IsExtensionName(s.Name):
				bad = fmt.Sprintf("invalid extension name %s of handler %s", bound.Quote(s.Name), bound.Clip(h.Name))
			case s.Seq < 0:
				bad = fmt.Sprintf("invalid sequence number %d of handler %s", s.Seq, h.Name)
			}
		}
		h.Invalid = cmp.Or(h.Invalid, bad)
	}
	return &c
}

// newPass starts to work on a goal state.
func (m *Manager) newPass(gs *protocol.GoalState) {
	gs = checked(gs)
	var last *protocol.GoalStateStatus
	if m.pass != nil {
		last = m.pass.state
		if m.pass.key == gs.Key() && !m.pass.hold == !m.held(gs) {
			// The same goal state, perhaps with other certificates: keep the
			// results, but rebuild the pairs, which point into its handlers.
			renewed := !reflect.DeepEqual(m.pass.gs.Handlers, gs.Handlers)
			m.pass.gs, m.pass.pairs, m.pass.names = gs, pairsOf(gs), nil
			m.tryAgain(renewed) // where an address had expired
			return
		}
	}
	p := &pass{
		gs: gs, key: gs.Key(), began: time.Now(), opened: time.Now(), versions: map[string]decision{}, forced: map[string]string{},
		skipped: map[string]fault.Problem{}, denied: map[string]handler.Report{}, waits: map[string]string{},
		dead: map[string]deadline{}, stuck: map[string]fault.Problem{}, locked: map[string]lockWait{}, awaits: map[string]*await{}, blind: map[string]pair{}, off: map[string]fault.Problem{}, pairs: pairsOf(gs), state: last,
		hold: m.held(gs),
	}
	if !p.hold {
		p.policy = m.loadPolicy()
		if missing := m.missingFeatures(gs); len(missing) > 0 {
			p.refused = true
			p.state = &protocol.GoalStateStatus{
				Code: fault.CodeUnsupported, SeqNo: gs.SeqNo, Done: time.Now().UTC(),
				Message: fmt.Sprintf("Failing GS %s as Unsupported features found: %s", gs.ID, strings.Join(missing, ", ")),
			}
		}
	}
	m.endFetches(gs)
	m.pass = p
	m.dropAwaits()
	for _, h := range m.handlers {
		h.settled = false
	}
	if i := slices.IndexFunc(gs.Handlers, func(h protocol.Handler) bool { return h.Name == "" }); i >= 0 {
		m.log.Warn().Str("goalState", gs.ID).Str("why", gs.Handlers[i].Invalid).Msg("goal state has invalid handlers, no handler is removed")
	}
	m.log.Info().Str("goalState", gs.ID).Int("handlers", len(gs.Handlers)).Bool("onHold", p.hold).
		Msg("ProcessExtensionsGoalState started [" + gs.ID + "]")
}

// endFetches ends the downloads that a new goal state does not want as they are:
// they may take as long as they make progress, and what it wants instead need
// not wait for that.
func (m *Manager) endFetches(gs *protocol.GoalState) {
	if m.pass == nil {
		return
	}
	find := func(gs *protocol.GoalState, name string) (h protocol.Handler) {
		for _, x := range gs.Handlers {
			if strings.EqualFold(x.Name, name) {
				h = protocol.Handler{Version: x.Version, Want: x.Want, Manifests: x.Manifests, MultiConfig: x.MultiConfig}
			}
		}
		return h
	}
	for name, h := range m.handlers {
		if h.busy != nil && h.busy.Op == plan.Fetch && !reflect.DeepEqual(find(m.pass.gs, name), find(gs, name)) {
			h.stop(errOutdated)
		}
	}
}

// held reports whether a goal state is only to be reported, not processed.
func (m *Manager) held(gs *protocol.GoalState) bool {
	return gs.OnHold && !m.cfg.IgnoreHold || gs.Outdated
}

func (m *Manager) missingFeatures(gs *protocol.GoalState) []string {
	var missing []string
	for _, f := range gs.RequiredFeatures {
		if f != "MultipleExtensionsPerHandler" && !slices.Contains(m.cfg.Features, f) {
			missing = append(missing, f)
		}
	}
	return missing
}

// pairsOf lists the pairs of a goal state.
func pairsOf(gs *protocol.GoalState) []pair {
	var out []pair
	for i := range gs.Handlers {
		h := &gs.Handlers[i]
		if len(h.Settings) == 0 {
			out = append(out, pair{handler: h, id: pairKey(h.Name, ""), row: h.Name, level: h.Level, after: h.After, enable: h.Want == protocol.WantEnabled, bare: true})
		}
		for _, s := range h.Settings {
			p := pair{handler: h, id: pairKey(h.Name, ""), row: h.Name, seq: s.Seq, level: s.Level, after: s.After, enable: h.Want == protocol.WantEnabled}
			if h.MultiConfig {
				p.ext, p.id, p.row = s.Name, pairKey(h.Name, s.Name), h.Name+"."+s.Name
				p.enable = p.enable && s.Want != protocol.WantDisabled
			}
			out = append(out, p)
			if !h.MultiConfig {
				break // a single-config handler has only one set of settings
			}
		}
	}
	return out
}

func (m *Manager) takeForced() {
	if m.pass == nil {
		return // stay in m.forced until the first goal state
	}
	m.mu.Lock()
	forced := m.forced
	m.forced = map[string]string{}
	m.mu.Unlock()
	maps.Copy(m.pass.forced, forced)
	for key := range forced {
		name, _, _ := strings.Cut(key, "\x00")
		delete(m.pass.skipped, key)
		delete(m.pass.stuck, name)
		delete(m.pass.off, name)
		delete(m.pass.awaits, name)
		if m.pass.versions[name].err != nil {
			delete(m.pass.versions, name) // fetch the manifest again
		}
		m.rearm(name)
	}
}

// rearm forgets earlier failures of a handler, named in lower case, so that it
// is tried again.
func (m *Manager) rearm(name string) {
	h := m.handlers[name]
	if h == nil {
		return
	}
	h.settled = false
	for v, r := range h.recs {
		r.FailKey, r.Awaited = "", nil
		h.recs[v] = r
	}
}

// nextLook is after how long schedule has to run again without an event; 0
// means that it need not.
func (m *Manager) nextLook() time.Duration {
	if m.pass == nil {
		return 0
	}
	if m.pass.gate != "" {
		return time.Second
	}
	next := m.nextTry()
	if len(m.pass.waits) > len(m.pass.awaits) && !m.pass.settled {
		if look := min(2*time.Second, m.cfg.StatusPoll); next == 0 || look < next {
			next = look
		}
	}
	return next
}

// schedule starts all steps that can start now.
func (m *Manager) schedule(ctx context.Context) {
	p := m.pass
	if p == nil || p.refused || p.hold || ctx.Err() != nil {
		return
	}
	p.gate = ""
	if m.cfg.Gate != nil {
		if p.gate = m.cfg.Gate(); p.gate != "" {
			return
		}
	}
	p.waits = map[string]string{}
	m.lookForCertificates()
	m.tryAgain(false)
	m.ends = map[string]knownEnd{}
	defer func() { m.ends = nil }()
	open := false
	for i := range p.gs.Handlers {
		want := &p.gs.Handlers[i]
		h := m.handler(want.Name)
		switch {
		case h.busy != nil:
			open = open || !h.quiet
		case h.settled:
		case m.busy >= m.cfg.Parallel:
			open = true
		case m.advance(ctx, h, want):
			open = open || h.busy == nil || !h.quiet
		default:
			h.settled = true
		}
	}
	for key, h := range m.handlers {
		if h.busy != nil {
			open = open || !h.quiet
			continue
		}
		if !slices.ContainsFunc(p.gs.Handlers, func(w protocol.Handler) bool {
			// A handler without a name could be this one.
			return strings.ToLower(w.Name) == key || w.Name == ""
		}) {
			m.removeAbsent(ctx, h)
		}
	}
	before := p.settled
	if took := p.settle(open); p.settled && !before {
		p.state = &protocol.GoalStateStatus{OK: true, SeqNo: p.gs.SeqNo, Message: "GoalState executed successfully", Done: time.Now().UTC()}
		m.log.Info().Str("goalState", p.gs.ID).Dur("took", took).
			Msg(fmt.Sprintf("ProcessExtensionsGoalState completed [%s %d ms]", p.gs.ID, took.Milliseconds()))
	}
}

// settle notes whether there is something left to do, and returns for how long
// there was. A goal state that was settled can have something to do again: a
// retry, an extension whose package has come.
func (p *pass) settle(open bool) (took time.Duration) {
	if open && p.settled {
		p.opened = time.Now()
	}
	p.settled = !open
	return time.Since(p.opened)
}

// removeAbsent deletes a handler that is no longer in the goal state. It runs
// no command: to have one run, the platform asks for an uninstall.
func (m *Manager) removeAbsent(ctx context.Context, h *managed) {
	if m.cfg.Mode == ModeReportOnly {
		return
	}
	for v := range h.recs {
		w := newWork(m, h, nil, plan.Task{Op: plan.Remove, Version: v, Why: "not in the goal state"})
		m.begin(ctx, h, w, w.do)
		return
	}
}

// advance starts the next step of one handler, if it can. It reports whether
// there is something left to do or to wait for.
func (m *Manager) advance(ctx context.Context, h *managed, want *protocol.Handler) bool {
	p := m.pass
	name := strings.ToLower(want.Name)
	mine := slices.DeleteFunc(slices.Clone(p.pairs), func(q pair) bool { return q.handler != want })
	if !p.stuck[name].None() || !p.off[name].None() || want.Invalid != "" {
		return false
	}
	if len(h.recs) == 0 && want.Want != protocol.WantEnabled {
		return false
	}
	// The cached ends of this handler's pairs are no longer valid.
	forget := func() {
		for _, q := range mine {
			delete(m.ends, q.key())
		}
	}
	defer forget()
	if m.refuse(h, want, mine) {
		return false
	}
	forget()
	if wait, done := m.holdsOff(name, mine); wait {
		return !done
	}
	wish, ready := m.wish(h, want, mine)
	if !ready {
		// The version has to be chosen first, from the platform's manifest.
		return m.gated(mine, func() { m.decide(ctx, h, want) })
	}
	if wish.Version == "" && wish.Enable {
		return false
	}
	now := m.now()
	for range len(mine) + 1 {
		tasks := plan.For(wish, m.facts(h), now)
		if len(tasks) == 0 {
			return false
		}
		started, waits := m.beginTask(ctx, h, want, wish, tasks[0], mine)
		if started || waits {
			return true
		}
		// It will not start in this goal state: go on without the extensions
		// that gated has skipped.
		wish.Exts = slices.DeleteFunc(slices.Clone(wish.Exts), func(e plan.ExtWish) bool {
			return !p.skipped[pairKey(want.Name, e.Name)].None()
		})
		if !slices.ContainsFunc(wish.Exts, func(e plan.ExtWish) bool { return !e.Disable }) {
			return false
		}
	}
	return false
}

// beginTask starts a task of a handler unless it has to wait for something.
// If it neither started nor waits, it will not start in this goal state.
func (m *Manager) beginTask(ctx context.Context, h *managed, want *protocol.Handler, wish plan.Wish, t plan.Task, mine []pair) (started, waits bool) {
	p := m.pass
	who := mine
	if t.Op == plan.Enable || t.Op == plan.Disable && t.Ext != "" && t.To == "" {
		who = slices.DeleteFunc(slices.Clone(mine), func(q pair) bool { return q.ext != t.Ext })
		if len(who) == 0 { // a handler to be removed is listed without extensions
			who = mine
		}
	}
	if thumb := m.waitsForCertificate(want, who, t); thumb != "" {
		p.waits[mine[0].key()] = "the certificate " + thumb
		return false, true
	}
	if other := m.packagerBusy(h, t); other != "" {
		p.waits[mine[0].key()] = "the package manager, used by " + other
		return false, true
	}
	waits = m.gated(who, func() {
		started = true
		w := newWork(m, h, want, t)
		w.wish, w.gs = wish, p.gs
		if d, ok := p.versions[strings.ToLower(want.Name)]; ok {
			w.dec = &d
		}
		if t.Op == plan.Enable {
			delete(p.forced, pairKey(want.Name, t.Ext))
		}
		m.begin(ctx, h, w, w.do)
	})
	return started, waits
}

func (m *Manager) now() plan.Now {
	n := plan.Now{Boot: m.boot, Agent: m.cfg.Agent}
	if m.pass != nil {
		n.Key = m.pass.key
	}
	if m.cfg.EnableEveryStart {
		n.Start = m.start
	}
	return n
}

// facts returns what the plan needs to know about the versions of a handler.
func (m *Manager) facts(h *managed) []plan.Fact {
	var out []plan.Fact
	for _, r := range h.recs {
		f := r.Fact()
		if r.State != plan.Absent {
			if hm, err := m.store.Manifest(r.Name, r.Version); err == nil {
				f.NoInstallOnUpdate = hm.NoInstallOnUpdate
			}
		}
		out = append(out, f)
	}
	return out
}

// wish returns what the goal state wants of a handler; false while the version
// is not chosen yet.
func (m *Manager) wish(h *managed, want *protocol.Handler, mine []pair) (plan.Wish, bool) {
	p := m.pass
	w := plan.Wish{Name: h.name, Multi: want.MultiConfig, Enable: want.Want == protocol.WantEnabled, Gone: want.Want == protocol.WantUninstall}
	if w.Enable {
		if r, ok := h.recs[want.Version]; ok && r.State.Installed() {
			// The wanted version is installed: no manifest is needed.
			w.Version = want.Version
		} else if d, ok := p.versions[strings.ToLower(want.Name)]; ok {
			w.Version = d.version
		} else {
			return w, false
		}
	}
	ordered := slices.Clone(mine)
	slices.SortStableFunc(ordered, func(a, b pair) int { return cmp.Compare(a.order(), b.order()) })
	for _, q := range ordered {
		if !p.skipped[q.key()].None() {
			continue
		}
		e := plan.ExtWish{Name: q.ext, Seq: q.seq, Disable: w.Enable && !q.enable, Force: p.forced[q.key()]}
		e.Hash = settingsHash(w.Version, q)
		w.Exts = append(w.Exts, e)
	}
	return w, true
}

// settingsHash is a hash of everything whose change makes enable run again.
// Protected settings are left out: the platform may encrypt the same ones
// again, and raises the sequence number when they change.
func settingsHash(version string, q pair) string {
	var public json.RawMessage
	for _, s := range q.handler.Settings {
		if q.ext == "" || s.Name == q.ext {
			public = s.Public
			break
		}
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%d\n%t\n", version, q.seq, q.bare)
	h.Write(handler.PublicSettings(public)) // the same for the XML and the JSON form of a goal state
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// decide fetches the manifest and chooses a version from it.
func (m *Manager) decide(ctx context.Context, h *managed, want *protocol.Handler) {
	w := newWork(m, h, want, plan.Task{Op: plan.Fetch, Version: want.Version, Why: "version"})
	m.begin(ctx, h, w, w.decide)
}

func (w *work) decide(ctx context.Context) error {
	want := w.want
	if _, err := folder.Root.Lstat(w.sideFile(want.Version)); err == nil {
		w.decided(decision{version: want.Version, side: true}) // no manifest is needed
		return nil
	}
	manifest, err := w.m.fetch.Manifest(ctx, want.Manifests)
	if err != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errOutdated):
			return nil
		case errors.Is(cause, errCancelled):
			err = cancelled("while the manifest was fetched").Err()
		case cause != nil:
			return cause
		}
		return w.noVersion(err, fault.CauseOf(err, fault.CauseDownload), fmt.Sprintf("[ExtensionError] Failed to get ext handler pkgs\nInner error: [ProtocolError] Failed to retrieve extension manifest. Error: %v", err))
	}
	pkg, ok := plan.ChooseVersion(want.Version, manifest)
	if !ok {
		outlook := protocol.Absent
		if len(manifest.Versions) == 0 { // it is just being published
			outlook = protocol.Later
		}
		err := protocol.Judge(outlook, fmt.Errorf("version %s is not in the manifest", want.Version))
		return w.noVersion(err, fault.CauseDownload, fmt.Sprintf("Unable to find version %s in manifest for extension %s", want.Version, want.Name))
	}
	w.decided(decision{version: pkg.Version, manifest: manifest, pkg: pkg})
	return nil
}

// decided ends the step with a decision.
func (w *work) decided(d decision) {
	w.dec = &d
	if r, ok := w.recs[d.version]; ok && (r.State.Installed() || r.State == plan.Fetched) {
		w.arrived() // its package is here already
	} else if a := awaited(w.recs, w.key(), w.m.boot); a != nil {
		// The same wait goes on, for the package.
		w.wait = &await{since: w.since, text: awaitText(a), failed: a.Failed, asked: time.Now()}
		if w.since.IsZero() {
			w.wait.since = time.Now().Add(-a.Waited)
		}
	}
}

// noVersion records that no package was found for a handler.
func (w *work) noVersion(err error, cause, message string) error {
	p := fault.Problem{Code: fault.CodeOther, Cause: cause, Text: message}
	if w.waitFor("its version manifest", err, p) {
		return nil
	}
	w.dec = &decision{err: err}
	r := w.rec(w.want.Version)
	w.emit(r.Version, plan.Fetch, false, message, 0)
	return w.failTarget(r, p)
}

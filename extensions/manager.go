package extensions

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// A Fetcher downloads manifests and packages from the platform. Its errors say
// with their outlook (protocol.OutlookOf) whether it is of use to wait, and with
// protocol.NextTry until when; a call that comes earlier makes no request.
type Fetcher interface {
	// Manifest returns the list of published versions, from the first address
	// that has one.
	Manifest(ctx context.Context, uris []secret.URL) (protocol.Manifest, error)
	// Package downloads one package of at most limit bytes to dst and returns
	// its SHA-256 in lower-case hex. It tries all addresses of v. check is called
	// with each file that was received and its SHA-256; with an error another
	// address is asked, and the error's outlook says whether the fault can be
	// that of the transport. What was received of it when the download fails may
	// be left beside dst, with host.PartSuffix, for the next call.
	Package(ctx context.Context, m protocol.Manifest, v protocol.PackageVersion, dst string, limit int64, check func(file, sha256 string) error) (sha256 string, err error)
	// Wait waits for a time, or until something has changed on this machine that
	// requests may have failed for: addresses, routes, name servers, the clock.
	// Requests that wait for such a thing may be made at once then.
	Wait(ctx context.Context, d time.Duration) (changed bool, err error)
}

// Modes of the engine, for Config.Mode.
const (
	ModeOn         = "on"
	ModeOff        = "off"         // Extensions.Enabled=n: refuse, and report it (extensions/SPEC.md §13.7)
	ModeReportOnly = "report-only" // report what is installed; run and change nothing
)

// Timeouts limit the operations. Zero values mean the platform's usual ones
// (extensions/SPEC.md §9.4).
type Timeouts struct {
	Install, Update, Enable, Disable, Uninstall time.Duration
	// DisableToUninstall is shorter than Disable so that a delete is over
	// within 15 minutes even if both commands hang.
	DisableToUninstall time.Duration
	// Depend bounds how long the extensions of one goal state wait for their
	// dependencies.
	Depend time.Duration
	// Packages bounds how long a handler waits while another program changes
	// the installed packages, such as unattended upgrades after a boot.
	// PackagesFree is how long the lock has to be free then.
	Packages, PackagesFree time.Duration
	// Fetch is how long a package that can't be had is waited for before the
	// extension is reported as failed, without being given up.
	Fetch time.Duration
	// Certificate bounds how long a handler waits for the certificate that its
	// protected settings are encrypted for; 0 is Fetch.
	Certificate time.Duration
	// Profile bounds how long a goal state waits to know whether it is on hold.
	Profile time.Duration
	// Grace is how long after the deadline the supervisor may take to kill its
	// command and to record the result before the agent kills both.
	Grace time.Duration
	// Dead is half of how long a handler may have no living process before its
	// transitioning status is reported as an error. Late is the same where
	// somebody unknown may still write the status: it is missing, or was written
	// by a process that is not known (extensions/SPEC.md §7.6).
	Dead, Late time.Duration
}

func (t Timeouts) filled() Timeouts {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&t.Install, 900*time.Second)
	def(&t.Update, 900*time.Second)
	def(&t.Enable, 300*time.Second)
	def(&t.Disable, 900*time.Second)
	def(&t.Uninstall, 300*time.Second)
	def(&t.DisableToUninstall, 600*time.Second)
	def(&t.Depend, 90*time.Minute)
	def(&t.Packages, 10*time.Minute)
	def(&t.PackagesFree, 5*time.Second)
	def(&t.Fetch, 30*time.Minute)
	def(&t.Certificate, t.Fetch)
	def(&t.Profile, min(5*time.Minute, t.Fetch))
	def(&t.Grace, 20*time.Second)
	def(&t.Dead, 20*time.Second)
	def(&t.Late, 30*time.Minute)
	return t
}

// Config has the optional settings of the engine. A zero value selects the
// default of a field.
type Config struct {
	Lib     string // default /var/lib/waagent, which handlers have hard-coded
	LogDir  string // default /var/log/azure
	ExecDir string // if set, packages are unpacked here (for a Lib that is mounted noexec)
	Wire    string // WireServer address passed to handlers, default 168.63.129.16
	Agent   string // version of the agent
	Mode    string // one of the Mode constants, default ModeOn
	Conf    string // the configuration file, named in messages

	// IgnoreHold ignores that a goal state is on hold
	// (EnableOverProvisioning=n).
	IgnoreHold bool
	// Features are the names of the features that a goal state may require.
	Features []string
	// EnableEveryStart enables everything at each start of the agent, as
	// WALinuxAgent does.
	EnableEveryStart bool

	Policy policy.Config

	// Turn is called in each round of the engine's loop, at least once per
	// StatusPoll; it may be nil.
	Turn func()
	// Gate returns what processing still waits for (cloud-init, the operator),
	// or "". It is called again on Wake and every second.
	Gate func() string
	// Verify checks the detached signature of a package (base64 of CMS) and
	// returns the name of the signer.
	Verify func(ctx context.Context, file, signature string) (signer string, err error)
	// RequireSignature refuses packages without a signature that Verify accepts.
	RequireSignature bool

	Timeouts   Timeouts
	Parallel   int           // concurrent operations; default 16 or 4 per CPU, whichever is more
	StatusPoll time.Duration // interval of polling status files, in case inotify misses a change
	// PackageLimit and UnpackLimit bound the size of a package, compressed and
	// unpacked, in bytes.
	PackageLimit, UnpackLimit int64
}

func (c Config) filled() Config {
	str := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	str(&c.Lib, "/var/lib/waagent")
	str(&c.LogDir, "/var/log/azure")
	str(&c.Wire, "168.63.129.16")
	str(&c.Mode, ModeOn)
	str(&c.Conf, "/etc/waagent.conf")
	c.Policy = c.Policy.Filled()
	if c.Parallel <= 0 {
		c.Parallel = max(16, 4*runtime.NumCPU())
	}
	if c.StatusPoll <= 0 {
		c.StatusPoll = 15 * time.Second
	}
	if c.PackageLimit <= 0 {
		c.PackageLimit = 2 << 30
	}
	if c.UnpackLimit <= 0 {
		c.UnpackLimit = maxUnpacked
	}
	c.Timeouts = c.Timeouts.filled()
	return c
}

// A Manager brings the handlers on this machine to the goal state. The
// goroutine of Run decides what to do; one goroutine per busy handler does it.
// Independent handlers run in parallel, and none delays the report of another.
type Manager struct {
	cfg    Config
	store  store.Store
	launch job.Launcher
	fetch  Fetcher
	events event.Sink
	log    zerolog.Logger
	notify func() (*fsnotify.Watcher, error)
	boot   string
	start  string // random name of this start of the agent

	offers  chan *protocol.GoalState // holds only the latest
	wake    chan struct{}
	changed chan struct{}
	began   chan begun
	done    chan outcome
	cancels chan cancelRequest
	moved   chan struct{} // something has changed that an await may have waited for
	running sync.WaitGroup
	audit   *store.AuditLog
	refused refusals

	// Owned by the goroutine of Run.
	handlers map[string]*managed // by lower-case name
	pass     *pass
	ends     map[string]knownEnd // cached results of pairs, during one run of schedule
	watch    *fsnotify.Watcher
	watched  map[string]bool
	busy     int
	removed  map[string]time.Time // directories removed recently
	stall    stall
	deaf     context.CancelFunc // ends listen's goroutine; nil if there is none
	shown    []row              // rows of the last poll of an idle engine
	emptying atomic.Bool

	mu     sync.Mutex // guards the fields below
	view   view
	forced map[string]string // by pair: the operator's reason to run it again
	files  store.Cache
}

// managed is one handler (Publisher.Type) with all its versions.
type managed struct {
	name    string
	recs    map[string]store.Record
	busy    *plan.Task
	quiet   bool                    // busy with something that is reported as failed, and stays so until it succeeds
	begun   map[string]store.Record // by version: records with the commands that busy has started
	stop    context.CancelCauseFunc // cancels the running step
	ended   chan string             // receives work.how once the step has ended and is recorded
	settled bool                    // nothing left to do in this goal state
}

// New makes a Manager. Every argument is required.
func New(root host.Root, launch job.Launcher, fetch Fetcher, events event.Sink, log zerolog.Logger, cfg Config) *Manager {
	cfg = cfg.filled()
	m := &Manager{
		cfg:      cfg,
		store:    store.New(root, cfg.Lib, cfg.ExecDir, cfg.LogDir),
		launch:   launch,
		notify:   fsnotify.NewWatcher,
		fetch:    fetch,
		events:   events,
		log:      log,
		boot:     host.BootID(),
		start:    store.NewID(),
		offers:   make(chan *protocol.GoalState, 1),
		wake:     make(chan struct{}, 1),
		changed:  make(chan struct{}, 1),
		began:    make(chan begun),
		done:     make(chan outcome),
		cancels:  make(chan cancelRequest),
		moved:    make(chan struct{}),
		audit:    store.NewAuditLog(root.Path(cfg.LogDir + "/azguest-audit.log")),
		handlers: map[string]*managed{},
		watched:  map[string]bool{},
		forced:   map[string]string{},
	}
	m.audit.Instead = m.store.Sub("logs")
	return m
}

// Offer hands over a goal state. It never blocks; a goal state that was not
// taken yet is replaced by a later one.
func (m *Manager) Offer(gs *protocol.GoalState) {
	if gs == nil {
		return
	}
	for {
		select {
		case m.offers <- gs:
			return
		default:
		}
		select {
		case <-m.offers:
		default:
		}
	}
}

// Wake makes the manager check again whatever it waits for.
func (m *Manager) Wake() { poke(m.wake) }

// AuditSeq is the number of the last line of the audit log, 0 if there is
// none.
func (m *Manager) AuditSeq() int64 { return m.audit.Seq() }

// Changed receives a value whenever the result of Status may have changed.
func (m *Manager) Changed() <-chan struct{} { return m.changed }

// Retry enables an extension once more in this goal state; config is the
// name of the instance for multi-config and "" otherwise. Before the first goal
// state, the request is kept for that one. The reason is recorded in the
// history.
func (m *Manager) Retry(name, config, reason string) {
	m.mu.Lock()
	m.forced[pairKey(name, config)] = reason
	m.mu.Unlock()
	m.Wake()
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run works until the context ends. Commands that are running then go on
// under their supervisors and are picked up by the next Run.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.store.Init(); err != nil {
		return err
	}
	recs, bad, err := m.store.Load()
	for _, err := range bad {
		m.log.Error().Err(err).Str("code", "AZ-AGENT-STATE").Msg("handler record not usable, using the state in the handler's directory")
	}
	if err != nil {
		return err
	}
	if m.watch, err = m.notify(); err != nil {
		m.log.Warn().Err(err).Msg("inotify not available, polling status files")
		m.watch = nil
	} else {
		defer m.watch.Close()
	}
	// wait: cancel runs first, and all of them end with that context
	defer m.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Remove what was being unpacked or removed when the agent ended. A process
	// that is still alive may keep some of it in use.
	m.emptyTrash(ctx)
	m.store.FillReserve()
	m.removed = m.store.Removed()
	m.running.Go(func() {
		defer crash.Guard()
		m.keepOutput(ctx)
	})
	// An earlier Run may have left any state in memory.
	m.handlers, m.busy, m.watched, m.pass = map[string]*managed{}, 0, map[string]bool{}, nil
	m.deaf = nil
	for _, r := range recs {
		h := m.handler(r.Name)
		h.recs[r.Version] = r
	}
	for _, h := range m.handlers {
		m.refreshFiles(h)
		m.resume(ctx, h)
	}
	m.publish()
	return m.loop(ctx)
}

func (m *Manager) loop(ctx context.Context) error {
	poll := time.NewTicker(m.cfg.StatusPoll)
	defer poll.Stop()
	every := max(m.cfg.Timeouts.Dead/4, 50*time.Millisecond)
	dead := time.NewTicker(every)
	defer dead.Stop()
	wary := true
	tidy := time.NewTicker(10 * time.Minute)
	defer tidy.Stop()
	var seen chan fsnotify.Event
	var trouble chan error
	if m.watch != nil {
		seen, trouble = m.watch.Events, m.watch.Errors
	}
	for {
		if m.cfg.Turn != nil {
			m.cfg.Turn()
		}
		wary = m.paceDead(dead, every, wary)
		m.listen(ctx)
		select {
		case <-ctx.Done():
			return nil
		case gs := <-m.offers:
			m.newPass(gs)
			m.takeForced()
		case b := <-m.began:
			m.hasBegun(b)
			m.publish()
			continue
		case out := <-m.done:
			m.finished(out)
		case <-m.wake:
			m.takeForced()
		case <-m.moved:
			m.tryAgain(true)
		case c := <-m.cancels:
			c.answer <- m.cancel(ctx, c) // wait: the channel has room for it
		case ev, ok := <-seen:
			if !ok || !strings.HasSuffix(ev.Name, ".status") {
				continue
			}
		case <-trouble: //nolint:errcheck // the poll finds changes without notifications
		case <-poll.C:
			m.schedule(ctx)
			if m.still() {
				continue
			}
		case <-dead.C:
			m.removeAgain()
			if dead := m.lookForDead(); !m.unstall() && !dead {
				continue
			}
		case <-tidy.C:
			m.tidy()
			if m.busy == 0 {
				m.emptyTrash(ctx)
			}
			m.store.FillReserve()
			continue
		case <-m.lookTimer():
		}
		m.schedule(ctx)
		m.publish()
	}
}

// lookTimer fires when something that is waited for has to be checked again.
// It is nil if there is nothing to wait for.
func (m *Manager) lookTimer() <-chan time.Time {
	if d := m.nextLook(); d > 0 {
		return time.After(d)
	}
	return nil
}

// paceDead stops the ticker of lookForDead while there is nothing to look for,
// to save wake-ups. wary reports whether the ticker runs; so does the result.
func (m *Manager) paceDead(dead *time.Ticker, every time.Duration, wary bool) bool {
	need := m.wary()
	switch {
	case need && !wary:
		dead.Reset(every)
	case !need && wary:
		dead.Stop()
	}
	return need
}

// handler returns the entry of a handler name, ignoring case; a missing one is
// added.
func (m *Manager) handler(name string) *managed {
	key := strings.ToLower(name)
	h := m.handlers[key]
	if h == nil {
		h = &managed{name: name, recs: map[string]store.Record{}}
		m.handlers[key] = h
	}
	return h
}

// resume picks up a command that was running when the agent ended.
func (m *Manager) resume(ctx context.Context, h *managed) {
	for _, r := range h.recs {
		if r.Doing == nil {
			continue
		}
		d := *r.Doing
		d.Task = store.WithPurpose(d.Task)
		r.Doing = &d
		if d.Job == "" {
			r.Doing = nil
			h.recs[r.Version] = r
			continue
		}
		m.log.Info().Str("handler", r.Name).Str("version", r.Version).Str("op", string(d.Task.Op)).Msg("command was running when the agent stopped, still following it")
		w := newWork(m, h, nil, d.Task)
		m.begin(ctx, h, w, func(ctx context.Context) error { return w.await(ctx, r) })
		return // a handler has only one step at a time
	}
}

// begun is sent by a handler's goroutine before it starts a command.
type begun struct {
	name string
	rec  store.Record
}

// tellBegun sends the record of a command that is about to start to the loop,
// which publishes it.
func (w *work) tellBegun(ctx context.Context, r store.Record) {
	select {
	case w.m.began <- begun{w.name, r}:
	case <-ctx.Done():
	}
}

// hasBegun keeps the record of a started command for the report. The handler's
// own records do not change until the step has ended.
func (m *Manager) hasBegun(b begun) {
	h := m.handler(b.name)
	if h.begun == nil {
		h.begun = map[string]store.Record{}
	}
	h.begun[b.rec.Version] = b.rec
}

// outcome is the result of one step, sent by the handler's goroutine.
type outcome struct {
	h    *managed
	task plan.Task
	recs map[string]store.Record
	pass *pass
	dec  *decision
	how  string
	err  error

	await *await
	back  bool
}

// begin runs one step of a handler in its own goroutine.
func (m *Manager) begin(life context.Context, h *managed, w *work, do func(context.Context) error) {
	t := w.task
	ctx, stop := context.WithCancelCause(life)
	h.busy, h.stop, h.ended = &t, stop, make(chan string, 1)
	h.quiet = false
	if a := m.awaitOf(h.name); a != nil {
		h.quiet, w.since, w.asked = a.failed, a.since, a.asked
	}
	m.busy++
	p := m.pass
	m.running.Go(func() {
		defer stop(nil)
		defer crash.Guard()
		err := host.Safely(func() error { return do(ctx) })
		select {
		case m.done <- outcome{h: h, task: t, recs: w.recs, pass: p, dec: w.dec, how: w.how, err: err, await: w.wait, back: w.back}:
		case <-life.Done(): // the next Run reads the result from disk
		}
	})
}

// finished processes the outcome of a step.
func (m *Manager) finished(o outcome) {
	m.busy--
	o.h.busy, o.h.begun, o.h.quiet = nil, nil, false
	o.h.ended <- o.how // wait: the channel has room for it
	close(o.h.ended)
	m.store.FillReserve() // if it was used and there is space again
	m.noteRemoved(o.h.recs, o.recs)
	o.h.recs = o.recs
	for v, r := range o.h.recs {
		if r.Blank() {
			delete(o.h.recs, v)
		}
	}
	if o.dec != nil && o.pass != nil {
		o.pass.versions[strings.ToLower(o.h.name)] = *o.dec
	}
	if o.err != nil && !errors.Is(o.err, context.Canceled) {
		m.log.Error().Err(o.err).Func(host.LogStack(o.err)).Str("handler", o.h.name).Str("op", string(o.task.Op)).Msg("extension operation failed")
	}
	if o.err != nil && m.pass != nil {
		// The result could not be stored. Trying again at once would loop.
		err := fault.OfDisk(o.err)
		m.pass.stuck[strings.ToLower(o.h.name)] = fault.Problem{Code: fault.CodeOther, Cause: fault.CauseOf(err, fault.CauseNotStarted), Text: err.Error()}
		m.stalled()
	} else if o.err == nil && m.pass != nil && len(m.pass.stuck) == 0 {
		m.stall = stall{}
	}
	o.h.settled = false
	m.noteAwait(o)
}

// awaitOf returns the wait of a handler in this goal state, or nil.
func (m *Manager) awaitOf(name string) *await {
	if m.pass == nil {
		return nil
	}
	return m.pass.awaits[strings.ToLower(name)]
}

// refreshFiles rewrites HandlerEnvironment.json of the installed versions: it
// may have been written by another agent or an older version, with other keys.
func (m *Manager) refreshFiles(h *managed) {
	for _, r := range h.recs {
		if !r.State.Installed() {
			continue
		}
		if err := m.environment(r.Name, r.Version); err != nil {
			m.log.Warn().Err(err).Str("handler", r.Name).Msg("could not write handler environment")
		}
	}
}

// outputPeriod is how often the output of processes that commands have left is
// looked at. That costs two system calls for each job.
const outputPeriod = 2 * time.Second

// keepOutput keeps what commands print within limits, and masks secrets in it,
// until the context ends.
func (m *Manager) keepOutput(ctx context.Context) {
	tick := time.NewTicker(outputPeriod)
	defer tick.Stop()
	var keeper job.Keeper
	failed := false
	for {
		err := host.Safely(func() error { return keeper.Tidy(m.store.Sub("jobs")) })
		if err != nil && !failed {
			m.log.Warn().Err(err).Func(host.LogStack(err)).Msg("could not bound or mask the output of commands")
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tidy removes old job directories that no record refers to.
func (m *Manager) tidy() {
	keep := map[string]bool{}
	for _, h := range m.handlers {
		keepJobs(keep, h.recs)
	}
	m.store.TidyJobs(keep, time.Hour)
	m.store.TidyPackages()
}

// keepJobs adds the jobs that records refer to.
func keepJobs(keep map[string]bool, recs map[string]store.Record) {
	for _, r := range recs {
		if r.Doing != nil {
			keep[r.Doing.Job] = true
		}
		if r.Last != nil {
			keep[r.Last.Job] = true
		}
		for _, e := range r.Exts {
			for _, j := range e.Jobs {
				keep[j] = true
			}
			if e.Last != nil {
				keep[e.Last.Job] = true
			}
		}
	}
}

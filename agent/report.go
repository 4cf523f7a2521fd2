package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/disk"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
)

// reports is what the reporter remembers about the status document.
type reports struct {
	mu   sync.Mutex // guards due
	due  bool       // send even if nothing changed
	last string     // the document that was accepted last, as JSON without times

	// saving serializes writes of the snapshot file, so that a later write is a
	// newer snapshot. It guards notify and changes.
	saving sync.Mutex
	notify string       // STATUS= as last sent to the service manager
	saved  atomic.Int64 // when the snapshot was saved, in nanoseconds since 1970

	refused time.Time            // since when the platform refuses reports; guarded by mu
	seen    map[string]time.Time // when problems of extensions were first seen; guarded by mu
	changes changes
}

// answer records the result of a report. platform.ErrLater is not a refusal.
func (r *reports) answer(receipt protocol.Receipt, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.refused = time.Time{}
	case receipt.HTTPStatus < 400 || receipt.HTTPStatus >= 500 || errors.Is(err, platform.ErrLater):
	case r.refused.IsZero():
		r.refused = receipt.Sent
	}
}

func (r *reports) refusedSince() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// force makes the next report go out even if it says nothing new.
func (r *reports) force() {
	r.mu.Lock()
	r.due = true
	r.mu.Unlock()
}

func (r *reports) takeDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	due := r.due
	r.due = false
	return due
}

func (r *reports) lastSaved() time.Time { return time.Unix(0, r.saved.Load()) }

// settle is how long the reporter collects changes before it reports them: ten
// handlers that start together make one report, not ten.
const settle = 50 * time.Millisecond

// lifeSign returns how often the agent shows that it works: every minute, and
// three times within the watchdog period of the service manager (in
// microseconds).
func lifeSign(watchdog string) time.Duration {
	usec, err := strconv.ParseInt(watchdog, 10, 64)
	if err != nil || usec <= 0 || usec > int64(time.Hour/time.Microsecond) {
		return time.Minute
	}
	return min(time.Minute, max(time.Duration(usec)*time.Microsecond/3, 10*time.Millisecond))
}

// tardy is how long a report may take before agentctl is shown what has changed
// meanwhile.
const tardy = time.Second

// sending is what the reporter knows about the report that is being sent.
type sending struct {
	done    <-chan error     // receives its result; nil if none is being sent
	late    <-chan time.Time // fires when changes made meanwhile have to be shown
	changed bool             // something has changed meanwhile
	retry   <-chan time.Time // fires when a report that failed has to be sent again
	pause   *backoff.ExponentialBackOff
}

func newSending() *sending {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 2*time.Second, 45*time.Second
	return &sending{pause: pause}
}

// wait waits for the report that is being sent; its context has ended.
func (s *sending) wait() {
	if s.done != nil {
		// wait: the context has ended, and with it the report
		<-s.done //nolint:errcheck // its error does not matter once the context has ended
	}
}

// reporter writes the snapshot and sends the status document whenever something
// changed, and sends the document again if it was not accepted. Sending may
// take minutes on a bad network; the snapshot does not wait for it.
func (a *Agent) reporter(ctx context.Context) error {
	// Saved even if nothing has changed: an old snapshot means that the agent
	// hangs.
	sign := lifeSign(os.Getenv("WATCHDOG_USEC")) //nolint:forbidigo // the service manager's own interface
	alive := time.NewTicker(sign)
	defer alive.Stop()
	s := newSending()
	defer s.wait()
	defer a.pulse.begin("reporter", sign)()
	for {
		a.pulse.beat("reporter")
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-alive.C:
			// Each report saves it, too.
			if time.Since(a.rep.lastSaved()) > sign/2 {
				a.save()
			}
			continue
		case <-s.late:
			a.save()
			continue
		case err := <-s.done:
			a.reportEnded(ctx, s, err)
			if !s.changed {
				continue
			}
		case <-a.live.dirty:
		case <-a.ext.Changed():
		case <-s.retry:
			a.rep.force()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(settle):
		}
		if s.changed = s.done != nil; s.changed {
			a.save()
			continue
		}
		a.beginReport(ctx, s)
	}
}

// beginReport sends a report in the background.
func (a *Agent) beginReport(ctx context.Context, s *sending) {
	s.retry, s.late = nil, time.After(tardy)
	s.done = inBackground(func() error {
		defer a.pulse.begin("report", 0)()
		ctx, cancel := context.WithTimeoutCause(ctx, turnLimit, fmt.Errorf("not finished after %v", turnLimit))
		defer cancel()
		// A change that an extension has just made to sshd's configuration must
		// be in effect when the extension is reported.
		a.yieldSSHD(ctx)
		return a.report(ctx)
	})
}

// reportEnded plans the next attempt after a report that was not accepted.
func (a *Agent) reportEnded(ctx context.Context, s *sending, err error) {
	s.done, s.late = nil, nil
	a.save()
	switch {
	case err == nil:
		s.pause.Reset()
	case ctx.Err() != nil:
	default:
		s.retry = time.After(s.pause.NextBackOff())
		if protocol.Loud(err) {
			a.Log.Warn().Err(err).Msg("status report not accepted by the platform")
		}
	}
}

// heartbeat is the job that makes a report due, so that the platform does not
// consider the agent unresponsive.
func (a *Agent) heartbeat(context.Context) error {
	a.rep.force()
	a.live.poke()
	return nil
}

// report sends the status document if it says something new or is due.
func (a *Agent) report(ctx context.Context) error {
	if a.loop.current() == nil {
		return nil // nowhere to send it yet
	}
	doc := a.statusDocument()
	key, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("compare status: %w", err)
	}
	news := string(key) != a.rep.last
	if !a.rep.takeDue() && !news {
		return nil
	}
	if news { // agentctl must not know less than the platform
		a.save()
	}
	receipt, err := a.platform.ReportStatus(ctx, doc)
	a.rep.answer(receipt, err)
	a.live.update(func(s *status.Snapshot) {
		r := &s.Platform.LastReport
		r.At, r.Sent, r.Accepted, r.Via, r.Error = receipt.Sent, !receipt.Sent.IsZero(), receipt.Accepted, receipt.Via, ""
		r.HTTPStatus = receipt.HTTPStatus
		if err != nil {
			r.Error = secret.Redact(err.Error())
		} else {
			r.AcceptedAt = time.Now().UTC()
		}
	})
	if err != nil {
		a.rep.force()
		return err
	}
	a.rep.last = string(key)
	a.reported()
	return nil
}

// statusDocument returns the status that is reported to the platform.
func (a *Agent) statusDocument() protocol.Status {
	ext := a.ext.Status()
	a.applied(ext)
	message := "Guest Agent is running"
	if d := a.lookAtSpace(); d.State == status.Error {
		message += ", but degraded: " + d.Code + ": " + d.Fix
	}
	return protocol.Status{
		Agent:     protocol.AgentStatus{Version: a.Version, Message: message, Update: a.updateStatus()},
		Handlers:  ext.Handlers,
		GoalState: ext.GoalState,
		OS:        a.osInfo(),
		Features:  a.features(),
	}
}

// applied records when the engine has finished with a goal state.
func (a *Agent) applied(ext extensions.Snapshot) {
	gs := a.loop.current()
	if gs == nil || ext.Key != gs.Key() {
		return
	}
	a.live.update(func(s *status.Snapshot) {
		g := &s.Platform.GoalState
		switch {
		case ext.Converged && g.Applied.IsZero():
			g.Applied = time.Now().UTC()
			// Work that is done again later (hold, resume, retry) does not make
			// this goal state late.
			if g.LagS == 0 {
				g.LagS = max(g.Applied.Sub(g.Received).Seconds(), 1e-6)
			}
		case !ext.Converged:
			g.Applied = time.Time{}
		}
	})
}

func (a *Agent) features() []protocol.Feature {
	out := []protocol.Feature{{Key: "MultipleExtensionsPerHandler", Value: "1.0"}}
	if a.platform.FastTrack() {
		out = append(out, protocol.Feature{Key: "FastTrack", Value: "1.0"})
	}
	if a.governable() {
		out = append(out, protocol.Feature{Key: "VersioningGovernance", Value: "1.0"})
	}
	return out
}

// save writes the snapshot for agentctl. A failure, for example because /run is
// full, is only logged.
func (a *Agent) save() {
	a.rep.saving.Lock()
	defer a.rep.saving.Unlock()
	a.lookAtSpace()
	s := a.live.copy()
	a.fill(&s)
	a.remember(&s, a.rep.changes.look(s.Extensions, a.started, time.Now().UTC()))
	// Cheap, so they are measured each time: those of the first moments would be
	// shown for minutes.
	s.Agent.Goroutines = runtime.NumGoroutine()
	var ru unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &ru) == nil {
		s.Agent.CPUSeconds = time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
		s.Agent.CPUPercent = a.used.percent(time.Now(), s.Agent.CPUSeconds)
	}
	s.Overall = s.Judge()
	s = s.Clean()
	err := status.Save(a.paths.Snapshot, s)
	if err != nil && !lacking(err) {
		a.checkState() // something else may be in its place
		err = status.Save(a.paths.Snapshot, s)
	}
	if err != nil {
		a.Log.Debug().Err(err).Msg("could not write status snapshot")
	} else {
		a.rep.saved.Store(time.Now().UnixNano())
	}
	if line := s.Overall.Line; line != a.rep.notify {
		a.rep.notify = line
		notify("STATUS=" + line)
	}
}

// A cpuWindow is the last two measurements of the processor time, minWindow apart
// at least: the use since the older one is that of the last minutes.
type cpuWindow struct{ before, last cpuTime }

type cpuTime struct {
	at      time.Time
	seconds float64
}

// minWindow is the shortest time over which the use of the processor is
// averaged, except after a start.
const minWindow = time.Minute

// cpuSince returns the window of a process that has just started.
func cpuSince(start time.Time) cpuWindow {
	return cpuWindow{cpuTime{at: start}, cpuTime{at: start}}
}

// percent returns the use of one core in the window. seconds is the processor time
// used so far.
func (w *cpuWindow) percent(now time.Time, seconds float64) float64 {
	if now.Sub(w.last.at) >= minWindow {
		w.before, w.last = w.last, cpuTime{now, seconds}
	}
	past := now.Sub(w.before.at)
	if past <= 0 {
		return 0
	}
	return 100 * (seconds - w.before.seconds) / past.Seconds()
}

// measure is the job that measures the resources that the agent uses.
func (a *Agent) measure(context.Context) error {
	a.forgetHang()
	a.showAside()
	rss, fds := ownMemory(), 0
	if d, err := host.Root("").ReadDir("/proc/self/fd"); err == nil {
		fds = len(d)
	}
	u, derr := a.diskUsage()
	a.live.update(func(s *status.Snapshot) {
		g := &s.Agent
		g.RSS, g.FDs = rss, fds
		s.Disk = u
	})
	return derr
}

// ownMemory is the resident memory in bytes, 0 if unknown.
func ownMemory() int64 {
	b, err := host.Root("").ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

func (a *Agent) diskDirs() disk.Dirs {
	return disk.Dirs{Lib: a.cfg.Paths.Lib, HandlerLogs: a.cfg.Paths.ExtensionLogs, AgentLog: a.cfg.Logs.File}
}

func (a *Agent) diskUsage() (status.Disk, error) {
	u, err := disk.Measure(a.Root, a.diskDirs())
	d := status.Disk{
		LibDir: a.cfg.Paths.Lib, Used: u.Used, Budget: int64(a.cfg.Disk.BudgetMB) << 20, Files: u.Files, FilesBudget: a.cfg.Disk.Files,
	}
	for _, s := range u.Shares {
		d.Parts = append(d.Parts, status.DiskUse{Name: s.Name, Path: s.Path, Used: s.Used, Files: s.Files, CanFree: s.CanFree})
	}
	d.Problem = a.live.copy().Disk.Problem
	judgeSpace(&d, u, a.overBudget.Load())
	return d, err
}

// judgeSpace sets the state of the file system; doctor has the same limits.
func judgeSpace(d *status.Disk, u disk.Usage, overBudget bool) {
	d.Free, d.FreePercent, d.InodesFree, d.ReadOnly = u.Free, 0, u.InodesFree, u.ReadOnly
	if u.Size > 0 {
		d.FreePercent = 100 * float64(u.Free) / float64(u.Size)
	}
	was := d.Problem
	d.State, d.Problem = status.OK, status.Problem{}
	bad := func(st status.State, code string) {
		d.State, d.Problem = st, problem(code, time.Now().UTC())
		if was.Code == code {
			d.Since = was.Since
		}
	}
	switch {
	case u.ReadOnly:
		bad(status.Error, "AZ-DISK-READONLY")
	case u.Size > 0 && u.Free < 4<<20: // what the extension engine keeps in reserve
		bad(status.Error, "AZ-DISK-FULL")
	case u.Inodes > 0 && u.InodesFree < 128:
		bad(status.Error, "AZ-DISK-INODES")
	case overBudget:
		bad(status.Warn, "AZ-DISK-BUDGET")
	case u.Size > 0 && (u.Free < 64<<20 || d.FreePercent < 5 && u.Free < 2<<30):
		bad(status.Warn, "AZ-DISK-LOW")
	}
}

// lookAtSpace updates and returns the state of the file system, which may have
// filled up since the last full measurement.
func (a *Agent) lookAtSpace() (d status.Disk) {
	u, err := disk.Space(a.Root, a.cfg.Paths.Lib)
	a.live.update(func(s *status.Snapshot) {
		if err == nil {
			judgeSpace(&s.Disk, u, a.overBudget.Load())
		}
		d = s.Disk
	})
	return d
}

// housekeeping is the job that keeps the disk budget.
func (a *Agent) housekeeping(context.Context) error {
	_, err := a.clean(false)
	return err
}

// clean deletes files until the disk budget is kept, or, if hard, everything
// that may be deleted. It returns the number of bytes freed.
func (a *Agent) clean(hard bool) (int64, error) {
	u, err := disk.Measure(a.Root, a.diskDirs())
	budget, files := int64(a.cfg.Disk.BudgetMB)<<20, a.cfg.Disk.Files
	if hard {
		budget, files = 0, 0
	}
	freed, cerr := disk.Clean(u, disk.Plan(u, budget, files))
	if !hard {
		// Files in use can't be deleted, so the budget may still be exceeded.
		a.overBudget.Store(u.Used-freed > budget)
	}
	if freed > 0 {
		a.Log.Info().Int64("bytes", freed).Msg("files deleted to keep the disk budget")
	}
	return freed, errors.Join(err, cerr)
}

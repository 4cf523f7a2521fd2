package extensions

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// A Snapshot is the status to report to the platform.
type Snapshot struct {
	Handlers  []protocol.HandlerStatus
	GoalState *protocol.GoalStateStatus // nil until the first one was processed
	// Key identifies the goal state of the rows; "" before the first one.
	Key string
	// Converged reports whether all rows are final (extensions/SPEC.md §15.5).
	Converged bool
	// Waiting is what the whole goal state waits for (see Config.Gate), or "".
	Waiting string
}

// view is a copy of all state that rows are made of. The loop publishes it, so
// that Status and Details never have to wait for the loop.
type view struct {
	pass     *pass // a copy; nil before the first goal state
	handlers map[string]viewHandler
	boot     string
	now      plan.Now
	store    store.Store
	mode     string
	timeouts Timeouts
}

type viewHandler struct {
	name string
	recs map[string]store.Record
	busy *plan.Task
}

// live returns a view of the loop's state without copying it, for use in the
// loop only.
func (m *Manager) live() view {
	v := view{pass: m.pass, handlers: map[string]viewHandler{}, boot: m.boot, now: m.now(), store: m.store, mode: m.cfg.Mode, timeouts: m.cfg.Timeouts}
	for key, h := range m.handlers {
		v.handlers[key] = viewHandler{name: h.name, recs: h.recs, busy: h.busy}
	}
	return v
}

// publish makes the current state visible to other goroutines.
func (m *Manager) publish() {
	v := m.live()
	if v.pass != nil {
		p := *v.pass
		p.versions, p.skipped, p.denied = maps.Clone(p.versions), maps.Clone(p.skipped), maps.Clone(p.denied)
		p.waits, p.dead, p.stuck, p.off = maps.Clone(p.waits), maps.Clone(p.dead), maps.Clone(p.stuck), maps.Clone(p.off)
		v.pass = &p
	}
	for key, h := range v.handlers {
		h.recs = maps.Clone(h.recs)
		for ver, r := range m.handlers[key].begun {
			if h.recs[ver].Doing == nil {
				h.recs[ver] = r
			}
		}
		v.handlers[key] = h
	}
	m.mu.Lock()
	m.view = v
	m.mu.Unlock()
	m.watchStatus()
	poke(m.changed)
}

// still reports whether the rows are the same as at the last poll, so that
// nothing has to be published. While there is work, it reports false.
func (m *Manager) still() bool {
	if m.pass == nil || !m.pass.settled || m.busy > 0 {
		m.shown = nil
		return false
	}
	rows := m.live().rows(&m.files)
	same := m.shown != nil && reflect.DeepEqual(rows, m.shown)
	m.shown = rows
	return same
}

// watchStatus watches the status folders of all handlers with inotify.
func (m *Manager) watchStatus() {
	if m.watch == nil {
		return
	}
	want := map[string]bool{}
	for _, h := range m.handlers {
		for _, r := range h.recs {
			if r.State != plan.Absent {
				want[m.store.Base(r.Name, r.Version)+"/status"] = true
			}
		}
	}
	for dir := range m.watched {
		if !want[dir] {
			_ = m.watch.Remove(dir) // fails if it was removed with the directory
			delete(m.watched, dir)
		}
	}
	for dir := range want {
		if !m.watched[dir] && m.watch.Add(dir) == nil {
			m.watched[dir] = true
		}
	}
}

// Status returns the current status report. It never waits for a handler.
func (m *Manager) Status() Snapshot {
	m.mu.Lock()
	v := m.view
	m.mu.Unlock()
	s := Snapshot{Converged: true}
	for _, r := range v.rows(&m.files) {
		if r.none {
			continue
		}
		s.Handlers = append(s.Handlers, r.status)
		if !r.terminal() {
			s.Converged = false
		}
	}
	if v.pass != nil {
		s.GoalState, s.Key, s.Waiting = v.pass.state, v.pass.key, v.pass.gate
		s.Converged = s.Converged && v.pass.settled
	} else {
		s.Converged = false
	}
	return s
}

// end is the result of an extension, for the extensions that depend on it.
type end int

const (
	endOpen end = iota
	endGood
	endFailed // an operation failed, or is not tried in this goal state
	endError  // enabled, but its status is an error
)

// row is one row of the report, with internal details about it.
type row struct {
	status  protocol.HandlerStatus
	rec     store.Record
	pair    pair
	end     end
	none    bool
	missing bool // there is no status file
	waits   string
	cause   string // stable code of what is wrong with it, "" if not known
}

func (r row) terminal() bool {
	word := r.status.Status
	if e := r.status.Extension; e != nil {
		word = e.Status
	}
	return slices.Contains([]string{handler.Success, handler.Error, "Ready", "NotReady", "ready", "notready"}, word)
}

// rows are the rows of the report, in the order of the goal state.
func (v view) rows(files *store.Cache) []row {
	if v.pass == nil || v.pass.refused {
		return v.diskRows(files)
	}
	var out []row
	// An outdated goal state is not processed, so it deletes nothing.
	named, lost := map[string]bool{}, v.pass.gs.Outdated
	for _, q := range v.pass.pairs {
		if q.handler.Name == "" { // it was not readable
			lost = true
			continue
		}
		named[strings.ToLower(q.handler.Name)] = true
		out = append(out, v.row(q, files))
	}
	if lost { // the other handlers stay, and are reported
		out = append(out, slices.DeleteFunc(v.diskRows(files), func(r row) bool { return named[strings.ToLower(r.rec.Name)] })...)
	}
	return out
}

// rowOf returns the row of one pair, for use in the loop only.
func (m *Manager) rowOf(q pair) row { return m.live().row(q, &m.files) }

// row is the report of one pair. A panic in here is reported as the failure of
// this pair and does not affect others.
func (v view) row(q pair, files *store.Cache) (r row) {
	err := host.Safely(func() error {
		r = v.describe(q, files)
		return nil
	})
	if err == nil {
		return r
	}
	why := fault.Problem{Code: fault.CodeOther, Cause: fault.CauseOf(err, ""), Text: err.Error()}
	r = row{pair: q, end: endFailed, status: protocol.HandlerStatus{Name: q.handler.Name, Version: q.handler.Version}}
	r.set(handler.ReportOf(why))
	r.fail(q, why)
	return r
}

func (v view) describe(q pair, files *store.Cache) (r row) {
	p := v.pass
	r.pair = q
	want := q.handler
	r.status = protocol.HandlerStatus{Name: want.Name, Version: want.Version}
	if want.Invalid != "" {
		r.end = endFailed
		r.set(handler.ReportOf(fault.Problem{Code: fault.CodeOther, Cause: fault.CauseSettings, Text: "Ran into config errors: " + want.Invalid + ". \nPlease retry again as another operation with updated settings"}))
		return r
	}
	h := v.handlers[strings.ToLower(want.Name)]
	if d, ok := p.versions[strings.ToLower(want.Name)]; ok && d.version != "" {
		r.status.Version = d.version
	}
	if want.Want != protocol.WantEnabled {
		r.status.Version = highest(h.recs, r.status.Version)
	}
	r.rec = h.recs[r.status.Version]
	r.waits = p.waits[q.key()]
	waited := awaited(h.recs, p.key, v.boot)
	if waited != nil {
		r.waits = awaitText(waited)
	}
	if !q.enable {
		return v.goingRow(r, q, files)
	}
	e, known := r.rec.Exts[q.ext]
	hash := settingsHash(r.status.Version, q)
	wish := plan.ExtWish{Name: q.ext, Seq: q.seq, Hash: hash}
	now := v.now
	failedHere := r.rec.FailKey != "" && r.rec.FailKey == p.key && r.rec.FailBoot == v.boot
	same := known && e.Enabled && e.Hash == hash && e.FailKey == "" && r.rec.State == plan.Enabled
	switch {
	case !p.stuck[strings.ToLower(want.Name)].None():
		r.end = endFailed
		r.set(handler.ReportOf(p.stuck[strings.ToLower(want.Name)]))
		r.fail(q, p.stuck[strings.ToLower(want.Name)])
	case p.denied[q.key()].Status != "":
		r.end = endFailed
		rep := v.withBeat(p.denied[q.key()], r.rec, files)
		r.set(rep)
		r.fail(q, rep.Problem())
	case !p.skipped[q.key()].None():
		r.end = endFailed
		rep := r.rec.Report
		if rep.Status == "" || q.ext == "" {
			rep = handler.ReportOf(p.skipped[q.key()])
		}
		r.set(rep)
		r.fail(q, p.skipped[q.key()])
	case failedHere:
		v.failedRow(&r, q, files)
	case waited != nil && waited.Failed:
		r.rec.Report = handler.ReportOf(waited.Problem)
		v.failedRow(&r, q, files)
	case same || known && e.FailKey == p.key && plan.WhyEnable(wish, r.rec.State, e.ExtFact, known, now) == "":
		v.settledRow(&r, q, e, files)
		if plan.WhyEnable(wish, r.rec.State, e.ExtFact, known, now) != "" {
			r.end = endOpen // it will be enabled again, for example after a boot
		}
	case p.hold || p.gate != "" || v.mode == ModeReportOnly:
		v.heldRow(&r, q, h, files)
	case !p.off[strings.ToLower(want.Name)].None() && h.busy == nil:
		r.end = endFailed
		r.set(handler.ReportOf(p.off[strings.ToLower(want.Name)]))
		r.fail(q, p.off[strings.ToLower(want.Name)])
	default:
		v.progressRow(&r, q, h)
	}
	return r
}

// failedRow reports a handler that failed in this goal state. Status files from
// before the failed operation are not its result, and could show a success. If
// the operation itself has written an error, that is more precise than its exit
// code.
func (v view) failedRow(r *row, q pair, files *store.Cache) {
	r.end = endFailed
	r.set(r.rec.Report)
	installed := r.rec.OnDisk() != "NotInstalled"
	if q.bare || q.ext == "" && !installed {
		return
	}
	if installed {
		v.extension(r, q, files)
		if r.status.Extension.Status == handler.Error && v.spoke(r.rec, q, r.rec.Last) {
			return
		}
	}
	r.fail(q, r.rec.Report.Problem())
}

// heldRow reports a handler that waits for the end of a hold, or is only
// reported and not processed.
func (v view) heldRow(r *row, q pair, h viewHandler, files *store.Cache) {
	p := v.pass
	if r.rec.Report.Status == "" {
		r.none = true
		return
	}
	if r.rec.Report.Code != 0 && v.mode != ModeReportOnly && !p.gs.Outdated {
		// The failure is from another goal state. This one asks for a new
		// attempt, which must not be reported as failed beforehand.
		v.progressRow(r, q, h)
		return
	}
	r.set(r.rec.Report)
	if !q.bare && r.rec.OnDisk() != "NotInstalled" {
		v.extension(r, q, files)
	}
}

// withBeat adds the heartbeat of the extension to a refusal by policy, because
// its software keeps running.
func (v view) withBeat(rep handler.Report, rec store.Record, files *store.Cache) handler.Report {
	base := v.store.Base(rec.Name, rec.Version)
	if rec.State != plan.Enabled || !files.Manifest(base+"/"+handler.ManifestName).Heartbeat {
		return rep
	}
	data, _, err := folder.Read(base+"/"+handler.HeartbeatName, handler.MaxHeartbeat)
	if err != nil {
		return rep
	}
	if b, err := handler.ParseHeartbeat(data); err == nil {
		rep.Message += " Extension was previously enabled and reported the following heartbeat:\n" + b.Status
		if b.Message != nil {
			rep.Message += ": " + *b.Message
		}
	}
	return rep
}

// settledRow reports an extension whose enable succeeded or failed.
func (v view) settledRow(r *row, q pair, e store.ExtRecord, files *store.Cache) {
	r.set(r.rec.Report)
	base := v.store.Base(r.rec.Name, r.rec.Version)
	if files.Manifest(base + "/" + handler.ManifestName).Heartbeat {
		r.set(handler.WithHeartbeat(r.rec.Report, base+"/"+handler.HeartbeatName, e.Age(), files.Age))
	}
	if e.FailKey != "" {
		r.end, r.cause = endFailed, e.Problem().Cause
		if q.bare {
			return
		}
		v.extension(r, q, files)
		// Without a status the platform would keep waiting for a result. A
		// success from before the enable is that of an earlier run or of the
		// previous version; the platform would take it for this one's.
		st := r.status.Extension.Status
		if r.missing || st == handler.Transitioning && v.pass.dead[q.key()].final || st == handler.Success && !v.spoke(r.rec, q, e.Last) {
			r.fail(q, e.Problem())
		}
		return
	}
	r.end = endGood
	if q.bare {
		return
	}
	v.extension(r, q, files)
	switch st := r.status.Extension; {
	case st.Status == handler.Success:
	case st.Status == handler.Error:
		r.end = endError
	case e.Cancelled != "" && e.Last != nil && e.Cancelled == e.Last.Job:
		r.end, r.missing = endError, false
		r.fail(q, cancelled("before it reported a final status"))
	case v.pass.dead[q.key()].final:
		r.end = endError
		r.fail(q, fault.Problem{Code: fault.CodeOther, Cause: fault.CauseLimbo, Text: v.pass.dead[q.key()].message})
	default:
		r.end = endOpen
	}
}

// spoke reports whether the status file was written since a command began.
// Stamps are compared and not times: the clock may have been set meanwhile, and
// a copied file has the time of the original.
func (v view) spoke(rec store.Record, q pair, e *store.Ended) bool {
	if e == nil {
		return false
	}
	before, known := e.Status[q.ext]
	now, there := store.StampOf(v.statusFile(rec, q))
	return known && there && now != before
}

// progressRow reports an extension that is being processed. Its status file is
// left out: it is old, or written by a command that still runs.
func (v view) progressRow(r *row, q pair, h viewHandler) {
	doing := "is waiting to be processed"
	switch {
	case r.waits != "":
		doing = "is waiting for " + r.waits
	case h.busy != nil:
		doing = "is being processed: " + string(h.busy.Op)
		if late := v.overdue(h); late != "" {
			doing += ". " + late
		}
	}
	msg := "Extension " + q.row + " " + doing
	rep := handler.Report{Status: "Installing", Message: msg}
	if r.rec.State == plan.Enabled && r.rec.Report.Status == "Ready" {
		rep = r.rec.Report
	}
	r.set(rep)
	if !q.bare {
		r.status.Extension = &protocol.ExtensionStatus{Name: q.row, Multi: q.ext != "", Seq: q.seq, Operation: "Enable", Status: handler.Transitioning, Code: json.RawMessage("0"), Message: &msg}
		if q.ext != "" {
			r.status.Extension.Name = q.ext
		}
	}
}

// overdue describes a command that should have ended by now and what the agent
// will do about it. It is "" if no command is overdue.
func (v view) overdue(h viewHandler) string {
	for _, r := range h.recs {
		if r.Doing != nil && v.timeouts.overdue(*r.Doing) {
			return fmt.Sprintf("%s: %s; the agent kills both %v after the deadline", fault.CauseOverdue,
				job.Overdue(job.SupervisorState(v.store.JobDir(r.Doing.Job))), v.timeouts.Grace)
		}
	}
	return ""
}

// goingRow reports an extension that is to be disabled or removed, as long as
// it is there.
func (v view) goingRow(r row, q pair, files *store.Cache) row {
	rep := r.rec.Report
	if d := v.pass.denied[q.key()]; d.Status != "" {
		rep = d
		r.end = endFailed
	}
	if off := v.pass.off[strings.ToLower(q.handler.Name)]; !off.None() {
		rep.Message, rep.Cause, r.end = off.Text, off.Cause, endFailed
	}
	if rep.Status == "" {
		r.none, r.end = true, endGood
		return r
	}
	if q.ext != "" && q.handler.Want == protocol.WantEnabled {
		if e, ok := r.rec.Exts[q.ext]; !ok || !e.Enabled {
			r.none, r.end = true, endGood
			return r
		}
	}
	r.set(rep)
	if !q.bare && r.rec.OnDisk() != "NotInstalled" {
		v.extension(&r, q, files)
	}
	return r
}

func (v view) statusFile(rec store.Record, q pair) string {
	return v.store.Base(rec.Name, rec.Version) + "/status/" + handler.FileName(q.ext, q.seq, ".status")
}

// extension adds the content of the status file to a row.
func (v view) extension(r *row, q pair, files *store.Cache) {
	w, missing := files.Status(v.statusFile(r.rec, q), q.row, r.rec.Version, q.seq)
	st := w.ExtensionStatus
	st.Seq, st.Multi = q.seq, q.ext != ""
	st.Name = q.row
	if q.ext != "" {
		st.Name = q.ext
	}
	r.status.Extension, r.missing = &st, missing
	if st.Status == handler.Error && r.cause == "" {
		r.cause = cmp.Or(w.Cause, fault.CauseReported)
	}
}

// fail replaces the extension's status with an error from the agent.
func (r *row) fail(q pair, p fault.Problem) {
	r.cause = p.Cause
	if q.bare {
		return
	}
	st := handler.WrongStatus(p.Code, p.Text)
	st.Name, st.Multi, st.Seq, st.Operation = q.row, q.ext != "", q.seq, "Enable"
	if q.ext != "" {
		st.Name = q.ext
	}
	r.status.Extension = &st
}

func (r *row) set(rep handler.Report) {
	r.status.Status, r.status.Code = rep.Status, rep.Code
	r.status.Message = &rep.Message
	r.cause = rep.Problem().Cause
}

// highest returns the highest installed version, or the highest of all if none
// is installed. Without any version it returns none.
func highest(recs map[string]store.Record, none string) string {
	best := ""
	better := func(a, b store.Record) bool {
		if a.State.Installed() != b.State.Installed() {
			return a.State.Installed()
		}
		return plan.CompareVersions(a.Version, b.Version) > 0
	}
	for v, r := range recs {
		if best == "" || better(r, recs[best]) {
			best = v
		}
	}
	if best == "" {
		return none
	}
	return best
}

// diskRows reports the installed handlers when there is no goal state
// (extensions/SPEC.md §15.3).
func (v view) diskRows(files *store.Cache) []row {
	var out []row
	for _, key := range slices.Sorted(maps.Keys(v.handlers)) {
		h := v.handlers[key]
		rec := h.recs[highest(h.recs, "")]
		if rec.Report.Status == "" {
			continue
		}
		want := &protocol.Handler{Name: rec.Name, Version: rec.Version, Want: protocol.WantEnabled, MultiConfig: rec.Multi}
		base := v.store.Base(rec.Name, rec.Version)
		exts := []string{""}
		if rec.Multi {
			exts = rec.Fact().EnabledNames()
		}
		for _, ext := range exts {
			q := pair{handler: want, id: pairKey(want.Name, ext), ext: ext, row: rec.Name, enable: true}
			if ext != "" {
				q.row += "." + ext
			}
			var bare bool
			q.seq, bare = newestSettings(base+"/config", ext)
			q.bare = bare
			r := row{pair: q, rec: rec, status: protocol.HandlerStatus{Name: rec.Name, Version: rec.Version}}
			r.set(rec.Report)
			if !q.bare && rec.OnDisk() != "NotInstalled" {
				v.extension(&r, q, files)
			}
			out = append(out, r)
		}
	}
	return out
}

// newestSettings returns the sequence number of the settings file written
// last. bare means that there is none, or only an empty one of number 0.
func newestSettings(dir, ext string) (seq int, bare bool) {
	entries, err := folder.List(dir)
	if err != nil {
		return 0, true
	}
	var newest time.Time
	bare = true
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".settings")
		if ok && ext != "" {
			stem, ok = strings.CutPrefix(stem, ext+".")
		}
		n, err := strconv.Atoi(stem)
		if !ok || err != nil {
			continue
		}
		fi, err := e.Info()
		if err != nil || fi.ModTime().Before(newest) {
			continue
		}
		// A handler without settings has an empty 0.settings. Other empty
		// files mean nothing: handlers may empty their settings after use.
		newest, seq, bare = fi.ModTime(), n, n == 0 && fi.Size() == 0
	}
	return seq, bare
}

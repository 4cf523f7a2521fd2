package extensions

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol"
)

// A Snapshot is what the platform is to be told.
type Snapshot struct {
	Handlers  []protocol.HandlerStatus
	GoalState *protocol.GoalStateStatus // nil until the first one was processed
	// Key is that of the goal state the rows are about, "" before the first.
	Key string
	// Converged: every row has come to an end (spec/extensions §6.4).
	Converged bool
	// Waiting says what keeps the whole goal state from being processed.
	Waiting string
}

// view is everything rows are made of. The loop publishes it; Status and
// Details work on it without disturbing anybody.
type view struct {
	pass     *pass // a copy; nil before the first goal state
	handlers map[string]viewHandler
	boot     string
	now      Now
	store    store
	mode     string
}

type viewHandler struct {
	name string
	recs map[string]Record
	busy *Task
}

// live is a view of the loop's own state, for the loop only.
func (m *Manager) live() view {
	v := view{pass: m.pass, handlers: map[string]viewHandler{}, boot: m.boot, now: m.now(), store: m.store, mode: m.cfg.Mode}
	for key, h := range m.handlers {
		v.handlers[key] = viewHandler{name: h.name, recs: h.recs, busy: h.busy}
	}
	return v
}

// publish shows the state of things to the other goroutines.
func (m *Manager) publish() {
	v := m.live()
	if v.pass != nil {
		p := *v.pass
		p.versions, p.skipped, p.denied = maps.Clone(p.versions), maps.Clone(p.skipped), maps.Clone(p.denied)
		p.waits, p.dead, p.stuck = maps.Clone(p.waits), maps.Clone(p.dead), maps.Clone(p.stuck)
		v.pass = &p
	}
	m.mu.Lock()
	for key, h := range v.handlers {
		recs := maps.Clone(h.recs)
		// A command that began since the loop last heard of this handler.
		if old, ok := m.view.handlers[key]; ok && h.busy != nil {
			for ver, r := range old.recs {
				if r.Doing != nil && recs[ver].Doing == nil {
					recs[ver] = r
				}
			}
		}
		h.recs = recs
		v.handlers[key] = h
	}
	m.view = v
	m.mu.Unlock()
	m.watchStatus()
	poke(m.changed)
}

// publishDoing shows that a command has begun.
func (m *Manager) publishDoing(name string, r Record) {
	m.mu.Lock()
	if h, ok := m.view.handlers[strings.ToLower(name)]; ok {
		h.recs = maps.Clone(h.recs)
		h.recs[r.Version] = r
		m.view.handlers = maps.Clone(m.view.handlers) // readers have the old one
		m.view.handlers[strings.ToLower(name)] = h
	}
	m.mu.Unlock()
	poke(m.changed)
}

// watchStatus keeps inotify on the status folders of what is installed.
func (m *Manager) watchStatus() {
	if m.watch == nil {
		return
	}
	want := map[string]bool{}
	for _, h := range m.handlers {
		for _, r := range h.recs {
			if r.State != Absent {
				want[m.store.base(r.Name, r.Version)+"/status"] = true
			}
		}
	}
	for dir := range m.watched {
		if !want[dir] {
			_ = m.watch.Remove(dir) // it went away with the directory
			delete(m.watched, dir)
		}
	}
	for dir := range want {
		if !m.watched[dir] && m.watch.Add(dir) == nil {
			m.watched[dir] = true
		}
	}
}

// Status is the report as of now. It never blocks on a handler.
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

// end is how far an extension has come as far as others wait for it.
type end int

const (
	endOpen end = iota
	endGood
	endFailed // an operation failed, or was never tried
	endError  // the extension says so itself
)

// row is one line of the report, with what else is known about it.
type row struct {
	status  protocol.HandlerStatus
	rec     Record
	pair    pair
	end     end
	none    bool
	missing bool // there is no status file
	waits   string
}

func (r row) terminal() bool {
	word := r.status.Status
	if e := r.status.Extension; e != nil {
		word = e.Status
	}
	return slices.Contains([]string{success, statusError, "Ready", "NotReady", "ready", "notready"}, word)
}

// rows are the lines in the order of the goal state.
func (v view) rows(files *fileCache) []row {
	if v.pass == nil || v.pass.refused {
		return v.diskRows(files)
	}
	var out []row
	for _, q := range v.pass.pairs {
		out = append(out, v.row(q, files))
	}
	return out
}

// rowOf is the row of one pair, for the loop.
func (m *Manager) rowOf(q pair) row { return m.live().row(q, &m.files) }

func (v view) row(q pair, files *fileCache) (r row) {
	p := v.pass
	r.pair = q
	want := q.handler
	r.status = protocol.HandlerStatus{Name: want.Name, Version: want.Version}
	if want.Invalid != "" {
		msg := "Ran into config errors: " + want.Invalid + ". \nPlease retry again as another operation with updated settings"
		r.status.Status, r.status.Code, r.status.Message, r.end = "NotReady", codeOther, &msg, endFailed
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
	if !q.enable {
		return v.goingRow(r, q, files)
	}
	e, known := r.rec.Exts[q.ext]
	hash := settingsHash(r.status.Version, q)
	wish := WishExt{Name: q.ext, Seq: q.seq, Hash: hash}
	now := v.now
	failedHere := r.rec.FailKey != "" && r.rec.FailKey == p.key && r.rec.FailBoot == v.boot
	same := known && e.Enabled && e.Hash == hash && e.FailKey == "" && r.rec.State == Enabled
	switch {
	case p.stuck[strings.ToLower(want.Name)] != "":
		r.end = endFailed
		r.set(Report{Status: "NotReady", Code: codeOther, Message: p.stuck[strings.ToLower(want.Name)]})
		r.fail(q, codeOther, p.stuck[strings.ToLower(want.Name)])
	case p.denied[q.key()].Status != "":
		r.end = endFailed
		r.set(v.withBeat(p.denied[q.key()], r.rec, files))
		r.fail(q, r.status.Code, *r.status.Message)
	case p.skipped[q.key()] != "":
		r.end = endFailed
		rep := r.rec.Report
		if rep.Status == "" || q.ext == "" {
			rep = Report{Status: "NotReady", Code: codeOther, Message: p.skipped[q.key()]}
		}
		r.set(rep)
		r.fail(q, codeOther, p.skipped[q.key()])
	case failedHere:
		r.end = endFailed
		r.set(r.rec.Report)
		switch {
		case q.bare:
		case q.ext != "":
			r.fail(q, r.rec.Report.Code, r.rec.Report.Message)
		case r.rec.onDisk() != "NotInstalled":
			v.extension(&r, q, files)
			// What update or disable wrote is not the word of the enable that
			// never came (spec/extensions §10).
			if r.missing || !strings.EqualFold(r.status.Extension.Operation, "enable") {
				r.fail(q, r.rec.Report.Code, r.rec.Report.Message)
			}
		}
	case same || known && e.FailKey == p.key && enableWhy(wish, Fact{Record: r.rec}, e, known, !r.rec.State.installed(), now) == "":
		v.settledRow(&r, q, e, files)
		if enableWhy(wish, Fact{Record: r.rec}, e, known, !r.rec.State.installed(), now) != "" {
			r.end = endOpen // to be enabled again, after a boot for instance
		}
	case p.hold || p.gate != "" || v.mode == ModeReportOnly:
		if r.rec.Report.Status == "" {
			r.none = true
			return r
		}
		r.set(r.rec.Report)
		if !q.bare && r.rec.onDisk() != "NotInstalled" {
			v.extension(&r, q, files)
		}
	default:
		v.progressRow(&r, q, h)
	}
	return r
}

// withBeat adds to a refusal what the software that goes on running says.
func (v view) withBeat(rep Report, rec Record, files *fileCache) Report {
	base := v.store.base(rec.Name, rec.Version)
	if rec.State != Enabled || !files.manifest(base+"/"+manifestName).Heartbeat {
		return rep
	}
	data, _, err := readSafely(base+"/"+heartbeatName, maxHeartbeat)
	if err != nil {
		return rep
	}
	if b, err := parseHeartbeat(data); err == nil {
		rep.Message += " Extension was previously enabled and reported the following heartbeat:\n" + b.Status
		if b.Message != nil {
			rep.Message += ": " + *b.Message
		}
	}
	return rep
}

// settledRow is an extension that was enabled, or could not be.
func (v view) settledRow(r *row, q pair, e ExtRecord, files *fileCache) {
	r.set(r.rec.Report)
	base := v.store.base(r.rec.Name, r.rec.Version)
	if files.manifest(base + "/" + manifestName).Heartbeat {
		r.set(withHeartbeat(r.rec.Report, base+"/"+heartbeatName, e.Enabling, time.Now()))
	}
	if e.FailKey != "" {
		r.end = endFailed
		if q.bare {
			return
		}
		v.extension(r, q, files)
		// A status of before, or none, would have everybody wait for an end
		// that has come already (asks U02).
		if r.missing || r.status.Extension.Status == transitioning && v.pass.dead[q.key()].final {
			r.fail(q, e.Code, e.Err)
		}
		return
	}
	r.end = endGood
	if q.bare {
		return
	}
	v.extension(r, q, files)
	switch st := r.status.Extension; {
	case st.Status == success:
	case st.Status == statusError:
		r.end = endError
	case v.pass.dead[q.key()].final:
		r.end = endError
		r.fail(q, codeOther, v.pass.dead[q.key()].message)
	default:
		r.end = endOpen
	}
}

// progressRow is an extension that is being worked on. Its old status and
// the words of commands that are under way must not be taken for its result.
func (v view) progressRow(r *row, q pair, h viewHandler) {
	doing := "is waiting to be processed"
	switch {
	case r.waits != "":
		doing = "is waiting for " + r.waits
	case h.busy != nil:
		doing = "is being processed: " + string(h.busy.Op)
	}
	msg := "Extension " + q.row + " " + doing
	rep := Report{Status: "Installing", Message: msg}
	if r.rec.State == Enabled && r.rec.Report.Status == "Ready" {
		rep = r.rec.Report
	}
	r.set(rep)
	if !q.bare {
		r.status.Extension = &protocol.ExtensionStatus{Name: q.row, Multi: q.ext != "", Seq: q.seq, Operation: "Enable", Status: transitioning, Code: json.RawMessage("0"), Message: &msg}
		if q.ext != "" {
			r.status.Extension.Name = q.ext
		}
	}
}

// goingRow is an extension that is to be disabled or removed: reported as it
// is until it is gone.
func (v view) goingRow(r row, q pair, files *fileCache) row {
	rep := r.rec.Report
	if d := v.pass.denied[q.key()]; d.Status != "" {
		rep = d
		r.end = endFailed
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
	if !q.bare && r.rec.onDisk() != "NotInstalled" {
		v.extension(&r, q, files)
	}
	return r
}

// extension attaches the status file.
func (v view) extension(r *row, q pair, files *fileCache) {
	path := v.store.base(r.rec.Name, r.rec.Version) + "/status/" + settingsName(q.ext, q.seq, ".status")
	st, missing := files.status(path, q.row, r.rec.Version, q.seq)
	st.Seq, st.Multi = q.seq, q.ext != ""
	st.Name = q.row
	if q.ext != "" {
		st.Name = q.ext
	}
	r.status.Extension, r.missing = &st, missing
}

// fail replaces the extension's status by an error of the agent.
func (r *row) fail(q pair, code int, message string) {
	if q.bare {
		return
	}
	st := wrongStatus(code, message)
	st.Name, st.Multi, st.Seq, st.Operation = q.row, q.ext != "", q.seq, "Enable"
	if q.ext != "" {
		st.Name = q.ext
	}
	r.status.Extension = &st
}

func (r *row) set(rep Report) {
	r.status.Status, r.status.Code = rep.Status, rep.Code
	r.status.Message = &rep.Message
}

// highest is the newest installed version, or what is there at all.
func highest(recs map[string]Record, none string) string {
	best := ""
	better := func(a, b Record) bool {
		if a.State.installed() != b.State.installed() {
			return a.State.installed()
		}
		return CompareVersions(a.Version, b.Version) > 0
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

// diskRows report what is installed when there is no goal state to go by
// (spec/extensions §6.1).
func (v view) diskRows(files *fileCache) []row {
	var out []row
	for _, key := range slices.Sorted(maps.Keys(v.handlers)) {
		h := v.handlers[key]
		rec := h.recs[highest(h.recs, "")]
		if rec.Report.Status == "" {
			continue
		}
		want := &protocol.Handler{Name: rec.Name, Version: rec.Version, Want: protocol.WantEnabled, MultiConfig: rec.Multi}
		base := v.store.base(rec.Name, rec.Version)
		exts := []string{""}
		if rec.Multi {
			exts = enabledNames(rec)
		}
		for _, ext := range exts {
			q := pair{handler: want, ext: ext, row: rec.Name, enable: true}
			if ext != "" {
				q.row += "." + ext
			}
			var bare bool
			q.seq, bare = newestSettings(base+"/config", ext)
			q.bare = bare
			r := row{pair: q, rec: rec, status: protocol.HandlerStatus{Name: rec.Name, Version: rec.Version}}
			r.set(rec.Report)
			if !q.bare && rec.onDisk() != "NotInstalled" {
				v.extension(&r, q, files)
			}
			out = append(out, r)
		}
	}
	return out
}

// newestSettings is the number of the settings file written last; bare if it
// is empty or there is none.
func newestSettings(dir, ext string) (seq int, bare bool) {
	entries, err := os.ReadDir(dir)
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
		// Handlers empty their settings after use, so the size only tells
		// about number 0, which is what a handler without settings has.
		newest, seq, bare = fi.ModTime(), n, n == 0 && fi.Size() == 0
	}
	return seq, bare
}

// fileCache reads status files and manifests only when they have changed.
type fileCache struct {
	mu      sync.Mutex // guards the maps
	entries map[string]cachedStatus
	forms   map[string]cachedManifest
}

type cachedStatus struct {
	stamp fileStamp
	st    protocol.ExtensionStatus
	good  bool
}

type cachedManifest struct {
	stamp fileStamp
	hm    HandlerManifest
}

// fileStamp changes whenever a file does.
type fileStamp struct {
	dev, ino uint64
	size     int64
	mtime    unix.Timespec
	ctime    unix.Timespec
	mode     uint32
}

func stampOf(path string) (fileStamp, bool) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return fileStamp{}, false
	}
	return fileStamp{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim, mode: st.Mode}, true //nolint:unconvert // Dev is not uint64 everywhere
}

// status is the word of one status file. While a file is half written the
// word before it stands.
func (c *fileCache) status(path, full, version string, seq int) (protocol.ExtensionStatus, bool) {
	stamp, there := stampOf(path)
	c.mu.Lock()
	old, known := c.entries[path]
	c.mu.Unlock()
	if !there {
		return missingStatus(path, full), true
	}
	if known && old.stamp == stamp {
		return old.st, false
	}
	st, fi, fresh := statusOf(path, full, version, seq)
	if fi == nil && st.Status == transitioning {
		return st, true // gone meanwhile
	}
	if fresh {
		if known && old.good {
			return old.st, false
		}
		return missingStatus(path, full), false
	}
	c.mu.Lock()
	if c.entries == nil || len(c.entries) > 1000 {
		c.entries = map[string]cachedStatus{}
	}
	c.entries[path] = cachedStatus{stamp: stamp, st: st, good: true}
	c.mu.Unlock()
	return st, false
}

func (c *fileCache) manifest(path string) HandlerManifest {
	stamp, there := stampOf(path)
	if !there {
		return HandlerManifest{}
	}
	c.mu.Lock()
	old, known := c.forms[path]
	c.mu.Unlock()
	if known && old.stamp == stamp {
		return old.hm
	}
	var hm HandlerManifest
	if data, _, err := readSafely(path, maxManifest); err == nil {
		hm, _ = ParseHandlerManifest(data) // a bad one has no heartbeat
	}
	c.mu.Lock()
	if c.forms == nil || len(c.forms) > 1000 {
		c.forms = map[string]cachedManifest{}
	}
	c.forms[path] = cachedManifest{stamp: stamp, hm: hm}
	c.mu.Unlock()
	return hm
}

// lookForDead finds extensions that say transitioning while nothing of them
// is left to change that. It reports whether the report has changed.
func (m *Manager) lookForDead() bool {
	p := m.pass
	if p == nil || p.refused || p.hold {
		return false
	}
	changed := false
	v := m.live()
	for _, q := range p.pairs {
		h := v.handlers[strings.ToLower(q.handler.Name)]
		if !q.enable || q.bare || h.busy != nil {
			delete(p.dead, q.key())
			continue
		}
		old := p.dead[q.key()]
		delete(p.dead, q.key())
		r := v.row(q, &m.files)
		e, known := r.rec.Exts[q.ext]
		st := r.status.Extension
		if !known || e.Last == nil || e.Hash != settingsHash(r.status.Version, q) || st == nil || st.Status != transitioning && !r.missing ||
			r.rec.State != Enabled && e.FailKey == "" || time.Since(e.Last.Finished) < m.cfg.Timeouts.Dead {
			changed = changed || old.final
			continue
		}
		base := m.store.base(r.rec.Name, r.rec.Version)
		var mod time.Time
		if fi, err := os.Lstat(base + "/status/" + settingsName(q.ext, q.seq, ".status")); err == nil {
			mod = fi.ModTime()
		}
		switch {
		case m.alive(r, e, base):
			changed = changed || old.final
			continue
		case old.since.IsZero() || !old.modTime.Equal(mod):
			// Somebody we do not know of may be writing; wait once more.
			p.dead[q.key()] = deadline{since: time.Now(), modTime: mod}
			changed = changed || old.final
			continue
		case !old.final && time.Since(old.since) >= m.cfg.Timeouts.Dead:
			old.final, changed = true, true
			old.message = m.deadMessage(q, e, st, r.missing)
			m.log.Warn().Str("extension", q.row).Int("seq", q.seq).Msg("extension left its status at transitioning and nothing of it is running")
		}
		p.dead[q.key()] = old
	}
	return changed
}

// alive reports whether anything could still change the extension's status:
// a process of its commands or of its package, or a unit it handed its work
// to.
func (m *Manager) alive(r row, e ExtRecord, base string) bool {
	ids := map[string]bool{}
	for _, j := range e.Jobs {
		ids[j] = true
		if st, ok := host.JobStateOf(m.store.jobDir(j)); ok && st.Boot == m.boot && len(host.CgroupProcs(st.Scope)) > 0 {
			return true
		}
	}
	if r.rec.Last != nil {
		ids[r.rec.Last.Job] = true
	}
	delete(ids, "")
	if target, err := os.Readlink(base); err == nil && len(host.Processes(nil, target)) > 0 {
		return true
	}
	if len(host.Processes(ids, base)) > 0 {
		return true
	}
	hm := m.files.manifest(base + "/" + manifestName)
	return len(hm.Services) > 0 || m.handedOver(r.rec.Name, base)
}

// handedOver looks for units and cron jobs that name the handler or its
// directory.
func (m *Manager) handedOver(name, base string) bool {
	for _, dir := range []string{
		"/etc/systemd/system", "/run/systemd/system", "/run/systemd/transient", "/usr/lib/systemd/system", "/lib/systemd/system",
		"/etc/cron.d", "/var/spool/cron", "/var/spool/cron/crontabs", "/etc/init.d",
	} {
		dir = m.store.root.Path(dir)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Type()&fs.ModeType != 0 || strings.HasPrefix(e.Name(), "azguest-") {
				continue
			}
			data, _, err := readSafely(dir+"/"+e.Name(), 64<<10)
			if err == nil && (strings.Contains(string(data), base) || strings.Contains(string(data), name)) {
				return true
			}
		}
	}
	return false
}

func (m *Manager) deadMessage(q pair, e ExtRecord, st *protocol.ExtensionStatus, missing bool) string {
	last := "it never wrote a status file"
	if !missing && st.Message != nil {
		last = "its last status message was: " + clip(*st.Message, 1000)
	}
	out := ""
	if e.Last.Job != "" {
		dir := m.store.jobDir(e.Last.Job)
		out = "\n" + outputText(tail(dir+"/"+host.JobStdout, 4096), tail(dir+"/"+host.JobStderr, 4096))
	}
	return fmt.Sprintf("AZ-EXT-LIMBO: nothing of extension %s is running any more and it did not report an end; %s%s", q.row, last, out)
}

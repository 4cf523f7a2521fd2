package extensions

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// work is one step for one handler, done in its own goroutine. It works on a
// copy of the handler's records, which finished takes over.
type work struct {
	m    *Manager
	name string
	recs map[string]store.Record
	want *protocol.Handler // nil for a command that was started before the agent restarted
	wish plan.Wish
	gs   *protocol.GoalState
	pass *pass
	task plan.Task
	dec  *decision
	how  string // how stopping it went: killed and remaining processes
	// goal is the key of the goal state that the followed command belongs to.
	goal string

	// since is when the wait for the package began, and asked what the last
	// attempt said about the next request; zero if there is no wait. wait is
	// the wait after this step, and back that a failure was taken back.
	since, asked time.Time
	wait         *await
	back         bool
}

func newWork(m *Manager, h *managed, want *protocol.Handler, t plan.Task) *work {
	return &work{m: m, name: h.name, recs: maps.Clone(h.recs), want: want, task: t, pass: m.pass}
}

func (w *work) rec(version string) store.Record {
	if r, ok := w.recs[version]; ok {
		return r
	}
	return store.Record{Name: w.name, Version: version, State: plan.Absent, Multi: w.wish.Multi}
}

// put stores a record, first on disk and then in w.recs.
//
// The record is written before HandlerState. If they differ after a crash,
// store.Load uses HandlerState only if another agent can have written it.
func (w *work) put(r store.Record) error {
	w.m.store.At("before the record")
	if err := w.withRoom(func() error { return w.m.store.Save(r) }); err != nil {
		return err
	}
	w.m.store.At("between record and files")
	if r.State != plan.Absent {
		if err := w.withRoom(func() error { return w.m.store.SaveFiles(r) }); err != nil {
			return err
		}
	}
	w.m.store.At("after the files")
	w.recs[r.Version] = r
	return nil
}

// do runs the step.
func (w *work) do(ctx context.Context) error {
	switch w.task.Op {
	case plan.Fetch:
		return w.fetch(ctx)
	case plan.Copy:
		return w.copy()
	case plan.Remove:
		return w.remove(w.task.Version)
	case plan.Install, plan.Update, plan.Enable, plan.Disable, plan.Uninstall:
		return w.command(ctx)
	}
	return fmt.Errorf("%s: %w", w.task.Op, plan.ErrEdge)
}

// remove deletes a version without running anything.
func (w *work) remove(version string) error {
	r := w.rec(version)
	if err := w.m.store.RemoveHandler(w.name, version); err != nil {
		w.m.log.Warn().Err(err).Str("handler", w.name).Str("version", version).Msg("could not remove handler completely")
	}
	w.m.auditLog(store.AuditEntry{What: "remove", Handler: w.name, Version: version, Why: w.task.Why})
	r, err := r.Done(plan.Remove, "")
	if err != nil {
		return err
	}
	r = store.Record{Name: r.Name, Version: r.Version, State: plan.Absent}
	if err := w.m.store.Save(r); err != nil {
		return err
	}
	delete(w.recs, version)
	return nil
}

// copy copies files of the old version to the new one: mrseq, without which
// scripts would run again, and the status files (extensions/SPEC.md §4.5).
func (w *work) copy() error {
	r := w.rec(w.task.Version)
	from, to := w.m.store.Base(w.name, w.task.From), w.m.store.Base(w.name, w.task.Version)
	err := errors.Join(w.m.store.CheckBase(w.name, w.task.From), w.m.store.CheckBase(w.name, w.task.Version))
	if err == nil {
		err = w.copyState(from, to)
	}
	if err != nil {
		return w.failTarget(r, fault.Problem{Code: fault.CodeUpdate, Cause: fault.CauseOf(err, fault.CauseNotStarted), Text: "[ExtensionUpdateError] copy state of the old version: " + err.Error()})
	}
	ch := r.ChangeFrom(w.task.From)
	ch.Copied = true
	r.Change, r.Copied = &ch, w.stamps(to)
	return w.put(r)
}

func (w *work) copyState(from, to string) error {
	if err := folder.MakeAll(to); err != nil {
		return err
	}
	var wanted []string
	for _, e := range w.wish.Exts {
		wanted = append(wanted, handler.FileName(e.Name, e.Seq, ".status"))
	}
	past, err := handler.PastFiles(from, "status", wanted)
	switch {
	case errors.Is(err, host.ErrUnsafe):
		w.m.log.Warn().Err(err).Str("handler", w.name).Msg("status files of the old version not copied")
	case err != nil:
		return err
	}
	paths := []string{"mrseq"}
	for _, name := range past {
		paths = append(paths, "status/"+name)
	}
	var errs []error
	for _, p := range paths {
		errs = append(errs, w.copyFile(from, to, p))
	}
	return errors.Join(errs...)
}

// copyFile copies one file of the old version with its mode and time. It is no
// error if there is none, or if it is too big or no regular file: a version
// change must not fail because of leftovers of the old version.
func (w *work) copyFile(from, to, name string) error {
	read := folder.Read
	if name != "mrseq" {
		read = folder.ReadOwn
	}
	data, fi, err := read(from+"/"+name, handler.MaxStatusFile)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.m.log.Warn().Err(err).Str("handler", w.name).Msg("file of the old version not copied")
		}
		return nil
	}
	if err := folder.Write(to, to+"/"+name, data, fi.Mode().Perm()); err != nil {
		return err
	}
	return folder.Root.Chtimes(to+"/"+name, fi.ModTime())
}

// copyLate copies the current status files once more, just before the old
// version is uninstalled: a script of the old version that was still running
// at the copy may have ended meanwhile. A file that the new version has written
// is its own word and stays. In a downgrade update runs in the old directory,
// and what it writes there is not the word of the new version.
func (w *work) copyLate() {
	t := w.task
	r := w.rec(t.To)
	if plan.CompareVersions(t.To, t.Version) < 0 {
		return
	}
	from, to := w.m.store.Base(w.name, t.Version), w.m.store.Base(w.name, t.To)
	if err := errors.Join(w.m.store.CheckBase(w.name, t.Version), w.m.store.CheckBase(w.name, t.To)); err != nil {
		w.m.log.Warn().Err(err).Str("handler", w.name).Msg("status files of the old version not copied again")
		return
	}
	now := w.stamps(to)
	for _, e := range w.wish.Exts {
		copied, ok := r.Copied[e.Name]
		if !ok || copied != now[e.Name] {
			continue
		}
		if err := w.copyFile(from, to, "status/"+handler.FileName(e.Name, e.Seq, ".status")); err != nil {
			w.m.log.Warn().Err(err).Str("handler", w.name).Msg("status file of the old version not copied again")
		}
	}
}

// stamps returns the stamps of the status files that the goal state is about,
// by extension, of the version in base. A missing file has the zero stamp.
func (w *work) stamps(base string) map[string]store.FileStamp {
	out := map[string]store.FileStamp{}
	for _, e := range w.wish.Exts {
		out[e.Name], _ = store.StampOf(base + "/status/" + handler.FileName(e.Name, e.Seq, ".status"))
	}
	return out
}

// dropOwn removes a status file that the agent itself has written for a failed
// enable, before the next one: it would be taken for the word of a handler that
// writes nothing now.
func (w *work) dropOwn(base, ext string, seq int) {
	own := w.rec(w.task.Version).Exts[ext].Own
	path := base + "/status/" + handler.FileName(ext, seq, ".status")
	if now, there := store.StampOf(path); own == nil || !there || now != *own {
		return
	}
	if err := folder.Root.Remove(path); err != nil {
		w.m.log.Warn().Err(err).Str("handler", w.name).Str("extension", ext).Msg("could not remove own error status")
	}
}

// failTarget records a failure of the whole handler in this goal state.
func (w *work) failTarget(r store.Record, p fault.Problem) error {
	w.forgetAwaited(r.Version)
	r.FailKey, r.FailBoot, r.Change, r.Awaited = w.key(), w.m.boot, nil, nil
	p.Text = secret.Redact(p.Text)
	r.Report = handler.ReportOf(p)
	return w.put(r)
}

func (w *work) key() string {
	if w.goal != "" {
		return w.goal
	}
	if w.pass != nil {
		return w.pass.key
	}
	return ""
}

// extension returns the extension that a command is about: the task's own for
// enable and disable, and the first one of the goal state for commands of the
// whole handler.
func (w *work) extension() (name string, seq int, s *protocol.Settings) {
	pick := func(e plan.ExtWish) (string, int, *protocol.Settings) {
		if w.want != nil {
			for i, s := range w.want.Settings {
				if !w.wish.Multi || s.Name == e.Name {
					return e.Name, e.Seq, &w.want.Settings[i]
				}
			}
		}
		return e.Name, e.Seq, nil
	}
	for _, e := range w.wish.Exts {
		if w.task.Ext == e.Name || w.task.Ext == "" && !e.Disable {
			return pick(e)
		}
	}
	for _, e := range w.wish.Exts {
		if w.task.Ext == "" {
			return pick(e)
		}
	}
	if e, ok := w.rec(w.task.Version).Exts[w.task.Ext]; ok {
		return w.task.Ext, e.Seq, nil
	}
	return w.task.Ext, 0, nil
}

func (w *work) timeout() time.Duration {
	t := w.m.cfg.Timeouts
	switch w.task.Op {
	case plan.Install:
		return t.Install
	case plan.Update:
		return t.Update
	case plan.Disable:
		if w.wish.Gone {
			return t.DisableToUninstall
		}
		return t.Disable
	case plan.Uninstall:
		return t.Uninstall
	case plan.Enable, plan.Fetch, plan.Copy, plan.Remove:
	}
	return t.Enable
}

// command runs one command of a handler. Without a command to run, it only
// changes the state.
func (w *work) command(ctx context.Context) error {
	t := w.task
	r := w.rec(t.Version)
	base := w.m.store.Base(w.name, t.Version)
	ext, seq, settings := w.extension()
	if t.Op == plan.Enable {
		w.dropOwn(base, ext, seq)
	}
	d := store.Doing{Task: t, Seq: seq, Hash: w.hash(ext), Key: w.key(), Started: time.Now().UTC(), Boot: w.m.boot, Status: w.stamps(base)}
	if t.Op == plan.Uninstall && t.To != "" {
		w.copyLate()
	}
	if t.To != "" {
		if hm, err := w.m.store.Manifest(w.name, t.To); err == nil {
			d.Lenient = hm.ContinueOnFailure
		}
	}
	hm, err := w.m.store.Manifest(w.name, t.Version)
	switch {
	case err == nil:
	case t.Op == plan.Uninstall || t.Op == plan.Disable && t.To == "":
		// Removing must always be possible (extensions/SPEC.md §3.7).
		w.m.log.Warn().Err(err).Str("handler", w.name).Str("op", string(t.Op)).Msg("no usable manifest, command not run")
		return w.finish(r, d, job.Result{Class: job.OK})
	default:
		return w.refuse(r, d, fault.Problem{Code: store.ManifestCode(err), Cause: fault.CauseOf(err, fault.CauseManifest), Text: err.Error()})
	}
	if w.wish.Multi && !hm.Multi && (t.Op == plan.Install || t.Op == plan.Enable || t.Op == plan.Update) {
		return w.refuse(r, d, fault.Problem{Code: fault.CodeOther, Cause: fault.CauseSettings, Text: fmt.Sprintf("Ran into config errors: Handler %s does not support MultiConfig but CRP expects it, failing due to inconsistent data. \nPlease retry again as another operation with updated settings", w.name)})
	}
	d.Command = hm.Commands[t.Op]
	if t.Skip || d.Command == "" && t.Op != plan.Install && t.Op != plan.Enable {
		return w.finish(r, d, job.Result{Class: job.OK})
	}
	if d.Command == "" {
		return w.refuse(r, d, fault.Problem{Code: fault.CodeManifestParse, Cause: fault.CauseManifest, Text: fmt.Sprintf("Malformed manifest file: it has no %sCommand", t.Op)})
	}
	w.makeRoom()
	if err := w.withRoom(func() error { return w.prepare(base, ext, seq, settings) }); err != nil {
		return w.refuse(r, d, fault.Problem{Code: opCode(t.Op), Cause: fault.CauseOf(err, fault.CauseNotStarted), Text: err.Error()})
	}
	ch := r.Change
	if t.To != "" {
		c := w.rec(t.To).ChangeFrom(t.From)
		ch = &c
	}
	env := handler.Call{
		Op: t.Op, Base: base, Version: t.Version, Seq: seq, Ext: ext, Wire: w.m.cfg.Wire,
		Change: ch, Target: t.To, Multi: w.wish.Multi, Exts: w.extNames(),
	}.Environment()
	spec := w.job(base, ext, d.Command, env, hm)
	d.Job, d.Deadline, d.Began = spec.ID, d.Started.Add(spec.Timeout), host.Now()
	r.Doing = &d
	if err := w.put(r); err != nil {
		return err
	}
	w.say(ext, "%s extension: [%s]", title(t.Op), d.Command)
	w.say(ext, "Executing command: %s with environment variables: %s", spec.Shell, pythonDict(env))
	w.m.auditLog(store.AuditEntry{
		What: "begin", Handler: w.name, Version: t.Version, Extension: ext, Op: t.Op, Seq: seq, Why: t.Why,
		GoalState: d.Key, Command: spec.Shell, Digest: r.Digest, Signer: r.Signer, Job: spec.ID,
	})
	w.tellBegun(ctx, r)
	w.m.store.At("before the start")
	if err := w.withRoom(func() error { return w.m.launch.Start(w.m.store.JobDir(spec.ID), spec) }); err != nil {
		return w.finish(r, d, job.Result{Class: job.NotStarted, Code: -1, Error: err.Error(), Started: d.Started, Finished: time.Now().UTC()})
	}
	w.m.store.At("after the start")
	return w.await(ctx, r)
}

// job describes a command for its supervisor.
func (w *work) job(base, ext, command string, env []string, hm handler.Manifest) job.Job {
	spec := job.Job{
		ID: store.NewID(), Shell: handler.ShellLine(base, command), Dir: base, Env: env, Timeout: w.timeout(),
		Slice: handler.SliceName(w.name, ext), CPUPercent: hm.CPUPercent, Units: hm.Services,
	}
	if w.task.Op == plan.Uninstall {
		// Lift the limits: they must not stay on the handler's services, or on
		// the slice, which a later installation uses again.
		spec.CPUPercent, spec.Units = 0, slices.Clone(spec.Units)
		for i := range spec.Units {
			spec.Units[i].CPUPercent = 0
		}
	}
	if cgroup.HasSystemd() {
		spec.Scope = job.ScopeName(spec.ID)
	}
	return spec
}

// await waits for the command in r.Doing and processes its result.
func (w *work) await(ctx context.Context, r store.Record) error {
	d := *r.Doing
	w.goal = d.Key
	res, err := w.follow(ctx, d)
	if err != nil {
		return err
	}
	w.m.store.At("after the end")
	if res.Class == job.OK {
		w.letSpeak(ctx, r, d)
	}
	return w.finish(r, d, res)
}

// speakTime is how long an enable that has ended may take to write its first
// status.
const speakTime = 10 * time.Second

// letSpeak waits until the processes that an enable has left write the status,
// but only if it is from before the enable and says that the work is done.
// disable and update of some published handlers write "success" for the new
// sequence number; their enable starts a program in the background and exits,
// and a moment later that program writes "transitioning". Other agents do not
// look at the status between the two (extensions/SPEC.md §10.7).
func (w *work) letSpeak(ctx context.Context, r store.Record, d store.Doing) {
	t := d.Task
	before := d.Status[t.Ext]
	if t.Op != plan.Enable || before == (store.FileStamp{}) || r.Exts[t.Ext].Hash == d.Hash {
		return
	}
	path := w.m.store.Base(w.name, t.Version) + "/status/" + handler.FileName(t.Ext, d.Seq, ".status")
	if st, _, _ := handler.ReadStatus(path, w.name, t.Version, d.Seq); st.Status == handler.Transitioning {
		return
	}
	late := time.After(speakTime)
	for len(job.Processes(map[string]bool{d.Job: true}, "")) > 0 {
		if now, _ := store.StampOf(path); now != before {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

// refuse fails an operation whose command could not be started. The record
// gets a result of its own, so that no earlier one is taken for it.
func (w *work) refuse(r store.Record, d store.Doing, p fault.Problem) error {
	now := time.Now().UTC()
	res := job.Result{Class: job.NotStarted, Code: fault.CodeOther, Error: p.Text, Started: now, Finished: now}
	r = r.Ended(&store.Ended{Op: d.Task.Op, Why: d.Task.Why, Started: d.Started, Finished: now, Result: res, Cause: p.Cause, Began: host.Now(), Over: host.Now(), Status: d.Status}, d.Task.Ext)
	return w.failed(r, d, p, handler.NotRun)
}

func (w *work) hash(ext string) string {
	for _, e := range w.wish.Exts {
		if e.Name == ext {
			return e.Hash
		}
	}
	return ""
}

func (w *work) extNames() []string {
	var names []string
	for _, e := range w.wish.Exts {
		names = append(names, e.Name)
	}
	return names
}

// prepare writes the files that a command needs, and removes stale ones.
func (w *work) prepare(base, ext string, seq int, s *protocol.Settings) error {
	if err := folder.MakeAll(base); err != nil {
		return fmt.Errorf("prepare %s: %w", w.name, err)
	}
	if err := w.mendNumber(base, ext); err != nil {
		return fmt.Errorf("prepare %s: %w", w.name, err)
	}
	if err := w.settingsToLeave(base, ext, seq, s); err != nil {
		return err
	}
	switch w.task.Op {
	case plan.Install, plan.Enable, plan.Disable:
	case plan.Update:
		// The settings are written for the new version before its first
		// command, also when a downgrade runs the old package's update
		// (extensions/SPEC.md §6.3).
		base = w.m.store.Base(w.name, w.task.To)
		if err := errors.Join(w.m.store.CheckBase(w.name, w.task.To), folder.MakeAll(base)); err != nil {
			return fmt.Errorf("prepare %s: %w", w.name, err)
		}
	case plan.Fetch, plan.Copy, plan.Uninstall, plan.Remove:
		return nil
	}
	if w.want == nil || w.task.Op == plan.Disable && (w.task.To != "" || !w.wish.Multi) {
		return nil
	}
	if s == nil && len(w.want.Settings) > 0 {
		return nil
	}
	if w.task.Op != plan.Disable {
		if err := handler.DropSettings(base+"/config", ext, seq); err != nil {
			return fmt.Errorf("prepare %s: %w", w.name, err)
		}
	}
	name := handler.FileName(ext, seq, ".settings")
	if err := folder.Write(base, base+"/config/"+name, handler.SettingsFile(s), 0o600); err != nil {
		return err
	}
	w.say(ext, "Update settings file: %s", name)
	return nil
}

// settingsToLeave writes a settings file for the old version during a version
// change, unless it exists. The old version's commands get the sequence number
// of the new version, and some published handlers fail without a settings file
// of that number, which would make the version change fail.
func (w *work) settingsToLeave(base, ext string, seq int, s *protocol.Settings) error {
	if w.task.To == "" || w.task.To == w.task.Version || w.want == nil || s == nil && len(w.want.Settings) > 0 {
		return nil
	}
	name := base + "/config/" + handler.FileName(ext, seq, ".settings")
	if _, err := folder.Root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return folder.Write(base, name, handler.SettingsFile(s), 0o600)
}

func opCode(op plan.Op) int {
	switch op {
	case plan.Install:
		return fault.CodeInstall
	case plan.Update:
		return fault.CodeUpdate
	case plan.Enable:
		return fault.CodeEnable
	case plan.Disable:
		return fault.CodeDisable
	case plan.Fetch:
		return fault.CodeDownload
	case plan.Copy:
		return fault.CodeUpdate
	case plan.Uninstall, plan.Remove:
	}
	return 1000
}

func title(op plan.Op) string { return strings.ToUpper(string(op[:1])) + string(op[1:]) }

// operationName returns the name of an op in telemetry
// (extensions/SPEC.md §16.4).
func operationName(op plan.Op) string {
	switch op {
	case plan.Fetch:
		return "Download"
	case plan.Uninstall:
		return "UnInstall"
	case plan.Install, plan.Copy, plan.Update, plan.Enable, plan.Disable, plan.Remove:
	}
	return title(op)
}

func (w *work) emit(version string, op plan.Op, ok bool, message string, took time.Duration) {
	w.m.events.Emit(event.Event{
		Kind: event.Operation, Time: time.Now().UTC(), Name: w.name, Version: version,
		Op: operationName(op), OK: ok, Message: secret.Redact(message), Duration: took,
	})
}

// pythonDict formats the environment as a Python dict, as WALinuxAgent logs it.
func pythonDict(env []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, kv := range env {
		if i > 0 {
			b.WriteString(", ")
		}
		k, v, _ := strings.Cut(kv, "=")
		b.WriteString(strconv.Quote(k) + ": " + strconv.Quote(v))
	}
	b.WriteByte('}')
	return b.String()
}

// mendNumber repairs an mrseq file that a power cut has left empty. A handler
// keeps the last sequence number it has seen there; published ones rewrite it
// in place, and with an empty file they neither run nor fail any more. The file
// gets the sequence number of the last finished enable, or is removed if there
// is none.
func (w *work) mendNumber(base, ext string) error {
	names := []string{"mrseq", "bin/mrseq"} // extensions/SPEC.md §4.5
	if ext != "" {
		names = []string{ext + ".mrseq"}
	}
	last := -1
	for _, r := range w.recs {
		if e, ok := r.Exts[ext]; ok && e.Hash != "" {
			last = max(last, e.Seq)
		}
	}
	var errs []error
	for _, name := range names {
		data, fi, err := folder.Read(base+"/"+name, 64)
		if err != nil || strings.Trim(string(data), "\x00 \t\r\n") != "" {
			continue // missing, not empty, or not readable by the agent
		}
		w.m.log.Warn().Str("handler", w.name).Str("file", name).Int("seq", last).Msg("sequence number file of the handler was empty, restored the last known number")
		if last < 0 {
			errs = append(errs, folder.Root.Remove(base+"/"+name))
			continue
		}
		errs = append(errs, folder.Write(base, base+"/"+name, []byte(strconv.Itoa(last)), fi.Mode().Perm()))
	}
	return errors.Join(errs...)
}

package extensions

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
)

// maxLost is how often an operation is tried whose result is unknown because
// the machine or the supervisor died. Handlers have to be idempotent, but one
// that crashes the machine each time must not be repeated for ever.
const maxLost = 3

// finish records the result of a command and changes the state accordingly.
func (w *work) finish(r store.Record, d store.Doing, res job.Result) error {
	t := d.Task
	dir := w.m.store.JobDir(d.Job)
	ran := d.Job != ""
	// A shutdown kills commands, or services that they need. So a failure that
	// is found only after a reboot says nothing about the handler.
	boot := cmp.Or(d.Boot, w.m.boot)
	lost := res.Class == job.Lost || res.Class == job.NotStarted && res.Started.IsZero() ||
		res.Class != job.OK && boot != w.m.boot
	if lost && r.Lost+1 < maxLost {
		w.m.log.Warn().Str("handler", r.Name).Str("op", string(t.Op)).Str("class", res.Class).Msg("command was interrupted, it will be run again")
		r.Lost++
		r.Doing = nil
		return w.put(r)
	}
	var stdout, stderr string
	if ran {
		stdout, stderr = handler.Tail(dir+"/"+job.Stdout, 4096), handler.Tail(dir+"/"+job.Stderr, 4096)
	}
	base := w.m.store.Base(r.Name, r.Version)
	var p handler.Probe
	if ran && res.Class == job.Failed {
		p = handler.ProbeCommand(base, d.Command)
	}
	cause := handler.Classify(res, d.Deadline.Sub(d.Started), p, handler.Complaints(stdout, stderr))
	ended := &store.Ended{Op: t.Op, Job: d.Job, Why: t.Why, Started: d.Started, Finished: res.Finished, Result: res, Cause: cause.Code, Began: d.Began, Over: host.Now(), Status: d.Status}
	if ended.Finished.IsZero() {
		ended.Finished = time.Now().UTC()
	}
	problem := fault.Problem{Code: opCode(t.Op), Cause: cause.Code}
	if res.Class != job.OK {
		problem.Code, problem.Text = w.failureText(base, d, res, cause, stdout, stderr, problem.Code)
	}
	if ran {
		w.tellEnd(r, d, ended, cause, problem.Text, handler.OutputText(stdout, stderr))
		if err := job.Reported(dir); err != nil {
			w.m.log.Warn().Err(err).Str("handler", r.Name).Msg("could not mask the output of a command")
		}
	}
	r = r.Ended(ended, t.Ext)
	if t.Op == plan.Enable || t.Op == plan.Disable {
		e := r.Exts[t.Ext]
		if ran {
			e.Jobs = append(e.Jobs[max(0, len(e.Jobs)-3):], d.Job)
		}
		if t.Op == plan.Enable {
			if e.Hash != d.Hash {
				e.Attempts = 0
			}
			e.Attempts++
			e.Seq, e.Hash, e.Boot, e.Agent, e.Start = d.Seq, d.Hash, boot, w.m.cfg.Agent, w.m.start
		}
		r = r.SetExt(t.Ext, e)
	}
	// Later commands of a version change get the exit code of this one, or
	// NotRun if it did not run.
	exit := handler.NotRun
	if ran {
		exit = exitText(res)
	}
	if res.Class != job.OK {
		return w.failed(r, d, problem, exit)
	}
	return w.succeeded(r, d, exit)
}

// tellEnd writes the result of a command to the logs and to telemetry. text is
// that of its problem, output is what the command wrote.
func (w *work) tellEnd(r store.Record, d store.Doing, ended *store.Ended, cause handler.Cause, text, output string) {
	t := d.Task
	w.say(t.Ext, "Command: %s\n%s", d.Command, output)
	w.m.auditLog(store.AuditEntry{
		What: "end", Handler: r.Name, Version: r.Version, Extension: t.Ext, Op: t.Op, Seq: d.Seq, Why: t.Why,
		GoalState: d.Key, Job: d.Job, Class: ended.Result.Class, Code: ended.Result.Code, Text: cause.Text,
		Output: job.Printed(w.m.store.JobDir(d.Job)),
	})
	w.emit(r.Version, t.Op, ended.Result.Class == job.OK, text, ended.Finished.Sub(ended.Started))
	log := w.m.log.With().Str("handler", r.Name).Str("version", r.Version).Str("extension", t.Ext).Int("seq", d.Seq).Str("why", t.Why).
		Str("class", ended.Result.Class).Int("exit", ended.Result.Code).Dur("took", ended.Finished.Sub(ended.Started)).Logger()
	if ended.Result.Class == job.OK {
		log.Info().Msg(string(t.Op) + " ended")
	} else {
		log.Warn().Str("cause", cause.Code).Str("detail", cause.Text).Msg(string(t.Op) + " ended")
	}
	if ended.Result.Slowed() {
		log.Warn().Str("code", codeThrottled).Dur("throttled", ended.Result.Throttled).Msg("the command was throttled by its CPU limit")
		w.say(t.Ext, "%s: the command was throttled by its CPU limit for %s seconds", codeThrottled, seconds(ended.Result.Throttled))
	}
}

// codeThrottled is a note, not a failure: it explains why a command was slow.
const codeThrottled = "AZ-CG-THROTTLED"

// seconds formats a duration in seconds, without trailing zeros.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// failureText is the message for the platform: the cause, then the wording of
// WALinuxAgent, which tools search for, then the ends of the outputs.
func (w *work) failureText(base string, d store.Doing, res job.Result, cause handler.Cause, stdout, stderr string, code int) (int, string) {
	line := handler.Clip(handler.ShellLine(base, d.Command), maxCommandText)
	out := handler.OutputText(stdout, stderr)
	why := ""
	if cause.Code != "" && cause.Code != fault.CauseExit {
		why = cause.Code + ": " + cause.Text + ". "
	}
	var msg string
	switch res.Class {
	case job.Timeout:
		code = fault.CodeTimeout
		throttled := ""
		if res.Throttled > 0 {
			throttled = ";CPUThrottledTime(" + seconds(res.Throttled) + "secs)" // a format that tools parse, extensions/SPEC.md §15.7
		}
		msg = fmt.Sprintf("[ExtensionError] %sTimeout(%d)%s: %s\n%s", why, int(d.Deadline.Sub(d.Started).Seconds()), throttled, line, out)
	case job.NotStarted:
		msg = fmt.Sprintf("[ExtensionOperationError] %sFailed to launch '%s': %s", why, line, res.Error)
	case job.Signal, job.Lost:
		msg = fmt.Sprintf("[ExtensionOperationError] %sNon-zero exit code: %s, %s\n%s", why, exitText(res), line, out)
	default:
		msg = fmt.Sprintf("[ExtensionOperationError] %sNon-zero exit code: %d, %s\n%s", why, res.Code, line, out)
	}
	return code, secret.Redact(msg)
}

// maxCommandText is how many characters of a command line go into messages. A
// command line of a megabyte in a manifest would make the whole status report
// too big for the platform.
const maxCommandText = 2048

// exitText is an exit code in the form that handlers get: for a shell that was
// killed, it is the negative signal number, as in Python.
func exitText(res job.Result) string {
	switch res.Class {
	case job.Timeout:
		return strconv.Itoa(fault.CodeTimeout)
	case job.Signal:
		return strconv.Itoa(-handler.SignalNumber(res.Signal))
	case job.NotStarted:
		return handler.NotRun
	case job.Lost:
		return strconv.Itoa(fault.CodeOther)
	}
	return strconv.Itoa(res.Code)
}

// succeeded applies the transition of a successful operation. exit is the exit
// code that later commands of a version change get for this one.
func (w *work) succeeded(r store.Record, d store.Doing, exit string) error {
	t := d.Task
	switch t.Op {
	case plan.Install:
		r.Installed = time.Now().UTC()
		r.Report = handler.Report{Status: "NotReady", Message: "Plugin installed but not enabled"}
		r.FailKey = ""
	case plan.Enable:
		e := r.Exts[t.Ext]
		e.Enabled, e.FailKey, e.Code, e.Err, e.Cause = true, "", 0, "", ""
		r = r.SetExt(t.Ext, e)
		r.Report = handler.Report{Status: "Ready", Message: "Plugin enabled"}
		r.FailKey = ""
	case plan.Disable:
		if t.To != "" {
			var err error
			if r, err = r.Done(plan.Disable, t.Ext); err != nil {
				return err
			}
			return w.oldDone(r, t, exit)
		}
	case plan.Update:
		if t.Version != t.To {
			if err := w.step(t, func(ch *plan.Change) { ch.Updated = true }); err != nil {
				return err
			}
		} else {
			ch := r.ChangeFrom(t.From)
			ch.Updated = true
			r.Change = &ch
		}
	case plan.Uninstall:
		if t.To != "" {
			if err := w.step(t, func(ch *plan.Change) { ch.UninstallCode = exit }); err != nil {
				return err
			}
		}
		return w.gone(r, t)
	case plan.Fetch, plan.Copy, plan.Remove:
	}
	r, err := r.Done(t.Op, t.Ext)
	if err != nil {
		return err
	}
	switch {
	case t.Op == plan.Disable && t.Purpose == plan.ForDelete:
		delete(r.Exts, t.Ext) // Done has cloned the map
		if err := handler.ForgetExtension(w.m.store.Base(r.Name, r.Version), t.Ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.m.log.Warn().Err(err).Str("handler", r.Name).Str("extension", t.Ext).Msg("could not remove files of a deleted extension")
		}
	case t.Op == plan.Enable:
		w.m.store.DropPackage(r.Name, r.Version)
		r.Change, r.Copied = nil, nil
	}
	if t.Op == plan.Disable && r.State != plan.Enabled {
		r.Report = handler.Report{Status: "NotReady", Message: "Plugin disabled"}
	}
	return w.put(r)
}

// step records progress of a version change in the record of the new version.
func (w *work) step(t plan.Task, f func(*plan.Change)) error {
	n := w.rec(t.To)
	ch := n.ChangeFrom(t.From)
	f(&ch)
	n.Change = &ch
	return w.put(n)
}

// oldDone stores the end of a disable of the old version, which succeeded or
// may fail (continueOnUpdateFailure). r already has the result.
func (w *work) oldDone(r store.Record, t plan.Task, exit string) error {
	if err := w.step(t, func(ch *plan.Change) {
		if ch.DisableCodes == nil {
			ch.DisableCodes = map[string]string{}
		}
		ch.DisableCodes[t.Ext] = exit
	}); err != nil {
		return err
	}
	return w.put(r)
}

// gone is the end of an uninstall: it removes the handler from disk and from
// the report.
func (w *work) gone(r store.Record, t plan.Task) error {
	w.m.store.At("before the removal")
	if err := w.m.store.RemoveHandler(r.Name, r.Version); err != nil {
		w.m.log.Warn().Err(err).Str("handler", r.Name).Str("version", r.Version).Msg("could not remove handler completely")
	}
	w.m.store.At("after the removal")
	w.m.auditLog(store.AuditEntry{What: "remove", Handler: r.Name, Version: r.Version, Op: t.Op, Why: t.Why})
	if err := w.m.store.Save(store.Record{Name: r.Name, Version: r.Version, State: plan.Absent}); err != nil {
		return err
	}
	delete(w.recs, r.Version)
	return nil
}

// failed handles a failed operation. The handler is not processed further in
// this goal state, unless the contract ignores the failure. exit is the exit
// code that later commands of a version change get.
func (w *work) failed(r store.Record, d store.Doing, p fault.Problem, exit string) error {
	t := d.Task
	w.say(t.Ext, "%s", p.Text)
	if d.Job == "" {
		w.emit(r.Version, t.Op, false, p.Text, 0)
	}
	switch {
	case t.To != "" && (t.Op == plan.Disable || t.Op == plan.Uninstall):
		if d.Lenient {
			if t.Op == plan.Disable {
				return w.oldDone(r.Fail(plan.Disable), t, exit)
			}
			return w.succeeded(r, d, exit)
		}
		if err := w.put(r.Fail(t.Op)); err != nil {
			return err
		}
		return w.failTarget(w.rec(t.To), fault.Problem{Code: fault.CodeUpdate, Cause: p.Cause, Text: "[ExtensionUpdateError] " + p.Text + "; ContinueOnUpdate: False"})
	case t.Op == plan.Update && t.Version != t.To: // a downgrade: the old package failed
		if err := w.put(r.Fail(plan.Update)); err != nil {
			return err
		}
		if p.Code != fault.CodeTimeout {
			p.Code = fault.CodeUpdate
		}
		return w.failTarget(w.rec(t.To), p)
	case t.Op == plan.Uninstall:
		w.m.log.Warn().Str("handler", r.Name).Str("version", r.Version).Msg("uninstall failed, handler is removed anyway")
		return w.gone(r, t)
	case t.Op == plan.Disable && t.Purpose == plan.ForDelete:
		w.say(t.Ext, "[Ignored Error] %s", p.Text)
		return w.succeeded(r, d, exit)
	case t.Op == plan.Disable && t.Purpose == plan.ForUninstall:
		r = r.Fail(plan.Disable)
		r.FailKey, r.FailBoot = d.Key, w.m.boot
		return w.put(r)
	case t.Op == plan.Enable:
		e := r.Exts[t.Ext]
		e.FailKey, e.Code, e.Err, e.Cause = d.Key, p.Code, p.Text, p.Cause
		e.Seq, e.Hash, e.Boot, e.Agent, e.Start = d.Seq, d.Hash, w.m.boot, w.m.cfg.Agent, w.m.start
		r = r.SetExt(t.Ext, e).Fail(plan.Enable)
		if t.Ext != "" {
			// One extension of many: the handler's own status does not change.
			path := w.m.store.Base(r.Name, r.Version) + "/status/" + handler.FileName(t.Ext, d.Seq, ".status")
			_, spoke := store.StampOf(path)
			w.placeholder(r, t.Ext, d.Seq, "Enable", p.Code, fmt.Sprintf("Error processing MultiConfig extension %s.%s: %s", r.Name, t.Ext, p.Text))
			if own, ok := store.StampOf(path); ok && !spoke {
				e.Own = &own
				r = r.SetExt(t.Ext, e)
			}
			return w.put(r)
		}
		r.Report = handler.ReportOf(p)
		return w.put(r)
	}
	r = r.Fail(t.Op)
	return w.failTarget(r, p)
}

// placeholder writes an error status file on behalf of a handler.
func (w *work) placeholder(r store.Record, ext string, seq int, op string, code int, message string) {
	if err := w.m.placeholder(r, ext, seq, op, code, message); err != nil {
		w.m.log.Warn().Err(err).Str("handler", r.Name).Str("extension", ext).Msg("could not write error status")
	}
}

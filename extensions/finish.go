package extensions

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/plan"
)

// maxLost is how often an operation is repeated whose outcome is not known,
// because the machine or the supervisor died. Handlers have to be idempotent;
// one that takes the machine down each time must not do so for ever.
const maxLost = 3

// finish records the end of a command and what follows from it.
func (w *work) finish(r Record, d Doing, res job.Result) error {
	t := d.Task
	dir := w.m.store.jobDir(d.Job)
	ran := d.Job != ""
	// A shutdown kills commands and what they wait for. A failure found in a
	// later boot is from then, and says nothing about the handler.
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
		stdout, stderr = tail(dir+"/"+job.Stdout, 4096), tail(dir+"/"+job.Stderr, 4096)
	}
	base := w.m.store.base(r.Name, r.Version)
	var p probe
	if ran && res.Class == job.Failed {
		p = probeCommand(base, d.Command)
	}
	cause := classify(res, d.Deadline.Sub(d.Started), p, complaints(stdout, stderr))
	ended := &Ended{Op: t.Op, Job: d.Job, Why: t.Why, Started: d.Started, Finished: res.Finished, Result: res, Cause: cause.Code}
	if ended.Finished.IsZero() {
		ended.Finished = time.Now().UTC()
	}
	problem := Problem{Code: opCode(t.Op), Cause: cause.Code}
	if res.Class != job.OK {
		problem.Code, problem.Text = w.failureText(base, d, res, cause, stdout, stderr, problem.Code)
	}
	if ran {
		w.say(t.Ext, "Command: %s\n%s", d.Command, outputText(stdout, stderr))
		w.m.auditLog(AuditEntry{
			What: "end", Handler: r.Name, Version: r.Version, Extension: t.Ext, Op: t.Op, Seq: d.Seq, Why: t.Why,
			GoalState: d.Key, Job: d.Job, Class: res.Class, Code: res.Code, Text: cause.Text,
		})
		w.emit(r.Version, t.Op, res.Class == job.OK, problem.Text, ended.Finished.Sub(ended.Started))
		log := w.m.log.With().Str("handler", r.Name).Str("version", r.Version).Str("extension", t.Ext).Int("seq", d.Seq).Str("why", t.Why).
			Str("class", res.Class).Int("exit", res.Code).Dur("took", ended.Finished.Sub(ended.Started)).Logger()
		if res.Class == job.OK {
			log.Info().Msg(string(t.Op) + " ended")
		} else {
			log.Warn().Str("cause", cause.Code).Str("detail", cause.Text).Msg(string(t.Op) + " ended")
		}
		if res.Slowed() {
			log.Warn().Str("code", codeThrottled).Dur("throttled", res.Throttled).Msg("the command was throttled by its CPU limit")
			w.say(t.Ext, "%s: the command was throttled by its CPU limit for %s seconds", codeThrottled, seconds(res.Throttled))
		}
	}
	r = r.ended(ended, t.Ext)
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
		r = r.setExt(t.Ext, e)
	}
	// What a version change tells about this command is what it came to, and
	// of one that did not run that it did not.
	exit := notRun
	if ran {
		exit = exitText(res)
	}
	if res.Class != job.OK {
		return w.failed(r, d, problem, exit)
	}
	return w.succeeded(r, d, exit)
}

// codeThrottled is no fault of the command; it says why one was slow.
const codeThrottled = "AZ-CG-THROTTLED"

// seconds with as many decimals as tell something.
func seconds(d time.Duration) string {
	return strconv.FormatFloat(d.Round(time.Millisecond).Seconds(), 'f', -1, 64)
}

// failureText is the message for the platform: the cause first, then what
// everybody's tools look for, then the ends of the outputs.
func (w *work) failureText(base string, d Doing, res job.Result, cause Cause, stdout, stderr string, code int) (int, string) {
	line := clip(shellLine(base, d.Command), maxCommandText)
	out := outputText(stdout, stderr)
	why := ""
	if cause.Code != "" && cause.Code != causeExit {
		why = cause.Code + ": " + cause.Text + ". "
	}
	var msg string
	switch res.Class {
	case job.Timeout:
		code = codeTimeout
		throttled := ""
		if res.Throttled > 0 {
			throttled = ";CPUThrottledTime(" + seconds(res.Throttled) + "secs)" // extensions/SPEC.md §15.7, as tools know it
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

// maxCommandText is how much of a command line goes into texts. A manifest can
// have one of a megabyte, which a platform that takes no such report would
// make a loss of all that is to be reported.
const maxCommandText = 2048

// exitText is an exit code as handlers are told it: of a shell that was
// killed it is the negative signal, as Python has it.
func exitText(res job.Result) string {
	switch res.Class {
	case job.Timeout:
		return strconv.Itoa(codeTimeout)
	case job.Signal:
		return strconv.Itoa(-signalNumber(res.Signal))
	case job.NotStarted:
		return notRun
	case job.Lost:
		return strconv.Itoa(codeOther)
	}
	return strconv.Itoa(res.Code)
}

// succeeded moves on along the table. exit is what a later command of a
// version change is told about this one.
func (w *work) succeeded(r Record, d Doing, exit string) error {
	t := d.Task
	switch t.Op {
	case plan.Install:
		r.Installed = time.Now().UTC()
		r.Report = Report{Status: "NotReady", Message: "Plugin installed but not enabled"}
		r.FailKey = ""
	case plan.Enable:
		e := r.Exts[t.Ext]
		e.Enabled, e.FailKey, e.Code, e.Err, e.Cause, e.Enabling = true, "", 0, "", "", d.Started
		r = r.setExt(t.Ext, e)
		r.Report = Report{Status: "Ready", Message: "Plugin enabled"}
		r.FailKey = ""
	case plan.Disable:
		if t.To != "" {
			var err error
			if r, err = r.done(plan.Disable, t.Ext); err != nil {
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
			ch := r.changeFrom(t.From)
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
	r, err := r.done(t.Op, t.Ext)
	if err != nil {
		return err
	}
	switch {
	case t.Op == plan.Disable && t.Purpose == plan.ForDelete:
		delete(r.Exts, t.Ext) // done has cloned the map
		if err := forgetExtension(w.m.store.base(r.Name, r.Version), t.Ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.m.log.Warn().Err(err).Str("handler", r.Name).Str("extension", t.Ext).Msg("could not remove files of a deleted extension")
		}
	case t.Op == plan.Enable:
		w.m.store.dropPackage(r.Name, r.Version)
		if err := top.RemoveAll(w.m.store.sub("saved", r.Name+"-"+r.Version)); err != nil {
			w.m.log.Warn().Err(err).Msg("could not remove saved status files")
		}
		r.Change = nil
	}
	if t.Op == plan.Disable && r.State != plan.Enabled {
		r.Report = Report{Status: "NotReady", Message: "Plugin disabled"}
	}
	return w.put(r)
}

// step notes progress of a version change in the record of the new version.
func (w *work) step(t plan.Task, f func(*plan.Change)) error {
	n := w.rec(t.To)
	ch := n.changeFrom(t.From)
	f(&ch)
	n.Change = &ch
	return w.put(n)
}

// oldDone is the end of a disable of the old version, good or forgiven, that
// r tells of already.
func (w *work) oldDone(r Record, t plan.Task, exit string) error {
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

// gone is the end of an uninstall: the handler leaves disk and report.
func (w *work) gone(r Record, t plan.Task) error {
	w.m.store.at("before the removal")
	if err := w.m.store.removeHandler(r.Name, r.Version); err != nil {
		w.m.log.Warn().Err(err).Str("handler", r.Name).Str("version", r.Version).Msg("could not remove handler completely")
	}
	w.m.store.at("after the removal")
	w.m.auditLog(AuditEntry{What: "remove", Handler: r.Name, Version: r.Version, Op: t.Op, Why: t.Why})
	if err := w.m.store.save(Record{Name: r.Name, Version: r.Version, State: plan.Absent}); err != nil {
		return err
	}
	delete(w.recs, r.Version)
	return nil
}

// failed decides what a failure means. It stops this handler for this goal
// state, unless the contract says that it does not matter. exit is what a
// later command of a version change is told.
func (w *work) failed(r Record, d Doing, p Problem, exit string) error {
	t := d.Task
	w.say(t.Ext, "%s", p.Text)
	if d.Job == "" {
		w.emit(r.Version, t.Op, false, p.Text, 0)
	}
	switch {
	case t.To != "" && (t.Op == plan.Disable || t.Op == plan.Uninstall):
		if d.Lenient {
			if t.Op == plan.Disable {
				return w.oldDone(r.fail(plan.Disable), t, exit)
			}
			return w.succeeded(r, d, exit)
		}
		if err := w.put(r.fail(t.Op)); err != nil {
			return err
		}
		return w.failTarget(w.rec(t.To), Problem{codeUpdate, p.Cause, "[ExtensionUpdateError] " + p.Text + "; ContinueOnUpdate: False"})
	case t.Op == plan.Update && t.Version != t.To: // a downgrade: the old package failed
		if err := w.put(r.fail(plan.Update)); err != nil {
			return err
		}
		if p.Code != codeTimeout {
			p.Code = codeUpdate
		}
		return w.failTarget(w.rec(t.To), p)
	case t.Op == plan.Uninstall:
		w.m.log.Warn().Str("handler", r.Name).Str("version", r.Version).Msg("uninstall failed, handler is removed anyway")
		return w.gone(r, t)
	case t.Op == plan.Disable && t.Purpose == plan.ForDelete:
		w.say(t.Ext, "[Ignored Error] %s", p.Text)
		return w.succeeded(r, d, exit)
	case t.Op == plan.Disable && t.Purpose == plan.ForUninstall:
		r = r.fail(plan.Disable)
		r.FailKey, r.FailBoot = d.Key, w.m.boot
		return w.put(r)
	case t.Op == plan.Enable:
		e := r.Exts[t.Ext]
		e.FailKey, e.Code, e.Err, e.Cause = d.Key, p.Code, p.Text, p.Cause
		e.Seq, e.Hash, e.Boot, e.Agent, e.Start = d.Seq, d.Hash, w.m.boot, w.m.cfg.Agent, w.m.start
		r = r.setExt(t.Ext, e).fail(plan.Enable)
		if t.Ext != "" {
			// One extension of many: the handler itself is as well as before.
			w.placeholder(r, t.Ext, d.Seq, "Enable", p.Code, fmt.Sprintf("Error processing MultiConfig extension %s.%s: %s", r.Name, t.Ext, p.Text), false)
			return w.put(r)
		}
		r.Report = reportOf(p)
		return w.put(r)
	}
	r = r.fail(t.Op)
	return w.failTarget(r, p)
}

// placeholder writes an error status in a handler's place.
func (w *work) placeholder(r Record, ext string, seq int, op string, code int, message string, overwrite bool) {
	if err := w.m.placeholder(r, ext, seq, op, code, message, overwrite); err != nil {
		w.m.log.Warn().Err(err).Str("handler", r.Name).Str("extension", ext).Msg("could not write error status")
	}
}

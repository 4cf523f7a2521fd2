package store

import (
	"fmt"
	"maps"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
)

// OnDisk returns the content of config/HandlerState, which WALinuxAgent reads
// and writes, too (extensions/SPEC.md §4.6).
func (r Record) OnDisk() string {
	switch r.State {
	case plan.Enabled:
		return "Enabled"
	case plan.Installed, plan.Disabled:
		return "Installed"
	case plan.Broken:
		if r.FailedUpgrade {
			return "FailedUpgrade"
		}
	case plan.Absent, plan.Fetched:
	}
	return "NotInstalled"
}

// A Record is what the agent knows about one version of a handler. It is
// written before and after every operation that changes it, so that processing
// can continue after a crash.
type Record struct {
	Name    string     `json:"name"`
	Version string     `json:"version"`
	State   plan.State `json:"state"`
	// FailedUpgrade is set if State is Broken because the update failed, and
	// not the install. HandlerState is then "FailedUpgrade".
	FailedUpgrade bool `json:"failedUpgrade,omitempty"`
	Multi         bool `json:"multi,omitempty"`
	// Doing is set while an operation with a command runs.
	Doing *Doing `json:"doing,omitempty"`
	// Change is set on the new version while it replaces another one. After
	// an interruption, the version change continues from there.
	Change *plan.Change `json:"change,omitempty"`
	// Copied has the stamps of the status files that were copied from the
	// version that Change replaces, by extension.
	Copied map[string]FileStamp `json:"copied,omitempty"`
	// Exts has one entry per extension; the key is "" for single-config.
	Exts map[string]ExtRecord `json:"exts,omitempty"`
	// Report is the handler's status in the report and config/HandlerStatus.
	Report handler.Report `json:"report"`
	// FailKey is the goal state, and FailBoot the boot, in which an operation
	// of the whole handler failed. It is not tried again as long as both are
	// current.
	FailKey  string `json:"failKey,omitempty"`
	FailBoot string `json:"failBoot,omitempty"`
	// Awaited is set while its package, or the manifest that names it, is waited
	// for.
	Awaited *Awaited `json:"awaited,omitempty"`
	// Lost counts consecutive operations whose result is unknown.
	Lost int `json:"lost,omitempty"`

	// Packager means that the package seems to use the system's package
	// manager, which only one process can do at a time.
	Packager  bool      `json:"packager,omitempty"`
	Digest    string    `json:"digest,omitempty"` // sha256 of the package, hex
	Signer    string    `json:"signer,omitempty"`
	Since     time.Time `json:"since,omitzero"` // when State changed last
	Installed time.Time `json:"installed,omitzero"`
	// Last is the operation of the whole handler that ended last.
	Last *Ended `json:"last,omitempty"`
}

// Doing is a running operation, with everything that is needed to finish it
// after a restart of the agent.
type Doing struct {
	Task     plan.Task `json:"task"`
	Job      string    `json:"job"` // id; empty until the job exists
	Seq      int       `json:"seq"`
	Hash     string    `json:"hash,omitempty"`
	Key      string    `json:"key,omitempty"` // goal state
	Command  string    `json:"command"`
	Started  time.Time `json:"started"`
	Deadline time.Time `json:"deadline"`
	// Began is Started on a clock that can't be set.
	Began   host.Moment `json:"began,omitzero"`
	Lenient bool        `json:"lenient,omitempty"` // continueOnUpdateFailure of the new version
	Boot    string      `json:"boot,omitempty"`    // boot in which it runs
	// Status has the stamps of the status files when it began, by extension.
	Status map[string]FileStamp `json:"status,omitempty"`
}

// Ended is a finished operation.
type Ended struct {
	Op       plan.Op    `json:"op"`
	Job      string     `json:"job,omitempty"`
	Why      string     `json:"why,omitempty"`
	Started  time.Time  `json:"started,omitzero"`
	Finished time.Time  `json:"finished,omitzero"`
	Result   job.Result `json:"result"`
	Cause    string     `json:"cause,omitempty"`
	// Began and Over are Started and Finished on a clock that can't be set. Over
	// is when the agent has noticed the end.
	Began host.Moment `json:"began,omitzero"`
	Over  host.Moment `json:"over,omitzero"`
	// Status has the stamps of the status files when it began, by extension.
	Status map[string]FileStamp `json:"status,omitempty"`
}

// ExtRecord is one extension of a handler version.
type ExtRecord struct {
	plan.ExtFact
	Code     int      `json:"code,omitempty"` // Code, Err and Cause are the Problem if enable failed
	Err      string   `json:"err,omitempty"`
	Cause    string   `json:"cause,omitempty"`
	Attempts int      `json:"attempts,omitempty"` // number of enables with this Hash
	Jobs     []string `json:"jobs,omitempty"`     // jobs whose processes may still write the status
	Last     *Ended   `json:"last,omitempty"`
	// Own is the status file that the agent has written because an enable of a
	// multi-config extension failed without writing one.
	Own *FileStamp `json:"own,omitempty"`
	// Cancelled is the job whose remaining processes an operator has killed.
	Cancelled string `json:"cancelled,omitempty"`
}

// Awaited is something that a handler needs and that could not be had yet.
type Awaited struct {
	// Key is the goal state and Boot the boot in which it is waited for.
	Key  string `json:"key"`
	Boot string `json:"boot"`
	// Since is when the wait began, by the wall clock, for people. Waited is how
	// long it had lasted at the last attempt, by a clock that can't be set; it
	// is what counts after a restart of the agent.
	Since  time.Time     `json:"since"`
	Waited time.Duration `json:"waited"` // ns
	What   string        `json:"what"`   // "its package"
	Why    string        `json:"why"`    // the last error
	// Problem is how it is reported once Failed is set.
	Problem fault.Problem `json:"problem"`
	Failed  bool          `json:"failed,omitempty"`
}

// Blank reports whether the record says nothing.
func (r Record) Blank() bool {
	return r.State == plan.Absent && r.Doing == nil && r.Report.Status == "" && r.Awaited == nil
}

// Done returns r after op succeeded. The error wraps plan.ErrEdge if op is not
// allowed in the state of r.
func (r Record) Done(op plan.Op, ext string) (Record, error) {
	next, ok := r.State.After(op)
	if !ok {
		return r, fmt.Errorf("%s %s-%s from state %s: %w", op, r.Name, r.Version, r.State, plan.ErrEdge)
	}
	r.Exts = maps.Clone(r.Exts)
	if op == plan.Disable {
		if e, ok := r.Exts[ext]; ok {
			e.Enabled = false
			r.Exts[ext] = e
		}
		if ext != "" && r.enabledExts() > 0 {
			next = plan.Enabled
		}
	}
	if next != r.State {
		r.State, r.Since = next, time.Now().UTC()
	}
	r.Doing, r.Lost, r.FailedUpgrade = nil, 0, false
	return r, nil
}

// Fail returns r after op failed.
func (r Record) Fail(op plan.Op) Record {
	next := r.State.Failed(op)
	if next != r.State {
		r.State, r.Since = next, time.Now().UTC()
	}
	r.FailedUpgrade = next == plan.Broken && (op == plan.Update || r.FailedUpgrade && op != plan.Install)
	r.Doing, r.Lost = nil, 0
	return r
}

func (r Record) enabledExts() int {
	n := 0
	for _, e := range r.Exts {
		if e.Enabled {
			n++
		}
	}
	return n
}

// Ended returns r with a finished operation stored as the last one of the
// handler or, for enable and disable, of the extension.
func (r Record) Ended(e *Ended, ext string) Record {
	if e.Op != plan.Enable && e.Op != plan.Disable {
		r.Last = e
		return r
	}
	x := r.Exts[ext]
	x.Last = e
	return r.SetExt(ext, x)
}

// SetExt returns r with the entry of one extension replaced.
func (r Record) SetExt(name string, e ExtRecord) Record {
	r.Exts = maps.Clone(r.Exts)
	if r.Exts == nil {
		r.Exts = map[string]ExtRecord{}
	}
	r.Exts[name] = e
	return r
}

// Age returns how long ago the last operation began, at most a day.
func (e ExtRecord) Age() time.Duration {
	const most = 24 * time.Hour
	if e.Last == nil {
		return most
	}
	return most - e.Last.Began.Left(most)
}

// Problem returns why the last enable of an extension failed.
func (e ExtRecord) Problem() fault.Problem {
	p := fault.Problem{Code: e.Code, Cause: e.Cause, Text: e.Err}
	if p.Cause == "" && e.FailKey != "" {
		p.Cause = fault.CauseOfCode(p.Code)
	}
	return p
}

// WithPurpose converts a task from a record of an earlier build, which had the
// purpose of a disable only in Why.
func WithPurpose(t plan.Task) plan.Task {
	purpose, known := map[string]plan.Purpose{"deleted": plan.ForDelete, "uninstall": plan.ForUninstall}[t.Why]
	if known && t.Op == plan.Disable {
		t.Purpose = purpose
	}
	return t
}

// ChangeFrom returns the progress of the version change from another version.
func (r Record) ChangeFrom(from string) plan.Change {
	if r.Change != nil && r.Change.From == from {
		ch := *r.Change
		ch.DisableCodes = maps.Clone(ch.DisableCodes)
		return ch
	}
	return plan.Change{From: from}
}

// Fact returns the facts for the plan, except those from the manifest.
func (r Record) Fact() plan.Fact {
	f := plan.Fact{Version: r.Version, State: r.State, Multi: r.Multi, Change: r.Change, FailKey: r.FailKey, FailBoot: r.FailBoot}
	if r.Exts != nil {
		f.Exts = make(map[string]plan.ExtFact, len(r.Exts))
	}
	for name, e := range r.Exts {
		f.Exts[name] = e.ExtFact
	}
	return f
}

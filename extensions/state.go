package extensions

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// State is how far one version of a handler has come. It is stored as text.
type State string

// The states. Broken is a package whose install or update failed: only
// fetching it again or removing it leads out.
const (
	Absent    State = "Absent"
	Fetched   State = "Fetched"
	Installed State = "Installed"
	Enabled   State = "Enabled"
	Disabled  State = "Disabled"
	Broken    State = "Broken"
)

// Op is one step that leads from a State to the next.
type Op string

// The operations. Copy, Fetch and Remove run no command of the handler.
const (
	Fetch     Op = "fetch"
	Install   Op = "install"
	Copy      Op = "copy" // mrseq and status files of the old version
	Update    Op = "update"
	Enable    Op = "enable"
	Disable   Op = "disable"
	Uninstall Op = "uninstall" // the command, then the directory
	Remove    Op = "remove"    // the directory only
)

type edge struct {
	from State
	op   Op
}

// after is the whole state machine: an edge that is not here does not exist.
// Disabling one of several enabled extensions of a multi-config handler
// leaves the handler enabled; Record.done knows that.
var after = map[edge]State{
	{Absent, Fetch}:        Fetched,
	{Fetched, Fetch}:       Fetched,
	{Broken, Fetch}:        Fetched,
	{Fetched, Copy}:        Fetched,
	{Fetched, Update}:      Fetched,  // an upgrade: the new package's command
	{Installed, Update}:    Disabled, // a downgrade: the old package's command
	{Disabled, Update}:     Disabled,
	{Fetched, Install}:     Installed,
	{Installed, Enable}:    Enabled,
	{Enabled, Enable}:      Enabled, // new settings, reboot
	{Disabled, Enable}:     Enabled,
	{Enabled, Disable}:     Disabled,
	{Installed, Disable}:   Disabled,
	{Disabled, Disable}:    Disabled,
	{Installed, Uninstall}: Absent,
	{Enabled, Uninstall}:   Absent, // its disable failed; deleting goes on
	{Disabled, Uninstall}:  Absent,
	{Broken, Uninstall}:    Absent,
	{Absent, Remove}:       Absent,
	{Fetched, Remove}:      Absent,
	{Installed, Remove}:    Absent,
	{Enabled, Remove}:      Absent,
	{Disabled, Remove}:     Absent,
	{Broken, Remove}:       Absent,
}

// failed is where a failure leads when that is not back to where it began.
var failed = map[edge]State{
	{Fetched, Install}:  Broken,
	{Fetched, Update}:   Broken,
	{Installed, Update}: Broken,
	{Disabled, Update}:  Broken,
	{Broken, Fetch}:     Absent,
	{Fetched, Fetch}:    Absent,
}

// After is the state to which a successful op leads.
func (s State) After(op Op) (State, bool) {
	next, ok := after[edge{s, op}]
	return next, ok
}

// Failed is the state to which a failed op leads.
func (s State) Failed(op Op) State {
	if next, ok := failed[edge{s, op}]; ok {
		return next
	}
	return s
}

// installed reports whether commands of this version have a meaning: its
// install succeeded.
func (s State) installed() bool { return s == Installed || s == Enabled || s == Disabled }

// onDisk is the text of config/HandlerState, which the old agent reads and
// writes too (extensions/SPEC.md §4.6).
func (r Record) onDisk() string {
	switch r.State {
	case Enabled:
		return "Enabled"
	case Installed, Disabled:
		return "Installed"
	case Broken:
		if r.FailedUpgrade {
			return "FailedUpgrade"
		}
	case Absent, Fetched:
	}
	return "NotInstalled"
}

// A Record is what the agent knows about one version of a handler. It is on
// disk before and after every operation that changes it, so that whatever
// dies in between, the next Plan starts from the truth.
type Record struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   State  `json:"state"`
	// FailedUpgrade is the text HandlerState has for a Broken one whose
	// update (and not install) failed.
	FailedUpgrade bool `json:"failedUpgrade,omitempty"`
	Multi         bool `json:"multi,omitempty"`
	// Doing is set while an operation with a command runs.
	Doing *Doing `json:"doing,omitempty"`
	// Change is set on the new version while it replaces an older or newer
	// one: the version change goes on where it stopped.
	Change *Change `json:"change,omitempty"`
	// Exts has one entry per extension; the key is "" for single-config.
	Exts map[string]ExtRecord `json:"exts,omitempty"`
	// Report is the handler's row in the status, config/HandlerStatus.
	Report Report `json:"report"`
	// FailKey is the goal state, and FailBoot the boot, in which a
	// handler-level operation failed; it is not tried again in both.
	FailKey  string `json:"failKey,omitempty"`
	FailBoot string `json:"failBoot,omitempty"`
	// Lost counts operations in a row whose outcome nobody knows.
	Lost int `json:"lost,omitempty"`

	// Packager: the package seems to use the system's package manager, which
	// only one can do at a time.
	Packager  bool      `json:"packager,omitempty"`
	Digest    string    `json:"digest,omitempty"` // sha256 of the package, hex
	Signer    string    `json:"signer,omitempty"`
	Since     time.Time `json:"since,omitzero"` // of State
	Installed time.Time `json:"installed,omitzero"`
	// Last is the handler-level operation that ended last.
	Last *Ended `json:"last,omitempty"`
}

// Doing is an operation under way. It holds everything that is needed to
// finish it after a restart of the agent.
type Doing struct {
	Task     Task      `json:"task"`
	Job      string    `json:"job"` // id; empty until the job exists
	Seq      int       `json:"seq"`
	Hash     string    `json:"hash,omitempty"`
	Key      string    `json:"key,omitempty"` // goal state
	Command  string    `json:"command"`
	Started  time.Time `json:"started"`
	Deadline time.Time `json:"deadline"`
	// Began is Started by a clock that nobody can set.
	Began   host.Moment `json:"began,omitzero"`
	Lenient bool        `json:"lenient,omitempty"` // continueOnUpdateFailure of the new version
	Boot    string      `json:"boot,omitempty"`    // in which it runs
}

// Ended is an operation that is over.
type Ended struct {
	Op       Op             `json:"op"`
	Job      string         `json:"job,omitempty"`
	Why      string         `json:"why,omitempty"`
	Started  time.Time      `json:"started,omitzero"`
	Finished time.Time      `json:"finished,omitzero"`
	Result   host.JobResult `json:"result"`
	Cause    string         `json:"cause,omitempty"`
}

// Change is the progress of a version change (extensions/SPEC.md §10.5).
type Change struct {
	From         string            `json:"from"`
	Disabled     bool              `json:"disabled,omitempty"`
	DisableCodes map[string]string `json:"disableCodes,omitempty"` // by extension
	Copied       bool              `json:"copied,omitempty"`
	Updated      bool              `json:"updated,omitempty"`
	// UninstallCode reaches install and enable of the new version.
	UninstallCode string `json:"uninstallCode,omitempty"`
}

// ExtRecord is one extension of a handler version.
type ExtRecord struct {
	Enabled bool   `json:"enabled,omitempty"`
	Seq     int    `json:"seq"`
	Hash    string `json:"hash,omitempty"` // of the settings last tried
	// Boot and Agent are the boot and the agent version of the last try.
	Boot  string `json:"boot,omitempty"`
	Agent string `json:"agent,omitempty"`
	Start string `json:"start,omitempty"` // of the agent, only if that matters
	// FailKey is the goal state in which it failed; "" if it did not.
	FailKey  string    `json:"failKey,omitempty"`
	Code     int       `json:"code,omitempty"` // of the failure, as are Err and Cause: a Problem
	Err      string    `json:"err,omitempty"`
	Cause    string    `json:"cause,omitempty"`
	Attempts int       `json:"attempts,omitempty"` // of this Hash
	Enabling time.Time `json:"enabling,omitzero"`  // when the last successful enable began
	Jobs     []string  `json:"jobs,omitempty"`     // whose processes may still write
	Last     *Ended    `json:"last,omitempty"`
	// Cancelled is the job whose remains an operator has killed.
	Cancelled string `json:"cancelled,omitempty"`
}

// Report is the handler-level part of a status row.
type Report struct {
	Status  string `json:"status,omitempty"` // Ready or NotReady; empty: no row
	Code    int    `json:"code"`
	Message string `json:"message,omitempty"`
	Cause   string `json:"cause,omitempty"` // stable; empty if all is well
}

// ErrEdge says that an operation is not possible in a state: a bug.
var ErrEdge = errors.New("not a valid state transition")

// done is r after op succeeded.
func (r Record) done(op Op, ext string) (Record, error) {
	next, ok := r.State.After(op)
	if !ok {
		return r, fmt.Errorf("%s %s-%s from state %s: %w", op, r.Name, r.Version, r.State, ErrEdge)
	}
	r.Exts = maps.Clone(r.Exts)
	if op == Disable {
		if e, ok := r.Exts[ext]; ok {
			e.Enabled = false
			r.Exts[ext] = e
		}
		if ext != "" && r.enabledExts() > 0 {
			next = Enabled
		}
	}
	if next != r.State {
		r.State, r.Since = next, time.Now().UTC()
	}
	r.Doing, r.Lost, r.FailedUpgrade = nil, 0, false
	return r, nil
}

// fail is r after op failed.
func (r Record) fail(op Op) Record {
	next := r.State.Failed(op)
	if next != r.State {
		r.State, r.Since = next, time.Now().UTC()
	}
	r.FailedUpgrade = next == Broken && (op == Update || r.FailedUpgrade && op != Install)
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

// ended is r with an operation that is over in its place: that of the handler
// or of one of its extensions.
func (r Record) ended(e *Ended, ext string) Record {
	if e.Op != Enable && e.Op != Disable {
		r.Last = e
		return r
	}
	x := r.Exts[ext]
	x.Last = e
	return r.setExt(ext, x)
}

// setExt returns r with the entry of one extension replaced.
func (r Record) setExt(name string, e ExtRecord) Record {
	r.Exts = maps.Clone(r.Exts)
	if r.Exts == nil {
		r.Exts = map[string]ExtRecord{}
	}
	r.Exts[name] = e
	return r
}

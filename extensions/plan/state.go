package plan

import "errors"

// State is the state of one version of a handler. It is stored as text.
type State string

// The states. Broken is a package whose install or update failed; it has to be
// fetched again or removed.
const (
	Absent    State = "Absent"
	Fetched   State = "Fetched"
	Installed State = "Installed"
	Enabled   State = "Enabled"
	Disabled  State = "Disabled"
	Broken    State = "Broken"
)

// Op is an operation that leads from one State to the next.
type Op string

// The operations. Copy, Fetch and Remove run no command of the handler.
const (
	Fetch     Op = "fetch"
	Install   Op = "install"
	Copy      Op = "copy" // copies mrseq and status files of the old version
	Update    Op = "update"
	Enable    Op = "enable"
	Disable   Op = "disable"
	Uninstall Op = "uninstall" // runs the command, then deletes the directory
	Remove    Op = "remove"    // only deletes the directory
)

type edge struct {
	from State
	op   Op
}

// after is the state machine: transitions that are not listed are not allowed.
// A multi-config handler stays enabled when one of several enabled extensions
// is disabled; Record.Done handles that.
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
	{Enabled, Uninstall}:   Absent, // its disable failed; the removal continues
	{Disabled, Uninstall}:  Absent,
	{Broken, Uninstall}:    Absent,
	{Absent, Remove}:       Absent,
	{Fetched, Remove}:      Absent,
	{Installed, Remove}:    Absent,
	{Enabled, Remove}:      Absent,
	{Disabled, Remove}:     Absent,
	{Broken, Remove}:       Absent,
}

// failed lists the failed operations that change the state.
var failed = map[edge]State{
	{Fetched, Install}:  Broken,
	{Fetched, Update}:   Broken,
	{Installed, Update}: Broken,
	{Disabled, Update}:  Broken,
	{Broken, Fetch}:     Absent,
	{Fetched, Fetch}:    Absent,
}

// After returns the state after a successful op, and false if op is not
// allowed in s.
func (s State) After(op Op) (State, bool) {
	next, ok := after[edge{s, op}]
	return next, ok
}

// Failed returns the state after a failed op.
func (s State) Failed(op Op) State {
	if next, ok := failed[edge{s, op}]; ok {
		return next
	}
	return s
}

// Installed reports whether the install of this version succeeded, so that its
// other commands can be run.
func (s State) Installed() bool { return s == Installed || s == Enabled || s == Disabled }

// Change is the progress of a version change (extensions/SPEC.md §10.5). Exit
// codes are decimal, or NOT_RUN.
type Change struct {
	From         string            `json:"from"`
	Disabled     bool              `json:"disabled,omitempty"`
	DisableCodes map[string]string `json:"disableCodes,omitempty"` // exit codes by extension
	Copied       bool              `json:"copied,omitempty"`
	Updated      bool              `json:"updated,omitempty"`
	// UninstallCode is passed to install and enable of the new version.
	UninstallCode string `json:"uninstallCode,omitempty"`
}

// ErrEdge means that an operation is not allowed in a state. This is a bug.
var ErrEdge = errors.New("not a valid state transition")

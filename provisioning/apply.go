package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
)

// State is the state of a step in the journal.
type State string

const (
	Planned State = "planned"
	Doing   State = "doing" // written before the step starts, so it remains after a crash
	Done    State = "done"
	Warned  State = "warned" // done, with a warning
	Broken  State = "failed"
	Skipped State = "skipped" // a step it needs has failed
)

// An Entry is one step in the journal.
type Entry struct {
	ID    string        `json:"id"`
	What  string        `json:"what"`
	State State         `json:"state"`
	Code  string        `json:"code,omitempty"`
	Error string        `json:"error,omitempty"`
	Words string        `json:"words,omitempty"` // of a program, see Warning
	Since time.Time     `json:"since,omitzero"`
	Took  time.Duration `json:"took,omitempty"` // nanoseconds
}

// A Journal records on disk how the provisioning of one VM went. It contains
// no secrets. Steps can be repeated safely without it; it serves to show what
// happened and to avoid repeating steps within the same boot.
type Journal struct {
	VMID     string    `json:"vmId"`
	Boot     string    `json:"boot"` // boot id of the last attempt
	Attempts int       `json:"attempts"`
	Started  time.Time `json:"started"` // of the last attempt
	Finished time.Time `json:"finished,omitzero"`
	Steps    []Entry   `json:"steps"`

	root host.Root
	name string
}

// OpenJournal reads the journal of this VM or begins a new one. The journal of
// another VM and a damaged one are replaced. The state directories are made
// (0700) if they do not exist. An error has CodeState.
func (m *Machine) OpenJournal() (*Journal, error) {
	r, o, vmID := m.Root, m.Options, m.VM.ID
	for _, dir := range []string{o.Lib, o.Dir()} {
		if err := r.MkdirAll(dir, 0o700); err != nil {
			return nil, fail(CodeState, "failed to write state", err)
		}
	}
	j := &Journal{}
	name := path.Join(o.Dir(), "provision.json")
	b, err := r.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fail(CodeState, "failed to read state", err)
	}
	if err != nil || json.Unmarshal(b, j) != nil || !SameVM(j.VMID, vmID) {
		j = &Journal{VMID: vmID}
	}
	if boot := r.BootID(); boot == "" || boot != j.Boot {
		j.Boot = boot
		// In another boot, steps that were done are repeated, because a power
		// cut may have undone them. With the marker, which is synced after all
		// of them, nothing needs to be repeated.
		if st, err := m.Stand(); err == nil && st == Provisioned {
			j.root, j.name = r, name
			return j, nil
		}
		for i := range j.Steps {
			if s := &j.Steps[i]; s.State == Done || s.State == Warned {
				s.State = Planned
			}
		}
	}
	j.root, j.name = r, name
	return j, nil
}

// save replaces the file by rename. It is not synced: a crash of the process
// does not lose it, and after a power cut it is not relied on.
func (j *Journal) save() error {
	b, err := json.MarshalIndent(j, "", " ")
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := j.root.WriteFileLazy(j.name, append(b, '\n'), 0o600); err != nil {
		return fail(CodeState, "failed to write state", err)
	}
	return nil
}

func (j *Journal) entry(id string) *Entry {
	i := slices.IndexFunc(j.Steps, func(e Entry) bool { return e.ID == id })
	if i < 0 {
		j.Steps = append(j.Steps, Entry{ID: id})
		i = len(j.Steps) - 1
	}
	return &j.Steps[i]
}

// A Progress is passed to the observer at every change of a step's state.
type Progress struct {
	Step  Step
	State State
	Err   error
	Took  time.Duration
}

// An Observer watches Apply. Doing is reported before the step and with the
// journal on disk; Planned (the second time) right after the step and before
// the journal is written; then Done, Warned or Broken, with the journal on
// disk. Tests end the process in it.
type Observer func(Progress)

// Result is the result of Apply.
type Result struct {
	Warnings []*Warning
	Entries  []Entry
	Took     time.Duration
}

// stepTimeout bounds a single step; the caller's context bounds the whole run.
const stepTimeout = 2 * time.Minute

// Apply applies the steps in order. A step that fails does not stop the
// others, except those that need it. What its failure means depends on its
// role, see roleOf: a warning, or part of the *Failed that is returned.
// Late steps, applied in a second call, have a longer time limit.
func (m *Machine) Apply(ctx context.Context, steps []Step, j *Journal, observe Observer) (Result, error) {
	start := time.Now()
	if observe == nil {
		observe = func(Progress) {}
	}
	j.Attempts++
	j.Started = start.UTC()
	j.Finished = time.Time{}
	for _, s := range steps {
		if e := j.entry(s.ID()); e.What != s.String() || e.State == "" {
			*e = Entry{ID: s.ID(), What: s.String(), State: Planned}
		}
	}
	startHostKeys(m, steps)
	for _, e := range j.Steps {
		// An interrupted attempt may have changed sshd's keys or configuration
		// without telling sshd.
		if (e.ID == StepHostKeys || e.ID == StepSSHD) && e.State != Planned {
			m.sshdChanged = bootClock()
		}
	}
	r := run{m: m, j: j, observe: observe, broken: map[string]bool{}}
	for _, s := range steps {
		if slices.Contains(needs(s.ID()), "*") {
			r.settleDoors()
		}
		err := context.Cause(ctx)
		if err == nil {
			err = r.apply(ctx, s)
		}
		r.record(s, err)
		if ctx.Err() != nil && err != nil {
			break
		}
	}
	r.settleDoors()
	if len(r.failed.Errors) == 0 {
		j.Finished = time.Now().UTC()
	}
	err := r.save()
	res := Result{Warnings: r.warnings, Entries: slices.Clone(j.Steps), Took: time.Since(start)}
	if len(r.failed.Errors) > 0 {
		return res, &r.failed
	}
	return res, err
}

// A run is one call of Apply.
type run struct {
	m       *Machine
	j       *Journal
	observe Observer

	warnings []*Warning
	failed   Failed
	broken   map[string]bool // steps that failed, by id; "*": some step
	closed   []doorFailure
	open     bool // a door step has succeeded
	marked   bool // the marker is on disk
}

type doorFailure struct {
	id  string
	err *Error
}

// record enters the outcome of a step.
func (r *run) record(s Step, err error) {
	if w, ok := errors.AsType[*Warning](err); ok {
		r.warnings = append(r.warnings, w)
		err = nil
	}
	switch {
	case err == nil:
		r.open = r.open || roleOf(s) == door
		return
	case errors.Is(err, errSkipped):
		r.broken[s.ID()] = true
		return
	}
	r.broken[s.ID()] = true
	e := asError(s, err)
	if roleOf(s) == door {
		r.closed = append(r.closed, doorFailure{s.ID(), e})
		return
	}
	r.broken["*"] = true
	r.failed.Errors = append(r.failed.Errors, e)
}

// asError gives an error without a code one.
func asError(s Step, err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	e := &Error{ID: CodeInternal, Reason: "unhandled error", Err: fmt.Errorf("%s: %w", s, err)}
	if errors.Is(err, context.DeadlineExceeded) {
		e.ID, e.Reason = CodeTimeout, "operation timed out"
	}
	return e
}

// settleDoors decides, when all doors have been tried, what the closed ones
// mean.
func (r *run) settleDoors() {
	for _, d := range r.closed {
		if !r.open {
			r.broken["*"] = true
			r.failed.Errors = append(r.failed.Errors, d.err)
			continue
		}
		r.warnings = append(r.warnings, &Warning{ID: d.err.ID, Err: d.err})
		r.j.entry(d.id).State = Warned
	}
	r.closed = nil
}

var errSkipped = errors.New("skipped")

// apply applies one step, unless it is done already or a step that it needs has
// failed. The failure of a side step is returned as a *Warning.
func (r *run) apply(ctx context.Context, s Step) error {
	m, j, observe := r.m, r.j, r.observe
	e := j.entry(s.ID())
	for _, need := range needs(s.ID()) {
		if r.broken[need] {
			e.State, e.Since = Skipped, time.Now().UTC()
			observe(Progress{Step: s, State: Skipped})
			return errSkipped
		}
	}
	if e.State == Done && j.Boot != "" && s.ID() != StepLogin { // judgements are about now
		return nil
	}
	begin := time.Now()
	e.State, e.Since, e.Code, e.Error, e.Words = Doing, begin.UTC(), "", "", ""
	if err := j.save(); err != nil {
		return err
	}
	observe(Progress{Step: s, State: Doing})
	limit := stepTimeout
	if Late(s) {
		limit = 2 * time.Hour
	}
	sctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: not finished after %v: %w", s, limit, context.DeadlineExceeded))
	err := s.Apply(sctx, m)
	cancel()
	if err != nil && roleOf(s) == side && context.Cause(ctx) == nil {
		if _, ok := errors.AsType[*Warning](err); !ok {
			f := asError(s, err)
			err = &Warning{ID: f.ID, Err: f}
		}
	}
	observe(Progress{Step: s, State: Planned})
	e.Took = time.Since(begin)
	e.State = Done
	if err != nil {
		e.State, e.Code, e.Error = Broken, CodeOf(err), err.Error()
		if w, ok := errors.AsType[*Warning](err); ok {
			e.State, e.Words = Warned, w.Words
		}
	}
	m.Events.Emit(event.Event{
		Kind: event.Operation, Time: begin.UTC(), Op: "Provision", OK: e.State == Done || e.State == Warned,
		Message: s.String() + errText(err), Duration: e.Took,
	})
	r.marked = r.marked || s.ID() == StepMarker && err == nil
	if serr := r.save(); serr != nil {
		return errors.Join(serr, err)
	}
	observe(Progress{Step: s, State: e.State, Err: err, Took: e.Took})
	return err
}

// save writes the journal. Once the marker is written, a journal that cannot be
// written does not make a failure of what the next start takes for done.
func (r *run) save() error {
	err := r.j.save()
	if err != nil && r.marked {
		r.m.Log.Warn().Err(err).Msg("journal not written, the machine is provisioned nevertheless")
		return nil
	}
	return err
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

// startHostKeys starts to generate host keys, which is slow, before the first
// step.
func startHostKeys(m *Machine, steps []Step) {
	for _, s := range steps {
		hk, ok := s.(HostKeys)
		if !ok || hk.Late || !hk.Regenerate {
			continue
		}
		if m.HostKeys == nil {
			m.HostKeys = MakeHostKeys(hk.Types)
		}
		for _, t := range hk.Types {
			if !slices.Contains(hk.MayWait, t) {
				m.HostKeys.begin(t)
			}
		}
	}
}

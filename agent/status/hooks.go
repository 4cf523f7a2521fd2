package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// Hooks is what became of the administrator's scripts for events. It is absent
// while they are switched off.
type Hooks struct {
	Acknowledge string    `json:"acknowledge"` // success, deadline, never
	Runs        []HookRun `json:"runs,omitempty"`
}

// A HookRun is one event with the scripts that ran for it. It is also the record
// that the agent keeps on disk, in a file that only root can read.
type HookRun struct {
	// Key names the record: that of a scheduled event begins with EventKey, that of
	// a trial with TrialKey. The others have the name of their hook and the id of
	// the boot, or of the event that is over.
	Key  string    `json:"key"`
	Hook string    `json:"hook"` // startup, shutdown, freeze, …
	VM   string    `json:"vm_id,omitempty"`
	Boot string    `json:"boot_id,omitempty"` // when the event was seen
	Seen time.Time `json:"seen"`
	// ClockAheadS is how many seconds the clock that Seen is from was ahead of the
	// platform's then, 0 if that was not known.
	ClockAheadS int `json:"clock_ahead_s,omitempty"`

	Ended   time.Time    `json:"ended,omitzero"` // zero: something is left to do
	Scripts []HookScript `json:"scripts,omitempty"`
	Refused string       `json:"refused,omitempty" see:"line"` // why none of the directory's scripts can be run
	Event   *HookEvent   `json:"event,omitempty"`
	Ack     *HookAck     `json:"ack,omitempty"`
}

// Beginnings of the Key of a HookRun.
const (
	EventKey = "event-" // and the id of the event in lower case
	TrialKey = "run-"   // and the name of the hook and a number
)

// States of a HookScript.
const (
	HookPending     = "pending"
	HookRunning     = "running"
	HookOK          = "ok"
	HookFailed      = "failed"      // with an exit status other than 0, or it could not be started
	HookTimeout     = "timeout"     // ended at its time limit
	HookInterrupted = "interrupted" // its result is not known; it is not repeated
	HookSkipped     = "skipped"     // not started, because it was too late
	HookRefused     = "refused"     // not started, because others can change the file
)

// A HookScript is one script of a run.
type HookScript struct {
	Name     string    `json:"name"` // as Go writes a string if it is not an ordinary name
	State    string    `json:"state"`
	Job      string    `json:"job,omitempty"`
	Boot     string    `json:"boot_id,omitempty"` // when it was started
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	TimeoutS float64   `json:"timeout_s,omitempty"`
	Exit     int       `json:"exit"` // exit status; -1 if there is none
	Signal   string    `json:"signal,omitempty"`
	Error    string    `json:"error,omitempty" see:"line"`
	Code     string    `json:"code,omitempty"`
	Dir      string    `json:"dir,omitempty"` // has its output, for root
}

// A HookEvent is a scheduled event of the platform.
type HookEvent struct {
	ID          string    `json:"id"`
	Type        string    `json:"type"`
	Status      string    `json:"status"` // Scheduled, Started
	NotBefore   time.Time `json:"not_before,omitzero"`
	Source      string    `json:"source,omitempty"`
	Description string    `json:"description,omitempty" see:"line"`
	DurationS   int       `json:"duration_s"` // -1: not known
	Resources   []string  `json:"resources,omitempty"`
	Here        bool      `json:"here"`              // this machine is among the resources
	Gone        time.Time `json:"gone,omitzero"`     // when it was no longer in the document
	Outcome     string    `json:"outcome,omitempty"` // Outcome*, once it is gone
}

// How a scheduled event ended.
const (
	OutcomeCompleted = "completed"
	OutcomeCancelled = "cancelled" // it was withdrawn before its time
	OutcomeOver      = "over"      // whether it has happened is not known, as after an acknowledgement or a restart
)

// A HookAck says whether the event was acknowledged, and why or why not.
type HookAck struct {
	State string    `json:"state"` // sent, failed, none
	At    time.Time `json:"at,omitzero"`
	Why   string    `json:"why" see:"line"`
}

// States of a HookAck.
const (
	AckSent   = "sent"
	AckFailed = "failed"
	AckNone   = "none"
)

// Empty reports whether there was neither an event nor a script.
func (r HookRun) Empty() bool { return r.Event == nil && len(r.Scripts) == 0 && r.Refused == "" }

// Foreign reports whether the run is that of an event that is about other
// machines only.
func (r HookRun) Foreign() bool {
	return r.Announced() && !r.Event.Here
}

// Announced reports whether the run is that of an event which the platform has
// announced.
func (r HookRun) Announced() bool { return r.Event != nil && strings.HasPrefix(r.Key, EventKey) }

// Trial reports whether somebody tried the scripts (azguest hooks run).
func (r HookRun) Trial() bool { return strings.HasPrefix(r.Key, TrialKey) }

// Failed reports whether a script of the run did not do its work, with the code
// of the first one.
func (r HookRun) Failed() (code string, failed bool) {
	if r.Refused != "" {
		return "AZ-HOOK-FILE", true
	}
	for _, s := range r.Scripts {
		if s.Code != "" {
			return s.Code, true
		}
	}
	return "", false
}

// HookDir is where the agent keeps the records of hooks, below Lib.Dir.
const HookDir = "azguest/hooks"

// maxHookRuns bounds the number of records that are read, maxHookRun the size of
// each.
const (
	maxHookRuns = 400
	maxHookRun  = 1 << 20
)

// LoadHookRuns reads all records in the order in which their events were seen.
// One that cannot be read is left out; the error names it.
func LoadHookRuns(root host.Root, lib string) ([]HookRun, error) {
	dir := path.Join(lib, HookDir, "runs")
	d, err := root.OpenDir(dir, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, _, err := d.Names(maxHookRuns)
	errs := []error{err, d.Close()}
	var out []HookRun
	for _, n := range names {
		key, is := strings.CutSuffix(n, ".json")
		if !is || strings.HasPrefix(n, ".") {
			continue
		}
		b, err := root.ReadBounded(path.Join(dir, n), maxHookRun)
		var r HookRun
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err == nil && r.Key != key {
			err = errors.New("it is the record of another event")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read record %s: %w", n, err))
			continue
		}
		out = append(out, r)
	}
	slices.SortStableFunc(out, func(a, b HookRun) int { return a.Seen.Compare(b.Seen) })
	return out, errors.Join(errs...)
}

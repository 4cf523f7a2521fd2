package plan

import (
	"cmp"
	"maps"
	"slices"
)

// A Task is one step for one version of a handler.
type Task struct {
	Op      Op     `json:"op"`
	Version string `json:"version"`       // whose package is used
	Ext     string `json:"ext,omitempty"` // the extension to enable or disable, for multi-config
	// From and To are the old and the new version, during a version change.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Skip means that the state changes but no command runs (an install, if
	// the manifest asks for update without install).
	Skip    bool    `json:"skip,omitempty"`
	Why     string  `json:"why,omitempty"` // for logs and operators; not used in decisions
	Purpose Purpose `json:"for,omitempty"` // only of a disable
}

// A Purpose is what a disable is part of, if that changes how its end is
// handled.
type Purpose string

// The purposes. A disable without one just leaves the extension disabled.
const (
	ForDelete    Purpose = "delete"    // of one extension of a multi-config handler
	ForUninstall Purpose = "uninstall" // of the handler
)

// Wish is what the platform wants of one handler, with its version decided.
type Wish struct {
	Name    string
	Version string
	Enable  bool // false: disable or, if Gone, uninstall
	Gone    bool
	Multi   bool
	Exts    []ExtWish // in the order in which they are to be enabled
}

// ExtWish is one extension of a Wish; Name is "" for single-config.
type ExtWish struct {
	Name    string
	Seq     int
	Hash    string // of version, sequence number and public settings
	Disable bool   // a multi-config extension to be deleted
	Force   string // if not "", run it again for this reason
}

// A Fact has what the decision depends on for one version of a handler on disk,
// from its record and its manifest.
type Fact struct {
	Version string
	State   State
	Multi   bool
	Change  *Change            // progress of a version change to this version
	Exts    map[string]ExtFact // by name, "" for single-config
	// FailKey is the goal state, and FailBoot the boot, in which an operation
	// of the handler failed. It is not tried again as long as both are current.
	FailKey, FailBoot string

	NoInstallOnUpdate bool // manifest: no install after an update
}

// An ExtFact is one extension of a handler version. It is part of the record on
// disk.
type ExtFact struct {
	Enabled bool   `json:"enabled,omitempty"`
	Seq     int    `json:"seq"`
	Hash    string `json:"hash,omitempty"` // of the settings last tried
	// Boot and Agent are the boot and the agent version of the last try.
	Boot  string `json:"boot,omitempty"`
	Agent string `json:"agent,omitempty"`
	Start string `json:"start,omitempty"` // start of the agent, if Now.Start is used
	// FailKey is the goal state in which it failed; "" if it did not.
	FailKey string `json:"failKey,omitempty"`
}

// Now is the current goal state, boot and agent version.
type Now struct {
	Key, Boot, Agent string
	// Start identifies this start of the agent if everything is to be enabled
	// once per start, as WALinuxAgent does. Otherwise it is "".
	Start string
}

// For returns the remaining tasks for one handler, in order. It is a pure
// function and is called again after every task, so it needs no special cases
// for crashes, failures or new goal states. The result is empty if nothing is
// left to do, or if the handler failed and is not tried again in this goal
// state.
func For(w Wish, have []Fact, now Now) []Task {
	have = slices.Clone(have)
	slices.SortFunc(have, func(a, b Fact) int { return CompareVersions(b.Version, a.Version) })
	switch {
	case w.Gone:
		return planGone(have, now)
	case !w.Enable:
		return planDisabled(have, now)
	}
	return planEnabled(w, have, now)
}

// blocked reports whether the handler has already failed in this goal state and
// boot.
func (f Fact) blocked(now Now) bool {
	return f.FailKey != "" && f.FailKey == now.Key && f.FailBoot == now.Boot
}

func planGone(have []Fact, now Now) []Task {
	var tasks []Task
	for _, f := range have {
		// A failed disable is not repeated and does not prevent the uninstall
		// (extensions/SPEC.md §10.9).
		if f.State == Enabled && !f.blocked(now) {
			tasks = append(tasks, disableAll(f, Task{Why: "uninstall", Purpose: ForUninstall})...)
		}
		switch f.State {
		case Installed, Enabled, Disabled, Broken:
			tasks = append(tasks, Task{Op: Uninstall, Version: f.Version, Why: "uninstall"})
		case Absent, Fetched:
			tasks = append(tasks, Task{Op: Remove, Version: f.Version, Why: "uninstall"})
		}
	}
	return tasks
}

func planDisabled(have []Fact, now Now) []Task {
	var tasks []Task
	for _, f := range have {
		if f.State == Enabled && !f.blocked(now) {
			tasks = append(tasks, disableAll(f, Task{Why: "disable"})...)
		}
	}
	return tasks
}

// disableAll returns a disable for the handler or, for multi-config, for each
// of its enabled extensions. Other fields are copied from like.
func disableAll(f Fact, like Task) []Task {
	like.Op, like.Version = Disable, f.Version
	if like.To != "" {
		like.From = f.Version
	}
	names := f.EnabledNames()
	if !f.Multi || len(names) == 0 {
		return []Task{like}
	}
	tasks := make([]Task, len(names))
	for i, name := range names {
		tasks[i] = like
		tasks[i].Ext = name
	}
	return tasks
}

func planEnabled(w Wish, have []Fact, now Now) []Task {
	target := Fact{Version: w.Version, State: Absent}
	var old *Fact
	for i, f := range have {
		switch {
		case f.Version == w.Version:
			target = f
		case old == nil && f.State.Installed():
			old = &have[i]
		}
	}
	if target.blocked(now) {
		return nil
	}
	var tasks []Task
	fresh := !target.State.Installed()
	if fresh {
		why := "not installed"
		if old != nil {
			why = "version " + old.Version + " → " + w.Version
		}
		if target.State != Fetched {
			tasks = append(tasks, Task{Op: Fetch, Version: w.Version, Why: why})
		}
		noInstall := false
		if old != nil {
			tasks = append(tasks, planChange(target, *old, why)...)
			noInstall = target.NoInstallOnUpdate
		} else if target.Change != nil && target.Change.Updated {
			noInstall = target.NoInstallOnUpdate
		}
		tasks = append(tasks, Task{Op: Install, Version: w.Version, Skip: noInstall, Why: why})
	}
	tasks = append(tasks, planExts(w, target, fresh, now)...)
	// Superseded versions are removed last and without commands: an uninstall
	// now could break what the new version has just set up.
	for _, f := range have {
		if f.Version != w.Version && (old == nil || f.Version != old.Version || !fresh) {
			tasks = append(tasks, Task{Op: Remove, Version: f.Version, Why: "superseded by " + w.Version})
		}
	}
	return tasks
}

// planChange returns the tasks of a version change between fetching the new
// package and installing it (extensions/SPEC.md §10.5).
func planChange(target, old Fact, why string) []Task {
	var ch Change
	if target.Change != nil && target.Change.From == old.Version {
		ch = *target.Change
	}
	var tasks []Task
	if old.State == Enabled && !ch.Disabled {
		for _, t := range disableAll(old, Task{To: target.Version, Why: why}) {
			if _, done := ch.DisableCodes[t.Ext]; !done {
				tasks = append(tasks, t)
			}
		}
	}
	if !ch.Copied {
		tasks = append(tasks, Task{Op: Copy, Version: target.Version, From: old.Version, To: target.Version, Why: why})
	}
	if !ch.Updated {
		// An upgrade runs the new package's update, a downgrade the old one's.
		runner := target.Version
		if CompareVersions(target.Version, old.Version) < 0 {
			runner = old.Version
		}
		tasks = append(tasks, Task{Op: Update, Version: runner, From: old.Version, To: target.Version, Why: why})
	}
	return append(tasks, Task{Op: Uninstall, Version: old.Version, From: old.Version, To: target.Version, Why: why})
}

func planExts(w Wish, target Fact, fresh bool, now Now) []Task {
	var off, on []Task
	wanted := map[string]bool{}
	for _, e := range w.Exts {
		wanted[e.Name] = true
		rec, known := target.Exts[e.Name]
		if e.Disable {
			if known && rec.Enabled && !fresh {
				off = append(off, Task{Op: Disable, Version: w.Version, Ext: e.Name, Why: "deleted", Purpose: ForDelete})
			}
			continue
		}
		if why := WhyEnable(e, target.State, rec, known, now); why != "" {
			on = append(on, Task{Op: Enable, Version: w.Version, Ext: e.Name, Why: why})
		}
	}
	return append(off, on...)
}

// WhyEnable returns why an extension has to be enabled now, or "".
//
// WALinuxAgent enables everything at each goal state and at each start. Here
// an enabled and unchanged extension is left alone (DESIGN.md, decision 9), with
// these exceptions: each is enabled once per boot, because its daemons are gone
// after a boot; once after an upgrade or change of the agent, because the
// contract may have changed; and a failed one is tried again with the next goal
// state. A restart of the agent enables nothing: handlers keep running in their
// own scopes, and an extension whose script restarts the agent would otherwise
// run for ever.
func WhyEnable(e ExtWish, state State, rec ExtFact, known bool, now Now) string {
	switch {
	case !state.Installed() || !known || rec.Hash == "" && !rec.Enabled:
		return cmp.Or(e.Force, "first enable")
	case e.Force != "":
		return e.Force
	case rec.FailKey != "" && rec.FailKey == now.Key && rec.Boot == now.Boot && rec.Hash == e.Hash:
		return ""
	case rec.Seq != e.Seq:
		return "new sequence number"
	case rec.Hash != e.Hash:
		return "new settings"
	case rec.FailKey != "" && rec.FailKey != now.Key:
		return "retry after a failure"
	case rec.Boot != now.Boot:
		return "boot"
	case rec.Agent != now.Agent:
		return "agent upgrade"
	case now.Start != "" && rec.Start != now.Start:
		return "agent start"
	case !rec.Enabled || state != Enabled:
		if rec.FailKey != "" {
			return ""
		}
		return "not enabled"
	}
	return ""
}

// EnabledNames returns the names of the enabled multi-config extensions, sorted.
func (f Fact) EnabledNames() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(f.Exts)) {
		if name != "" && f.Exts[name].Enabled {
			names = append(names, name)
		}
	}
	return names
}

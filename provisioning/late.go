package provisioning

import (
	"path"
	"slices"
)

// Late reports whether a step is applied after Ready, because it may take long
// or is not needed for a login.
func Late(s Step) bool { return s.ID() == StepLateKeys || s.ID() == StepRunData }

// Split divides a plan into the steps before and after Ready.
func Split(steps []Step) (now, later []Step) {
	for _, s := range steps {
		if Late(s) {
			later = append(later, s)
		} else {
			now = append(now, s)
		}
	}
	return now, later
}

// BeforeMarker adds a step to a plan that judges whether the machine counts as
// provisioned. The marker is the last thing that is written, so that a failure
// that is reported, or a power cut before it, is tried again by the next start
// (DESIGN.md, decision 117).
func BeforeMarker(steps []Step, judge Step) []Step {
	i := slices.IndexFunc(steps, func(s Step) bool { return s.ID() == StepMarker })
	if i < 0 {
		i = len(steps)
	}
	return slices.Insert(slices.Clone(steps), i, judge)
}

// Incomplete returns the steps of this boot's provisioning that ended with a
// warning.
func (m *Machine) Incomplete() []Entry {
	var j Journal
	if !readJSON(m.Root, path.Join(m.Options.Dir(), "provision.json"), &j) || !SameVM(j.VMID, m.VM.ID) || j.Boot != m.Root.BootID() {
		return nil
	}
	return slices.DeleteFunc(j.Steps, func(e Entry) bool { return e.State != Warned })
}

// Unfinished returns the late steps of a VM that this agent provisioned but
// whose late steps did not end, because the agent ended after Ready. It is
// cheap, and empty on every other boot.
func (m *Machine) Unfinished() []Step {
	r, o, vmID := m.Root, m.Options, m.VM.ID
	j := &Journal{}
	if !readJSON(r, path.Join(o.Dir(), "provision.json"), j) || !SameVM(j.VMID, vmID) {
		j = &Journal{}
	}
	open := func(id string) bool {
		i := slices.IndexFunc(j.Steps, func(e Entry) bool { return e.ID == id })
		return i >= 0 && (j.Steps[i].State == Planned || j.Steps[i].State == Doing)
	}
	var out []Step
	var led hostKeyLedger
	name := path.Join(o.Dir(), "hostkeys.json")
	if readJSON(r, name, &led) && SameVM(led.VMID, vmID) {
		missing := func(t string) bool { return led.Keys[t] == "" }
		if slices.ContainsFunc(led.Want, missing) || open(StepLateKeys) {
			out = append(out, HostKeys{Dir: o.SSHDir, Types: led.Want, Late: true, Regenerate: o.RegenerateHostKeys, Elsewhere: sortedKeys(led.Elsewhere), VMID: vmID, Ledger: name})
		}
	}
	file := path.Join(o.Lib, "CustomData")
	// Custom data of a VM that another agent provisioned is not run. The
	// journal is not synced and may be lost; the other two files are synced.
	accounts, err := readLedger(r, path.Join(o.Dir(), "users.json"))
	ours := j.VMID != "" || SameVM(led.VMID, vmID) || err == nil && SameVM(accounts.VMID, vmID)
	if o.ExecuteCustomData && r.Exists(file) && ours && (open(StepRunData) || !r.Exists(path.Join(o.Dir(), startedName))) {
		out = append(out, RunCustomData{File: file, Dir: o.Dir(), VMID: vmID})
	}
	return out
}

package provisioning

import (
	"path"
	"slices"
)

// Late reports whether a step is for after Ready: it may take long, or
// nobody waits for it.
func Late(s Step) bool { return s.ID() == StepLateKeys || s.ID() == StepRunData }

// Split parts a plan into what comes before Ready and what comes after it.
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

// Unfinished returns the late steps of a VM that was provisioned by us and
// whose agent ended between Ready and the end of them. It is cheap, and
// empty on every boot but that one.
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
			out = append(out, HostKeys{Dir: o.SSHDir, Types: led.Want, Late: true, Regenerate: o.RegenerateHostKeys, VMID: vmID, Ledger: name})
		}
	}
	file := path.Join(o.Lib, "CustomData")
	// The custom data of another agent's first boot are not ours to run. The
	// journal is not synced, and may be gone; the other two are.
	accounts, err := readLedger(r, path.Join(o.Dir(), "users.json"))
	ours := j.VMID != "" || SameVM(led.VMID, vmID) || err == nil && SameVM(accounts.VMID, vmID)
	if o.ExecuteCustomData && r.Exists(file) && ours && (open(StepRunData) || !r.Exists(path.Join(o.Dir(), startedName))) {
		out = append(out, RunCustomData{File: file, Dir: o.Dir(), VMID: vmID})
	}
	return out
}

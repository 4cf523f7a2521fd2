package extensions

import (
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
)

// A Detail is one row of the report with all details for operators. Package
// agent maps it to the snapshot of agentctl.
type Detail struct {
	Name, Config, Version string
	Seq                   int // -1 without settings
	Desired               string
	Actual                plan.State
	Phase                 plan.Op // operation that is running, or ""
	BlockedBy             string
	Overdue               string // of a command that should have ended: why it has not, and what the agent does

	Ready   string // handler status as reported
	Code    int
	Status  string // extension status as reported
	Message string

	Started, Finished, Deadline time.Time
	Attempts                    int
	Exit                        *job.Result
	Cause                       string // stable code of what is wrong with the row, or ""
	WhyRan                      string
	StdoutTail, StderrTail      string // root only; up to 4 KiB each
	StdoutPath, StderrPath      string
	LastOutput                  time.Time

	PID       int
	Scope     string
	LogDir    string
	Notes     []string // codes of notes that are not failures
	Installed time.Time
	Digest    string
	Signer    string
}

// Details returns what agentctl shows: one entry per row, with the command that
// is running or ran last.
func (m *Manager) Details() []Detail {
	m.mu.Lock()
	v := m.view
	m.mu.Unlock()
	var out []Detail
	for _, r := range v.rows(&m.files) {
		q := r.pair
		// Do not show an extension whose removal is finished, although it is
		// still in the goal state.
		if r.none && (len(v.handlers) == 0 || !q.enable && v.handlers[strings.ToLower(q.handler.Name)].busy == nil) {
			continue
		}
		d := Detail{
			Name: q.handler.Name, Config: q.ext, Version: r.status.Version, Seq: q.seq, Desired: string(q.handler.Want),
			Actual: r.rec.State, BlockedBy: r.waits, Ready: r.status.Status, Code: r.status.Code, Cause: r.cause,
			LogDir: m.store.LogDir(q.handler.Name), Installed: r.rec.Installed, Digest: r.rec.Digest, Signer: r.rec.Signer,
		}
		if m.refused.has(q.handler.Name) {
			d.Notes = append(d.Notes, codeLogFolder)
		}
		if q.bare {
			d.Seq = -1
		}
		if !q.enable && q.handler.Want == "enabled" {
			d.Desired = "disabled"
		}
		if d.Actual == "" {
			d.Actual = plan.Absent
		}
		if r.status.Message != nil {
			d.Message = *r.status.Message
		}
		if e := r.status.Extension; e != nil {
			d.Status = e.Status
			if e.Message != nil {
				d.Message = *e.Message
			}
		}
		if v.pass != nil && v.pass.gate != "" {
			d.BlockedBy = v.pass.gate
		}
		e := r.rec.Exts[q.ext]
		d.Attempts = e.Attempts
		last := e.Last
		if r.rec.Last != nil && (last == nil || r.rec.Last.Finished.After(last.Finished)) {
			last = r.rec.Last
		}
		id := ""
		if last != nil {
			res := last.Result
			d.Started, d.Finished, d.Exit, d.WhyRan, id = last.Started, last.Finished, &res, last.Why, last.Job
		}
		for _, o := range v.handlers[strings.ToLower(q.handler.Name)].recs {
			if o.Doing != nil && (o.Doing.Task.Ext == "" || o.Doing.Task.Ext == q.ext) {
				d.Phase, d.Started, d.Deadline, d.WhyRan, id = o.Doing.Task.Op, o.Doing.Started, o.Doing.Deadline, o.Doing.Task.Why, o.Doing.Job
				d.Finished, d.Exit = time.Time{}, nil
				d.Overdue = v.overdue(v.handlers[strings.ToLower(q.handler.Name)])
			}
		}
		if b := v.handlers[strings.ToLower(q.handler.Name)].busy; b != nil && d.Phase == "" {
			d.Phase = b.Op
		}
		m.output(&d, id)
		out = append(out, d)
	}
	return out
}

// output adds what the directory of a job has: output, process and scope.
func (m *Manager) output(d *Detail, id string) {
	if id == "" {
		return
	}
	dir := m.store.JobDir(id)
	d.StdoutPath, d.StderrPath = dir+"/"+job.Stdout, dir+"/"+job.Stderr
	d.StdoutTail, d.StderrTail = handler.Tail(d.StdoutPath, 4096), handler.Tail(d.StderrPath, 4096)
	for _, p := range []string{d.StdoutPath, d.StderrPath} {
		if s, ok := store.StampOf(p); ok && s.Size > 0 {
			if t := time.Unix(s.Mtime.Unix()); t.After(d.LastOutput) {
				d.LastOutput = t.UTC()
			}
		}
	}
	if st, ok := job.StateOf(dir); ok && d.Phase != "" {
		d.PID, d.Scope = st.Child, st.Scope
	}
}

package agent

import (
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/policy"
)

// fill completes a copy of the live status with the state that other parts
// keep.
func (a *Agent) fill(s *status.Snapshot) {
	a.fillEndpoints(s)
	a.fillExtensions(s)
	a.fillTelemetry(&s.Telemetry)
	s.AuditSeq = a.ext.AuditSeq()
	s.Hold = nil
	if h, on := a.hold.now(); on {
		s.Hold = &status.Hold{Until: h.Until, Reason: h.Reason}
	}
	p := &s.Platform
	for _, f := range a.features() {
		p.SupportedFeatures = append(p.SupportedFeatures, f.Key)
	}
	p.MissingFeatures = nil
	for _, f := range p.RequiredFeatures {
		if !slices.Contains(p.SupportedFeatures, f) {
			p.MissingFeatures = append(p.MissingFeatures, f)
		}
	}
	if p.Code == "" && len(p.MissingFeatures) > 0 {
		p.Problem = problem("AZ-PLAT-FEATURE", p.GoalState.Received)
	}
	if since := a.rep.refusedSince(); p.Code == "" && !since.IsZero() {
		p.Problem = problem("AZ-PLAT-REJECTED", since)
	}
	s.Policy.Denied = nil
	for _, e := range s.Extensions {
		if strings.HasPrefix(e.Code, "AZ-POL-") {
			s.Policy.Denied = append(s.Policy.Denied, e.Title())
		}
	}
	slices.Sort(s.Policy.Denied)
	s.Policy.Denied = slices.Compact(s.Policy.Denied)
}

func problem(code string, since time.Time) status.Problem {
	return status.Problem{Code: code, Since: since, Fix: fixOf(code)}
}

// fillExtensions adds the engine's view to a snapshot.
func (a *Agent) fillExtensions(s *status.Snapshot) {
	s.Extensions = []status.Extension{}
	for _, d := range a.ext.Details() {
		e := extension(d)
		if e.Unit != "" {
			e.Limits, e.ThrottledS = limits(cgroup.LimitsOf(e.Unit))
		}
		e.Requester = a.requesters.by(d)
		s.Extensions = append(s.Extensions, e)
	}
	a.rep.date(s.Extensions)
}

// date sets Since of problems that are not the failure of a command: to the
// time at which they were first seen.
func (r *reports) date(exts []status.Extension) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]time.Time{}
	for i := range exts {
		e := &exts[i]
		if e.Code == "" {
			continue
		}
		key := e.Title() + " " + e.Code
		if seen[key] = r.seen[key]; seen[key].IsZero() {
			seen[key] = time.Now().UTC()
		}
		if e.Since.IsZero() {
			e.Since = seen[key]
		}
	}
	r.seen = seen
}

// extension converts the engine's details of an extension.
func extension(d extensions.Detail) status.Extension {
	e := status.Extension{
		Name: d.Name, Config: d.Config, Version: d.Version, Seq: d.Seq, Desired: d.Desired, Actual: string(d.Actual), Phase: string(d.Phase),
		Status: d.Status, StatusCode: d.Code, Ready: d.Ready, Message: secret.Redact(d.Message),
		Started: d.Started, Finished: d.Finished, Deadline: d.Deadline, Attempts: d.Attempts, WhyRan: d.WhyRan, BlockedBy: d.BlockedBy, Overdue: d.Overdue,
		StdoutTail: secret.Redact(d.StdoutTail), StderrTail: secret.Redact(d.StderrTail), LastOutput: d.LastOutput, LogDir: d.LogDir,
		PID: d.PID, Unit: d.Scope, Installed: d.Installed, Digest: d.Digest, Signer: d.Signer,
	}
	e.Notes = slices.Clone(d.Notes)
	if d.Exit != nil {
		e.ThrottledS = d.Exit.Throttled.Seconds() // of the command that ended; the caller handles a running one
		if d.Exit.Slowed() {
			e.Notes = append(e.Notes, "AZ-CG-THROTTLED")
		}
		e.Exit = &status.Exit{Code: d.Exit.Code, Signal: d.Exit.Signal, Class: d.Exit.Class}
	}
	if code := extensionCode(d); code != "" {
		e.Problem = problem(code, d.Finished)
		e.Fix = strings.ReplaceAll(e.Fix, "EXTENSION", e.Name)
	}
	return e
}

// extensionCode returns the code of an extension's problem, "" if there is
// none. It comes from the engine, not from the message, which may quote a
// handler.
func extensionCode(d extensions.Detail) string {
	failed := d.Status == status.StatusError || d.Ready == "NotReady" || d.Ready == "Unresponsive"
	if d.Overdue != "" {
		return "AZ-EXT-OVERDUE"
	}
	if d.Phase != "" || d.BlockedBy != "" || !failed { // in progress, or no failure
		return ""
	}
	switch d.Cause {
	case "":
		return "AZ-EXT-REPORTED" // reported by a heartbeat or another agent: no command of ours has failed
	case "AZ-EXT-NOEXEC":
		return "AZ-EXEC-NOEXEC" // `agentctl explain` has one code for both
	}
	return d.Cause
}

func limits(l cgroup.Limits, ok bool) (*status.Limits, float64) {
	if !ok {
		return nil, 0
	}
	return &status.Limits{CPUPercent: l.CPUPercent, MemoryMax: l.MemoryMax, TasksMax: l.TasksMax}, l.Throttled.Seconds()
}

// showPolicy shows which policy is in force, as read from the files; the engine
// reads them at the same moments.
func (a *Agent) showPolicy() {
	p := status.Policy{Mode: a.cfg.Policy.Mode, Why: a.cfg.PolicyWhy()}
	files, err := policy.Files(a.Root, policy.Config{File: a.cfg.Policy.File})
	if err != nil {
		a.Log.Debug().Err(err).Msg("could not list policy files")
	}
	p.Source = strings.Join(files, ", ")
	if p.Mode != policy.Off {
		if _, refusal := a.ext.PolicyExplain("Any.Extension", "1.0", ""); refusal.Cause == fault.CausePolicyInvalid {
			p.Problem = problem(refusal.Cause, time.Now().UTC())
		}
	}
	a.live.set(func(s *status.Snapshot) {
		if s.Policy.Code == p.Code && p.Code != "" {
			p.Since = s.Policy.Since
		}
		s.Policy = p
	})
}

func (a *Agent) fillTelemetry(t *status.Telemetry) {
	if !t.Enabled {
		*t = status.Telemetry{}
		return
	}
	t.SpoolDir = a.cfg.Paths.Lib + "/events"
	t.Queued, t.Bytes = a.spool.Size()
	if t.Error != "" && t.Dropped > 0 {
		t.Problem = problem("AZ-TEL-DROPPED", t.LastAt)
	}
}

package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Judge computes the verdict from the parts; the agent stores it in Overall
// before Save. It is a pure function.
//
//	failed    provisioning failed, or a part is in state Error, or the
//	          platform has a problem and has not accepted any report yet
//	degraded  something has a code
//	starting  not provisioned, or no report accepted yet
//	healthy   else
func (s Snapshot) Judge() Overall {
	var o Overall
	failed := s.Provisioning.State == ProvFailed ||
		s.Platform.Code != "" && s.Platform.LastReport.AcceptedAt.IsZero() && s.Platform.LastHealth.AcceptedAt.IsZero() ||
		s.Firewall.State == Error || s.Disk.State == Error || s.Clock.State == Error
	for _, p := range s.Problems {
		failed = failed || p.State == Error
	}
	for _, w := range s.Worries() {
		if w.Code != "" {
			o.Codes = append(o.Codes, w.Code)
		}
	}
	slices.Sort(o.Codes)
	o.Codes = slices.Compact(o.Codes)
	switch {
	case failed:
		o.State = Failed
	case len(o.Codes) > 0:
		o.State = Degraded
	case !s.Ready():
		o.State = Starting
	default:
		o.State = Healthy
	}
	o.Line = s.line(o)
	return o
}

func (s Snapshot) line(o Overall) string {
	var parts []string
	switch o.State { //nolint:exhaustive // the default covers the others
	case Starting:
		parts = append(parts, "starting")
		if w := s.Provisioning.Waiting; w != "" {
			parts = append(parts, "waiting for "+publicText(w))
		} else if w := s.Platform.Waiting; w != "" {
			parts = append(parts, "waiting for "+publicText(w))
		}
	default:
		parts = append(parts, string(o.State))
	}
	if id := s.Platform.GoalState.ID; id != "" {
		parts = append(parts, "goal state "+id)
	}
	if n := len(s.Extensions); n > 0 {
		bad := 0
		for _, e := range s.Extensions {
			if e.Bad() {
				bad++
			}
		}
		parts = append(parts, fmt.Sprintf("%d of %d extensions ok", n-bad, n))
	}
	parts = append(parts, o.Codes...)
	return strings.Join(parts, ", ")
}

// A Worry is one problem, from any part of the snapshot.
type Worry struct {
	Problem
	What    string // "disk", "Contoso.Monitor 1.0.2", …
	Message string
}

// Worries returns everything that has a code, in the order of the screen.
func (s Snapshot) Worries() []Worry {
	var out []Worry
	add := func(p Problem, what, message string) {
		if p.Code != "" {
			out = append(out, Worry{p, what, message})
		}
	}
	add(s.Agent.Update.Problem, "update", s.Agent.Update.LastResult)
	add(s.Platform.Problem, "platform", s.Platform.LastReport.Error)
	for _, e := range s.Endpoints {
		add(e.Problem, "endpoint "+e.Name, e.LastError)
	}
	add(s.Firewall.Problem, "firewall", s.Firewall.Message)
	add(s.Disk.Problem, "disk", "")
	for _, c := range s.Certs {
		add(c.Problem, "certificate "+c.Thumbprint, c.Message)
	}
	add(s.Provisioning.Problem, "provisioning", s.Provisioning.Error)
	if l := s.Provisioning.Login; l != nil {
		for _, f := range l.Findings {
			add(f.Problem, "log-in of "+l.User, f.Evidence)
		}
	}
	add(s.Policy.Problem, "policy", strings.Join(s.Policy.Denied, ", "))
	add(s.Clock.Problem, "clock", "")
	add(s.Telemetry.Problem, "telemetry", s.Telemetry.Error)
	for _, e := range s.Extensions {
		add(e.Problem, e.Title(), e.Message)
	}
	for _, p := range s.Problems {
		add(p.Problem, p.What, p.Message)
	}
	return out
}

// Ready reports whether the machine is provisioned and the platform has
// accepted a report that said so, from this agent or from the other
// provisioner.
func (s Snapshot) Ready() bool {
	done := s.Provisioning.State == ProvDone || s.Provisioning.State == ProvDisabled
	taken := s.Platform.LastHealth.Accepted || s.Platform.LastReport.Accepted
	told := s.Platform.Health == "Ready"
	switch s.Provisioning.By {
	case ByCloudInit, ByAzureInit, ByIgnition:
		told = told || s.Platform.Health == ""
	}
	return done && taken && told
}

// Converged reports whether the machine is ready and the newest goal state is
// applied: no extension runs, waits or will be tried again.
func (s Snapshot) Converged() bool {
	g := s.Platform.GoalState
	if !s.Ready() || g.Received.IsZero() || g.Applied.Before(g.Received) {
		return false
	}
	for _, e := range s.Extensions {
		if e.Phase != "" || e.BlockedBy != "" || !e.NextRetry.IsZero() || e.Status == StatusTransitioning {
			return false
		}
	}
	return true
}

// Stale reports whether the agent has not written for so long that it must
// hang: it writes at least once a minute.
func (s Snapshot) Stale(now time.Time) bool { return now.Sub(s.WrittenAt) > 3*time.Minute }

// Title returns the name of an extension for people: with instance and version.
func (e Extension) Title() string {
	name := e.Name
	if e.Config != "" {
		name += "/" + e.Config
	}
	if e.Version != "" {
		name += " " + e.Version
	}
	return name
}

// Bad reports whether the extension has failed or has a code.
func (e Extension) Bad() bool {
	return e.Actual == ActualBroken || e.Status == StatusError || e.Code != ""
}

package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/access"
)

// loginTime bounds the check whether the person can log in: its parts have
// bounds of their own, and together they must not eat up the first boot.
const loginTime = time.Minute

// A loginStep is the last step before the marker: it examines whether the
// person can get in, and fails if nobody can and nothing could change that.
type loginStep struct {
	agent  *Agent
	in     provisioning.Input
	later  []provisioning.Step
	report access.Report
}

// ID implements provisioning.Step.
func (*loginStep) ID() string { return provisioning.StepLogin }

func (s *loginStep) String() string { return "check whether " + s.in.UserName + " can log in" }

// Apply implements provisioning.Step.
func (s *loginStep) Apply(ctx context.Context, m *provisioning.Machine) error {
	s.report = s.agent.checkLogin(ctx, m, s.in)
	return s.agent.noWayIn(m, s.report, s.later)
}

// checkLogin examines, after provisioning, whether the person can get in. What
// it finds is logged and shown.
func (a *Agent) checkLogin(ctx context.Context, m *provisioning.Machine, in provisioning.Input) access.Report {
	p := access.Person{Name: in.UserName, Key: len(in.Keys) > 0, Password: !in.Password.Empty() || in.PasswordRedacted}
	for _, k := range in.Keys {
		if k.Value != "" {
			p.Keys = append(p.Keys, k.Value)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, loginTime)
	defer cancel()
	r := access.Check(ctx, m, p, true)
	if err := access.Remember(m, p); err != nil {
		a.Log.Warn().Err(err).Msg("agentctl doctor will not check the log-in")
	}
	a.showLogin(r)
	for _, f := range r.Findings {
		a.Log.Warn().Str("code", f.Code).Str("user", p.Name).Strs("shuts", words(f.Shuts)).Str("evidence", f.Evidence).Str("fix", f.Fix).Msg("log-in checked")
	}
	return r
}

func words(ways []access.Way) []string {
	var out []string
	for _, w := range ways {
		out = append(out, string(w))
	}
	return out
}

func (a *Agent) showLogin(r access.Report) {
	l := &status.Login{At: r.At, User: r.Person.Name}
	for _, w := range slices.Concat(r.Person.Ways(), []access.Way{access.Root}) {
		l.Ways = append(l.Ways, status.LoginWay{Name: string(w), Open: r.Open(w, provisioning.FromInternet) || r.Open(w, provisioning.FromNetwork)})
	}
	for _, f := range r.Findings {
		l.Findings = append(l.Findings, status.LoginFinding{Problem: status.Problem{Code: f.Code, Since: r.At, Fix: f.Fix}, Shuts: words(f.Shuts), Evidence: f.Evidence})
	}
	a.live.set(func(s *status.Snapshot) { s.Provisioning.Login = l })
}

// noWayIn returns the failure to be reported if nobody can get in and nothing
// can open the machine later. While extensions run, VMAccess or run-command
// can, and custom data may: then Ready is reported, because a machine that is
// reported as failed gets neither.
func (a *Agent) noWayIn(m *provisioning.Machine, r access.Report, later []provisioning.Step) error {
	off, err := m.AgentDisabled()
	if !r.NoWayIn() || err == nil && !off && a.cfg.Extensions.Mode == config.ModeOn {
		return nil
	}
	if slices.ContainsFunc(later, func(s provisioning.Step) bool { return s.ID() == provisioning.StepRunData }) {
		return nil
	}
	var why []string
	for _, f := range r.Findings {
		if len(f.Shuts) > 0 {
			why = append(why, f.Code+": "+f.Evidence)
		}
	}
	return &provisioning.Error{
		ID: access.CodeNone, Reason: "nobody can log in", Data: []provisioning.Pair{{Key: "user", Value: r.Person.Name}},
		Err: fmt.Errorf("%s", strings.Join(why, "; ")), //nolint:err113 // the findings are its text
	}
}

// loginFindings checks the log-in again, for agentctl doctor.
func (a *Agent) loginFindings(ctx context.Context) []doctor.Finding {
	m := a.machine(provisioning.Identity{})
	p, ok := access.Recall(m)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, doctorLoginTime)
	defer cancel()
	r := access.Check(ctx, m, p, false)
	a.showLogin(r)
	out := make([]doctor.Finding, 0, len(r.Findings)+1)
	for _, f := range r.Findings {
		state := status.Warn
		if len(f.Shuts) > 0 || f.Code == access.CodeNone {
			state = status.Error
		}
		out = append(out, doctor.Finding{Check: doctor.LoginCheck, State: state, Code: f.Code, Evidence: f.Evidence, Fix: f.Fix})
	}
	if len(out) == 0 {
		how := strings.Join(words(p.Ways()), " and ")
		out = append(out, doctor.Finding{Check: doctor.LoginCheck, State: status.OK, Evidence: p.Name + " can log in with " + cmp.Or(how, "nothing") + " and become root"})
	}
	return out
}

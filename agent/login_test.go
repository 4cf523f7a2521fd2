package agent

import (
	"slices"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/access"
)

// TestIN1NoWayIn: provisioning fails for a machine into which nobody gets only
// if nothing could open it later.
func TestIN1NoWayIn(t *testing.T) {
	t.Parallel()
	denied := access.Finding{Code: access.CodeDenied, Shuts: []access.Way{access.Key, access.Password}, Evidence: "sshd -T: AllowUsers has deploy only"}
	keyOnly := access.Finding{Code: access.CodeKeyFile, Shuts: []access.Way{access.Key}, Evidence: "no key"}
	outside := denied
	outside.From = provisioning.FromInternet
	custom := []provisioning.Step{provisioning.RunCustomData{}}
	for _, tc := range []struct {
		name     string
		mode     string
		disabled bool
		later    []provisioning.Step
		finding  access.Finding
		fails    bool
	}{
		{"extensions may repair it", config.ModeOn, false, nil, denied, false},
		{"extensions are off", config.ModeOff, false, nil, denied, true},
		{"the agent is disabled", config.ModeOn, true, nil, denied, true},
		{"custom data may repair it", config.ModeOff, false, custom, denied, false},
		{"the password works", config.ModeOff, false, nil, keyOnly, false},
		{"a private network gets in", config.ModeOff, false, nil, outside, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := &Agent{Options: Options{Root: host.Root(t.TempDir()), Log: zerolog.Nop()}, cfg: config.Default(), live: newLiveStatus()}
			a.cfg.Extensions.Mode = tc.mode
			m := provisioning.NewMachine(&provisioning.System{Root: a.Root}, provisioning.Options{}, provisioning.Identity{})
			if tc.disabled {
				if err := a.Root.MkdirAll(m.Options.Lib, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := a.Root.WriteFile(m.Options.Lib+"/disable_agent", nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := access.Report{Person: access.Person{Name: "u", Key: true, Password: true}, Findings: []access.Finding{tc.finding}}
			err := a.noWayIn(m, r, tc.later)
			if (err != nil) != tc.fails || err != nil && provisioning.CodeOf(err) != access.CodeNone {
				t.Errorf("error %v, want one: %v", err, tc.fails)
			}
		})
	}
}

// TestIN1FindingsAreShown: in the status, among the problems and by doctor,
// also while the agent is down; the evidence, which programs of the machine
// wrote, is root's.
func TestIN1FindingsAreShown(t *testing.T) {
	t.Parallel()
	a := &Agent{live: newLiveStatus()}
	a.showLogin(access.Report{Person: access.Person{Name: "u", Key: true}, Findings: []access.Finding{
		{Code: access.CodeRoot, Shuts: []access.Way{access.Root}, Evidence: "sudo -n true: no", Fix: "visudo -c"},
	}})
	var s status.Snapshot
	a.live.update(func(have *status.Snapshot) { s = *have })
	if l := s.Provisioning.Login; l == nil || !slices.Equal(l.Ways, []status.LoginWay{{Name: "key", Open: true}, {Name: "root", Open: false}}) {
		t.Errorf("ways %+v", l)
	}
	if o := s.Judge(); !slices.Contains(o.Codes, access.CodeRoot) || o.State != status.Degraded {
		t.Errorf("verdict %+v", o)
	}
	found := slices.ContainsFunc(doctor.Run(t.Context(), doctor.Env{Root: t.TempDir(), Config: config.Default(), Snapshot: s}), func(f doctor.Finding) bool {
		return f.Check == doctor.LoginCheck && f.State == status.Error && f.Code == access.CodeRoot && f.Fix == "visudo -c"
	})
	if !found {
		t.Error("doctor does not show the finding")
	}
	public := s.Redact()
	if l := public.Provisioning.Login; l.Findings[0].Evidence != "" || l.Findings[0].Code != access.CodeRoot {
		t.Errorf("everybody reads %+v", l.Findings[0])
	}
}

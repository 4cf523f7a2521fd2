package update

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

// brief is a decision without the fields that are only copied.
type brief struct {
	Want, Requested string
	RSM             bool
	NeedManifest    bool
	Withdraw        bool
	Attempted       bool
	Plan            Plan
	Err             string // code
}

func of(d Decision) brief {
	b := brief{d.Want, d.Requested, d.RSM, d.NeedManifest, d.Withdraw, d.Attempted, d.Plan, ""}
	if d.Err != nil {
		b.Err = CodeOf(d.Err)
	}
	return b
}

func TestDecide(t *testing.T) {
	yes, no := true, false
	family := func(change func(*protocol.AgentFamily)) []protocol.AgentFamily {
		f := protocol.AgentFamily{Name: "prod", ManifestURIs: []secret.URL{secret.NewURL("https://a.example/m.xml")}}
		if change != nil {
			change(&f)
		}
		return []protocol.AgentFamily{{Name: "Prod"}, {Name: "Test", ManifestURIs: f.ManifestURIs}, f}
	}
	rsm := func(version, from string, by, enabled *bool) []protocol.AgentFamily {
		return family(func(f *protocol.AgentFamily) {
			f.Version, f.FromVersion, f.VersionByRSM, f.RSMEnabled = version, from, by, enabled
		})
	}
	manifest := func(versions ...string) *protocol.Manifest {
		m := &protocol.Manifest{}
		for _, v := range versions {
			m.Versions = append(m.Versions, protocol.PackageVersion{Version: v})
		}
		return m
	}
	bad := func(v, kind, code string, age time.Duration) map[string]Bad {
		return map[string]Bad{v: {Kind: kind, Code: code, Reason: "r", At: noon.Add(-age)}}
	}
	base := Facts{
		Rules: Rules{Mode: Channel, Family: "Prod", Versioning: true, Hotfix: 4 * time.Hour, Regular: 24 * time.Hour},
		Now:   noon, Running: "2.0.0.0", Installed: "1.0.0.0", Families: family(nil), Dice: 0.5,
	}
	at := func(h time.Duration) time.Time { return noon.Add(h * time.Hour) }
	for name, tc := range map[string]struct {
		change func(*Facts)
		want   brief
	}{
		"off":                {func(f *Facts) { f.Mode, f.Manifest = Off, manifest("9") }, brief{}},
		"distro":             {func(f *Facts) { f.Mode, f.Families = Distro, rsm("3", "", &yes, &yes) }, brief{}},
		"pinned, nowhere":    {func(f *Facts) { f.Mode = Pinned }, brief{}},
		"pinned, there":      {func(f *Facts) { f.Mode, f.Pin = Pinned, "2.0" }, brief{Requested: "2.0"}},
		"pinned, newer":      {func(f *Facts) { f.Mode, f.Pin = Pinned, "2.1" }, brief{Want: "2.1", Requested: "2.1"}},
		"pinned, older":      {func(f *Facts) { f.Mode, f.Pin = Pinned, "0.9" }, brief{Want: "0.9", Requested: "0.9"}},
		"pinned, installed":  {func(f *Facts) { f.Mode, f.Pin, f.Families = Pinned, "1.0.0.0", nil }, brief{Want: "1.0.0.0", Requested: "1.0.0.0"}},
		"pinned, no family":  {func(f *Facts) { f.Mode, f.Pin, f.Families = Pinned, "2.1", nil }, brief{Requested: "2.1", Err: codeRefused}},
		"pinned, no version": {func(f *Facts) { f.Mode, f.Pin = Pinned, "../x" }, brief{Requested: "../x", Err: codeRefused}},
		"pinned, rolled back": {func(f *Facts) {
			f.Mode, f.Pin, f.Bad = Pinned, "2.1", bad("2.1", RolledBack, codeRollback, 99*time.Hour)
		}, brief{Requested: "2.1", Err: codeRollback}},
		"pinned, platform differs": {func(f *Facts) { f.Mode, f.Pin, f.Families = Pinned, "2.1", rsm("3", "", &yes, &yes) }, brief{Want: "2.1", Requested: "2.1"}},
		"no family":                {func(f *Facts) { f.Families = family(nil)[:2] }, brief{Err: codeRefused}},
		"no family under RSM":      {func(f *Facts) { f.Families, f.RSM = nil, true }, brief{RSM: true, Err: codeRefused}},
		"manifest unknown":         {func(*Facts) {}, brief{NeedManifest: true}},
		"manifest empty":           {func(f *Facts) { f.Manifest = manifest() }, brief{}},
		"nothing newer":            {func(f *Facts) { f.Manifest = manifest("1.5", "2.0") }, brief{}},
		"plan dropped":             {func(f *Facts) { f.Manifest, f.Plan = manifest("2.0"), Plan{"2.1", noon} }, brief{}},
		"regular":                  {func(f *Facts) { f.Manifest = manifest("2.10", "2.9", "x") }, brief{Requested: "2.10", Plan: Plan{"2.10", at(12)}}},
		"hotfix":                   {func(f *Facts) { f.Manifest = manifest("2.0.0.7") }, brief{Requested: "2.0.0.7", Plan: Plan{"2.0.0.7", at(2)}}},
		"planned, not yet":         {func(f *Facts) { f.Manifest, f.Plan = manifest("2.1"), Plan{"2.1", at(1)} }, brief{Requested: "2.1", Plan: Plan{"2.1", at(1)}}},
		"planned, now":             {func(f *Facts) { f.Manifest, f.Plan = manifest("2.1"), Plan{"2.1", noon} }, brief{Want: "2.1", Requested: "2.1", Plan: Plan{"2.1", noon}}},
		"planned, overtaken":       {func(f *Facts) { f.Manifest, f.Plan = manifest("2.1", "2.2"), Plan{"2.1", noon} }, brief{Requested: "2.2", Plan: Plan{"2.2", at(12)}}},
		"initial":                  {func(f *Facts) { f.Initial, f.Manifest = true, manifest("2.1") }, brief{Want: "2.1", Requested: "2.1", Attempted: true}},
		"initial, nothing":         {func(f *Facts) { f.Initial, f.Manifest = true, manifest("1.1") }, brief{Attempted: true}},
		"Fact21 initial, RSM since ever": {func(f *Facts) {
			f.Initial, f.RSM, f.Manifest, f.Families = true, true, manifest("2.1"), rsm("2.5", "", &yes, &yes)
		}, brief{Want: "2.1", Requested: "2.1", RSM: true, Attempted: true}},
		"Fact21 initial on an RSM VM": {func(f *Facts) { f.Initial, f.Manifest, f.Families = true, manifest("2.1"), rsm("2.5", "", &yes, &yes) }, brief{Want: "2.1", Requested: "2.1", Attempted: true}},
		"rolled back": {func(f *Facts) {
			f.Manifest, f.Bad = manifest("2.0.5", "2.1"), bad("2.1", RolledBack, codeRollback, 999*time.Hour)
		}, brief{Requested: "2.1", Err: codeRollback}},
		"newer than rolled back": {func(f *Facts) {
			f.Manifest, f.Bad, f.Dice = manifest("2.1", "2.2"), bad("2.1", RolledBack, codeRollback, 0), 0
		}, brief{Want: "2.2", Requested: "2.2", Plan: Plan{"2.2", noon}}},
		"refused today": {func(f *Facts) { f.Manifest, f.Bad = manifest("2.1"), bad("2.1", Refused, codeUnsigned, time.Hour) }, brief{Requested: "2.1", Err: codeUnsigned}},
		"refused yesterday": {func(f *Facts) {
			f.Manifest, f.Bad, f.Dice = manifest("2.1"), bad("2.1", Refused, codeUnsigned, 25*time.Hour), 0
		}, brief{Want: "2.1", Requested: "2.1", Plan: Plan{"2.1", noon}}},
		"withdrawn":                     {func(f *Facts) { f.Manifest, f.Bad = manifest("2.1"), bad("2.1", Withdrawn, codeRefused, 99*time.Hour) }, brief{Requested: "2.1"}},
		"RSM begins":                    {func(f *Facts) { f.Families = rsm("2.1", "", &yes, &yes) }, brief{Want: "2.1", Requested: "2.1", RSM: true}},
		"RSM, there":                    {func(f *Facts) { f.RSM, f.Families = true, rsm("2.0.0.0", "", &yes, &yes) }, brief{Requested: "2.0.0.0", RSM: true}},
		"RSM, not chosen by RSM":        {func(f *Facts) { f.RSM, f.Families = true, rsm("2.1", "", &no, &yes) }, brief{Requested: "2.1", RSM: true}},
		"RSM, who chose missing":        {func(f *Facts) { f.RSM, f.Families = true, rsm("2.1", "", nil, &yes) }, brief{RSM: true, Err: codeRefused}},
		"RSM, version missing":          {func(f *Facts) { f.RSM, f.Families = true, rsm("", "", &yes, &yes) }, brief{RSM: true, Err: codeRefused}},
		"RSM, enabled missing":          {func(f *Facts) { f.RSM, f.Families = true, rsm("2.1", "", &yes, nil) }, brief{RSM: true, Err: codeRefused}},
		"RSM ends":                      {func(f *Facts) { f.RSM, f.Families = true, rsm("2.1", "", &yes, &no) }, brief{NeedManifest: true}},
		"never was RSM":                 {func(f *Facts) { f.Families = rsm("2.1", "", &yes, nil) }, brief{NeedManifest: true}},
		"versioning switched off":       {func(f *Facts) { f.RSM, f.Versioning, f.Families = true, false, rsm("2.1", "", &yes, &yes) }, brief{NeedManifest: true}},
		"Fact21 RSM down":               {func(f *Facts) { f.RSM, f.Families = true, rsm("1.5", "2.0.0.0", &yes, &yes) }, brief{Want: "1.5", Requested: "1.5", RSM: true, Withdraw: true}},
		"Fact21 RSM down, from missing": {func(f *Facts) { f.RSM, f.Families = true, rsm("1.5", "", &yes, &yes) }, brief{Requested: "1.5", RSM: true, Err: codeRefused}},
		"Fact21 RSM down, from another": {func(f *Facts) { f.RSM, f.Families = true, rsm("1.5", "2.0.0.1", &yes, &yes) }, brief{Requested: "1.5", RSM: true, Err: codeRefused}},
		"RSM down, configured":          {func(f *Facts) { f.RSM, f.Downgrade, f.Families = true, true, rsm("1.5", "", &yes, &yes) }, brief{Want: "1.5", Requested: "1.5", RSM: true, Withdraw: true}},
		"RSM down to the installed":     {func(f *Facts) { f.RSM, f.Families = true, rsm("1.0.0.0", "2.0.0.0", &yes, &yes) }, brief{Want: "1.0.0.0", Requested: "1.0.0.0", RSM: true, Withdraw: true}},
		"RSM below the installed":       {func(f *Facts) { f.RSM, f.Families = true, rsm("0.9", "2.0.0.0", &yes, &yes) }, brief{Requested: "0.9", RSM: true, Err: codeRefused}},
		"RSM, rolled back": {func(f *Facts) {
			f.RSM, f.Families, f.Bad = true, rsm("2.1", "", &yes, &yes), bad("2.1", RolledBack, codeRollback, 0)
		}, brief{Requested: "2.1", RSM: true, Err: codeRollback}},
		"RSM, ordered again": {func(f *Facts) {
			f.RSM, f.Families, f.Bad = true, rsm("2.1", "", &yes, &yes), bad("2.1", Withdrawn, codeRefused, 0)
		}, brief{Want: "2.1", Requested: "2.1", RSM: true}},
		"RSM, no version at all": {func(f *Facts) { f.RSM, f.Families = true, rsm("../../2.1", "", &yes, &yes) }, brief{Requested: "../../2.1", RSM: true, Err: codeRefused}},
	} {
		t.Run(name, func(t *testing.T) {
			f := base
			tc.change(&f)
			if diff := cmp.Diff(tc.want, of(Decide(f))); diff != "" {
				t.Errorf("Decide (-want +got):\n%s", diff)
			}
			if d := Decide(f); d.Want != "" && d.Err != nil {
				t.Error("Decide returns both a version and an error")
			}
		})
	}
}

// TestPAT1UpdatesSurviveASetClock: a clock that was years ahead when something
// was stored, and then is set, does not keep the agent from being updated.
func TestPAT1UpdatesSurviveASetClock(t *testing.T) {
	t.Parallel()
	ahead := noon.AddDate(9, 0, 0)
	var st State
	st.Note("2.1", errors.New("timeout"), codeFailed, "", ahead)
	if !st.Tries["2.1"].Due(noon) || st.Tries["2.1"].Due(ahead) || !st.Tries["2.1"].Due(ahead.Add(time.Minute)) {
		t.Errorf("transient failure: %+v", st.Tries)
	}
	st.Note("2.1", foreign("x"), codeForeign, "", ahead)
	if b := st.Bad["2.1"]; b.blocks(noon, false) || !b.blocks(ahead, false) {
		t.Errorf("refused: %+v", b)
	}
	f := Facts{
		Rules: Rules{Mode: Channel, Family: "Prod", Hotfix: time.Hour, Regular: 24 * time.Hour}, Dice: 0.5, Running: "2.0", Installed: "2.0", Now: ahead,
		Families: []protocol.AgentFamily{{Name: "Prod", ManifestURIs: []secret.URL{secret.NewURL("https://a.example/m.xml")}}},
		Manifest: &protocol.Manifest{Versions: []protocol.PackageVersion{{Version: "2.1"}}},
	}
	f.Plan = Decide(f).Plan
	if f.Now = noon; !Decide(f).Plan.At.Equal(noon.Add(12 * time.Hour)) {
		t.Errorf("planned %v, then %v", f.Plan.At, Decide(f).Plan.At)
	}
	if f.Plan = Decide(f).Plan; Decide(f).Plan != f.Plan {
		t.Error("planned anew each time")
	}
}

func TestWait(t *testing.T) {
	good := Moment{Now: noon, Ready: noon.Add(-time.Hour), Quiet: 5 * time.Minute, Accepted: noon.Add(-time.Minute), Heartbeat: 30 * time.Second}
	for name, tc := range map[string]struct {
		change func(*Moment)
		want   string
	}{
		"go":              {func(*Moment) {}, ""},
		"not provisioned": {func(m *Moment) { m.Ready = time.Time{} }, "provisioning"},
		"first minutes":   {func(m *Moment) { m.Ready = noon.Add(-time.Minute) }, "quiet period"},
		"extension":       {func(m *Moment) { m.Busy = []string{"P.T"} }, "P.T"},
		"never reported":  {func(m *Moment) { m.Accepted = time.Time{} }, "status report"},
		"platform away":   {func(m *Moment) { m.Accepted = noon.Add(-2 * time.Minute) }, "status report"},
		"window":          {func(m *Moment) { m.Closed = "22:00-04:30" }, "22:00-04:30"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			tc.change(&m)
			if what, got := Wait(m); (tc.want == "") != (got == "") || (what == WaitNothing) != (got == "") || !strings.Contains(got, tc.want) {
				t.Errorf("Wait = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"1.0", "1.0.0.0", 0}, {"1.2", "1.10", -1}, {"2", "1.9.9.9", 1}, {"x", "0", -1}, {"0.0.0-dev", "0.0.1", -1}, {"1.0.0-5-gabc", "1.0.0", 0}, {"a", "b", -1},
	} {
		if got := Compare(tc.a, tc.b); got != tc.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
		if got := Compare(tc.b, tc.a); got != -tc.want {
			t.Errorf("Compare(%q, %q) = %d, want %d", tc.b, tc.a, got, -tc.want)
		}
	}
	for v, want := range map[string]bool{"1.2.3.4": true, "1": true, "": false, "1.": false, "1/2": false, "..": false, "1.2-rc": false, "+1": false, strings.Repeat("1.", 40) + "1": false} {
		if got := Valid(v); got != want {
			t.Errorf("Valid(%q) = %v", v, got)
		}
	}
}

package plan

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStates compares the diagram in testdata/states.mmd with the state machine.
// With UPDATE=1 in the environment it writes the diagram.
func TestStates(t *testing.T) {
	t.Parallel()
	var lines []string
	for e, to := range after {
		lines = append(lines, fmt.Sprintf("    %s --> %s: %s", e.from, to, e.op))
	}
	for e, to := range failed {
		lines = append(lines, fmt.Sprintf("    %s --> %s: %s failed", e.from, to, e.op))
	}
	slices.Sort(lines)
	got := "stateDiagram-v2\n    [*] --> Absent\n" + strings.Join(lines, "\n") + "\n"
	const file = "testdata/states.mmd"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("states.mmd (-want +got):\n%s", diff)
	}
}

// tasksText formats a plan on one line.
func tasksText(tasks []Task) string {
	var out []string
	for _, t := range tasks {
		s := string(t.Op) + " " + t.Version
		if t.Ext != "" {
			s += "/" + t.Ext
		}
		if t.Skip {
			s += " (skip)"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

func fact(version string, s State, edit ...func(*Fact)) Fact {
	f := Fact{Version: version, State: s}
	if s == Enabled {
		f.Exts = map[string]ExtFact{"": {Enabled: true, Hash: "h", Boot: "b", Agent: "a"}}
	}
	for _, e := range edit {
		e(&f)
	}
	return f
}

// TestPlan is the table of extensions/SPEC.md §10.3 and the version change.
func TestPlan(t *testing.T) {
	t.Parallel()
	now := Now{Key: "k", Boot: "b", Agent: "a"}
	enable := Wish{Name: "P.X", Version: "2", Enable: true, Exts: []ExtWish{{Hash: "h"}}}
	goneWish := Wish{Name: "P.X", Gone: true}
	ch := func(c Change) func(*Fact) { return func(f *Fact) { f.Change = &c } }
	ext := func(e ExtFact) func(*Fact) { return func(f *Fact) { f.Exts = map[string]ExtFact{"": e} } }
	failedIn := func(key, boot string) func(*Fact) {
		return func(f *Fact) { f.FailKey, f.FailBoot = key, boot }
	}
	for _, tc := range []struct {
		name string
		w    Wish
		have []Fact
		want string
	}{
		{"fresh", enable, nil, "fetch 2, install 2, enable 2"},
		{"fetched", enable, []Fact{fact("2", Fetched)}, "install 2, enable 2"},
		{"installed", enable, []Fact{fact("2", Installed)}, "enable 2"},
		{"enabled", enable, []Fact{fact("2", Enabled)}, ""},
		{"disabled", enable, []Fact{fact("2", Disabled, ext(ExtFact{Hash: "h", Boot: "b", Agent: "a"}))}, "enable 2"},
		{"broken", enable, []Fact{fact("2", Broken)}, "fetch 2, install 2, enable 2"},
		{"broken in this goal state", enable, []Fact{fact("2", Broken, failedIn("k", "b"))}, ""},
		{"broken before the boot", enable, []Fact{fact("2", Broken, failedIn("k", "b0"))}, "fetch 2, install 2, enable 2"},
		{"new settings", enable, []Fact{fact("2", Enabled, ext(ExtFact{Enabled: true, Hash: "g", Boot: "b", Agent: "a"}))}, "enable 2"},
		{"boot", enable, []Fact{fact("2", Enabled, ext(ExtFact{Enabled: true, Hash: "h", Boot: "b0", Agent: "a"}))}, "enable 2"},
		{"agent", enable, []Fact{fact("2", Enabled, ext(ExtFact{Enabled: true, Hash: "h", Boot: "b", Agent: "a0"}))}, "enable 2"},
		{"failed here", enable, []Fact{fact("2", Installed, ext(ExtFact{Hash: "h", Boot: "b", Agent: "a", FailKey: "k"}))}, ""},
		{"failed before", enable, []Fact{fact("2", Installed, ext(ExtFact{Hash: "h", Boot: "b", Agent: "a", FailKey: "j"}))}, "enable 2"},
		{"upgrade", enable, []Fact{fact("1", Enabled)}, "fetch 2, disable 1, copy 2, update 2, uninstall 1, install 2, enable 2"},
		{"downgrade", enable, []Fact{fact("3", Enabled)}, "fetch 2, disable 3, copy 2, update 3, uninstall 3, install 2, enable 2"},
		{"upgrade of a disabled one", enable, []Fact{fact("1", Installed)}, "fetch 2, copy 2, update 2, uninstall 1, install 2, enable 2"},
		{"upgrade, disabled", enable, []Fact{fact("1", Disabled), fact("2", Fetched, ch(Change{From: "1", DisableCodes: map[string]string{"": "0"}}))}, "copy 2, update 2, uninstall 1, install 2, enable 2"},
		{"upgrade, disable forgiven", enable, []Fact{fact("1", Enabled), fact("2", Fetched, ch(Change{From: "1", DisableCodes: map[string]string{"": "7"}}))}, "copy 2, update 2, uninstall 1, install 2, enable 2"},
		{"upgrade, updated", enable, []Fact{fact("1", Disabled), fact("2", Fetched, ch(Change{From: "1", Copied: true, Updated: true}))}, "uninstall 1, install 2, enable 2"},
		{"upgrade, uninstalled", enable, []Fact{fact("2", Fetched, ch(Change{From: "1", Copied: true, Updated: true, UninstallCode: "0"}))}, "install 2, enable 2"},
		{"upgrade without install", enable, []Fact{fact("1", Disabled), fact("2", Fetched, ch(Change{From: "1", Copied: true, Updated: true}), func(f *Fact) { f.NoInstallOnUpdate = true })}, "uninstall 1, install 2 (skip), enable 2"},
		{"upgrade failed before", enable, []Fact{fact("1", Installed), fact("2", Broken)}, "fetch 2, copy 2, update 2, uninstall 1, install 2, enable 2"},
		{"downgrade failed before", enable, []Fact{fact("3", Broken)}, "fetch 2, install 2, enable 2, remove 3"},
		{"superseded", enable, []Fact{fact("2", Enabled), fact("1", Broken), fact("1.5", Fetched)}, "remove 1.5, remove 1"},
		{"uninstall enabled", goneWish, []Fact{fact("2", Enabled)}, "disable 2, uninstall 2"},
		{"uninstall, disable failed", goneWish, []Fact{fact("2", Enabled, failedIn("k", "b"))}, "uninstall 2"},
		{"uninstall installed", goneWish, []Fact{fact("2", Installed)}, "uninstall 2"},
		{"uninstall broken", goneWish, []Fact{fact("2", Broken), fact("1", Fetched)}, "uninstall 2, remove 1"},
		{"uninstall nothing", goneWish, nil, ""},
		{"disable", Wish{Name: "P.X"}, []Fact{fact("2", Enabled)}, "disable 2"},
		{"disable again", Wish{Name: "P.X"}, []Fact{fact("2", Disabled)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := tasksText(For(tc.w, tc.have, now)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

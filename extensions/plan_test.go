package extensions

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestStates draws the state machine from its table; doc and table can't
// drift apart. Write it anew with UPDATE=1.
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
		writeFile(t, file, got)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("states.mmd (-want +got):\n%s", diff)
	}
}

// tasksText is a plan on one line.
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
	enable := Wish{Name: "P.X", Version: "2", Enable: true, Exts: []WishExt{{Hash: "h"}}}
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
			if got := tasksText(Plan(tc.w, tc.have, now)); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// recordOf is a record with what the facts say.
func recordOf(f Fact) Record {
	r := Record{Name: "P.X", Version: f.Version, State: f.State, Change: f.Change}
	for name, e := range f.Exts {
		r = r.setExt(name, ExtRecord{ExtFact: e})
	}
	return r
}

// TestPlanConverges: from any state, doing the first task of the plan again
// and again comes to an end, along edges of the table only.
func TestPlanConverges(t *testing.T) {
	t.Parallel()
	states := []State{Absent, Fetched, Installed, Enabled, Disabled, Broken}
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		have := map[string]Record{}
		for _, v := range []string{"1", "2", "3"} {
			if s := states[r.IntN(len(states))]; s != Absent {
				f := fact(v, s)
				if r.IntN(2) == 0 {
					f.Change = &Change{From: fmt.Sprint(r.IntN(3) + 1), Copied: r.IntN(2) == 0, Updated: r.IntN(2) == 0}
				}
				have[v] = recordOf(f)
			}
		}
		w := Wish{Name: "P.X", Version: "2", Enable: r.IntN(3) > 0, Exts: []WishExt{{Hash: "h"}}}
		w.Gone = !w.Enable && r.IntN(2) == 0
		now := Now{Key: "k", Boot: "b", Agent: "a"}
		for step := 0; ; step++ {
			if step > 40 {
				t.Fatalf("seed %d: no end", seed)
			}
			var facts []Fact
			for _, v := range slices.Sorted(maps.Keys(have)) {
				facts = append(facts, have[v].fact())
			}
			tasks := Plan(w, facts, now)
			if len(tasks) == 0 {
				break
			}
			task := tasks[0]
			rec, ok := have[task.Version]
			if !ok {
				rec = Record{Name: "P.X", Version: task.Version, State: Absent}
			}
			if r.IntN(6) == 0 && task.Op != Uninstall && task.Op != Remove {
				rec = rec.fail(task.Op)
				rec.FailKey, rec.FailBoot, rec.Change = "k", "b", nil
				if task.To != "" && task.To != task.Version {
					n := have[task.To]
					n.FailKey, n.FailBoot, n.Change = "k", "b", nil
					have[task.To] = n
				}
				if task.Op == Enable {
					rec.FailKey = ""
					rec = rec.setExt("", ExtRecord{ExtFact: ExtFact{Hash: "h", Boot: "b", Agent: "a", FailKey: "k"}})
				}
				have[task.Version] = rec
				continue
			}
			next, err := rec.done(task.Op, task.Ext)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			c := have[task.To].changeFrom(task.From)
			switch task.Op {
			case Fetch:
				next.Change = nil
			case Copy:
				c.Copied = true
				next.Change = &c
			case Update:
				c.Updated = true
			case Enable:
				next = next.setExt("", ExtRecord{ExtFact: ExtFact{Enabled: true, Hash: "h", Boot: "b", Agent: "a"}})
			case Disable:
				c.DisableCodes = map[string]string{"": "0"}
			case Install, Uninstall, Remove:
			}
			have[task.Version] = next
			if task.To != "" && task.Op != Copy {
				n := have[task.To]
				n.Change = &c
				have[task.To] = n
			}
			if next.State == Absent {
				delete(have, task.Version)
			}
		}
		if w.Gone && len(have) > 0 {
			t.Fatalf("seed %d: uninstalled, and left is %v", seed, have)
		}
	}
}

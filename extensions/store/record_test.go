package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/azguest/azguest/extensions/plan"
)

// recordIn returns a record in a state, with one extension if it is enabled.
func recordIn(version string, s plan.State) Record {
	r := Record{Name: "P.X", Version: version, State: s}
	if s == plan.Enabled {
		r = r.SetExt("", ExtRecord{ExtFact: plan.ExtFact{Enabled: true, Hash: "h", Boot: "b", Agent: "a"}})
	}
	return r
}

// TestPlanConverges: from any state, repeatedly doing the first task of the plan
// comes to an end, and uses only transitions of the table.
func TestPlanConverges(t *testing.T) {
	t.Parallel()
	states := []plan.State{plan.Absent, plan.Fetched, plan.Installed, plan.Enabled, plan.Disabled, plan.Broken}
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		have := map[string]Record{}
		for _, v := range []string{"1", "2", "3"} {
			if s := states[r.IntN(len(states))]; s != plan.Absent {
				rec := recordIn(v, s)
				if r.IntN(2) == 0 {
					rec.Change = &plan.Change{From: fmt.Sprint(r.IntN(3) + 1), Copied: r.IntN(2) == 0, Updated: r.IntN(2) == 0}
				}
				have[v] = rec
			}
		}
		w := plan.Wish{Name: "P.X", Version: "2", Enable: r.IntN(3) > 0, Exts: []plan.ExtWish{{Hash: "h"}}}
		w.Gone = !w.Enable && r.IntN(2) == 0
		now := plan.Now{Key: "k", Boot: "b", Agent: "a"}
		for step := 0; ; step++ {
			if step > 40 {
				t.Fatalf("seed %d: the plan does not come to an end", seed)
			}
			var facts []plan.Fact
			for _, v := range slices.Sorted(maps.Keys(have)) {
				facts = append(facts, have[v].Fact())
			}
			tasks := plan.For(w, facts, now)
			if len(tasks) == 0 {
				break
			}
			task := tasks[0]
			rec, ok := have[task.Version]
			if !ok {
				rec = Record{Name: "P.X", Version: task.Version, State: plan.Absent}
			}
			if r.IntN(6) == 0 && task.Op != plan.Uninstall && task.Op != plan.Remove {
				rec = rec.Fail(task.Op)
				rec.FailKey, rec.FailBoot, rec.Change = "k", "b", nil
				if task.To != "" && task.To != task.Version {
					n := have[task.To]
					n.FailKey, n.FailBoot, n.Change = "k", "b", nil
					have[task.To] = n
				}
				if task.Op == plan.Enable {
					rec.FailKey = ""
					rec = rec.SetExt("", ExtRecord{ExtFact: plan.ExtFact{Hash: "h", Boot: "b", Agent: "a", FailKey: "k"}})
				}
				have[task.Version] = rec
				continue
			}
			next, err := rec.Done(task.Op, task.Ext)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			c := have[task.To].ChangeFrom(task.From)
			switch task.Op {
			case plan.Fetch:
				next.Change = nil
			case plan.Copy:
				c.Copied = true
				next.Change = &c
			case plan.Update:
				c.Updated = true
			case plan.Enable:
				next = next.SetExt("", ExtRecord{ExtFact: plan.ExtFact{Enabled: true, Hash: "h", Boot: "b", Agent: "a"}})
			case plan.Disable:
				c.DisableCodes = map[string]string{"": "0"}
			case plan.Install, plan.Uninstall, plan.Remove:
			}
			have[task.Version] = next
			if task.To != "" && task.Op != plan.Copy {
				n := have[task.To]
				n.Change = &c
				have[task.To] = n
			}
			if next.State == plan.Absent {
				delete(have, task.Version)
			}
		}
		if w.Gone && len(have) > 0 {
			t.Fatalf("seed %d: uninstalled, and left is %v", seed, have)
		}
	}
}

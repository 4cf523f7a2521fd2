package update

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
)

func TestBegin(t *testing.T) {
	inst := Program{Version: "1.0", Path: "/usr/sbin/azguest"}
	p := func(v string) *Program {
		return &Program{Version: v, Path: "/lib/WALinuxAgent-" + v + "/bin/azguest", SHA256: "x"}
	}
	me := Self{Program: inst, PID: 10, Ticks: 5, Boot: "b1"}
	trial := func(pid int, boot string) *Trial {
		return &Trial{ID: "t", To: *p("3.0"), From: "2.0", PID: pid, Ticks: 4, Boot: boot}
	}
	starts := func(v, boot string, ages ...time.Duration) (out []Start) {
		for _, a := range ages {
			out = append(out, Start{v, noon.Add(-a), boot})
		}
		return out
	}
	type result struct {
		Run    string // version to hand over to, "" for the installed one
		Trial  bool
		Active string
		Bad    map[string]string // kind
	}
	for name, tc := range map[string]struct {
		st        State
		mode, pin string
		alive     bool
		want      result
	}{
		"nothing":                 {State{}, Channel, "", false, result{}},
		"committed":               {State{Active: p("2.0")}, Channel, "", false, result{Run: "2.0", Active: "2.0"}},
		"committed, off":          {State{Active: p("2.0")}, Off, "", false, result{Run: "2.0", Active: "2.0"}},
		"committed, distro":       {State{Active: p("2.0"), Previous: p("1.5")}, Distro, "", false, result{}},
		"package upgraded":        {State{Active: p("1.0")}, Channel, "", false, result{}},
		"older than package":      {State{Active: p("0.9")}, Channel, "", false, result{}},
		"pinned older":            {State{Active: p("0.9")}, Pinned, "0.9", false, result{Run: "0.9", Active: "0.9"}},
		"pinned elsewhere":        {State{Active: p("2.0")}, Pinned, "3.0", false, result{Run: "2.0", Active: "2.0"}},
		"bad":                     {State{Active: p("2.0"), Bad: map[string]Bad{"2.0": {Kind: RolledBack}}}, Channel, "", false, result{Bad: map[string]string{"2.0": RolledBack}}},
		"second start":            {State{Active: p("2.0"), Starts: starts("2.0", "b1", time.Minute)}, Channel, "", false, result{Run: "2.0", Active: "2.0"}},
		"third start":             {State{Active: p("2.0"), Previous: p("1.5"), Starts: starts("2.0", "b1", 2*time.Minute, time.Minute)}, Channel, "", false, result{Run: "1.5", Active: "1.5", Bad: map[string]string{"2.0": RolledBack}}},
		"third start, none older": {State{Active: p("2.0"), Starts: starts("2.0", "b1", 2*time.Minute, time.Minute)}, Channel, "", false, result{Bad: map[string]string{"2.0": RolledBack}}},
		"slow restarts":           {State{Active: p("2.0"), Starts: starts("2.0", "b1", 9*time.Minute, 6*time.Minute)}, Channel, "", false, result{Run: "2.0", Active: "2.0"}},
		"reboots":                 {State{Active: p("2.0"), Starts: starts("2.0", "b0", 2*time.Minute, time.Minute)}, Channel, "", false, result{Run: "2.0", Active: "2.0"}},
		"trial runs":              {State{Active: p("2.0"), Trial: trial(9, "b1")}, Channel, "", true, result{Trial: true, Active: "2.0"}},
		"trial died":              {State{Active: p("2.0"), Trial: trial(9, "b1")}, Channel, "", false, result{Run: "2.0", Active: "2.0", Bad: map[string]string{"3.0": RolledBack}}},
		"trial and reboot":        {State{Active: p("2.0"), Trial: trial(9, "b0")}, Channel, "", false, result{Run: "2.0", Active: "2.0"}},
		"trial and reboot twice":  {State{Active: p("2.0"), Trial: trial(9, "b0"), Interrupted: map[string]int{"3.0": 1}}, Channel, "", false, result{Run: "2.0", Active: "2.0", Bad: map[string]string{"3.0": RolledBack}}},
		"down to the installed":   {State{Active: p("2.0"), Trial: &Trial{To: inst, PID: 10, Ticks: 5, Boot: "b1"}}, Channel, "", true, result{Trial: true, Active: "2.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			st := tc.st
			next := st.begin(me, tc.mode, tc.pin, noon, func(int, uint64) bool { return tc.alive })
			got := result{Trial: st.Trial != nil}
			if next != nil {
				got.Run = next.Version
			}
			if st.Active != nil {
				got.Active = st.Active.Version
			}
			for v, b := range st.Bad {
				if got.Bad == nil {
					got.Bad = map[string]string{}
				}
				got.Bad[v] = b.Kind
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("begin (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCommitAndNote(t *testing.T) {
	inst := Program{Version: "1.0", Path: "/usr/sbin/azguest"}
	two, three := Program{Version: "2.0", Path: "/two"}, Program{Version: "3.0", Path: "/three"}
	st := State{Installed: inst, Trial: &Trial{To: two, From: "1.0"}}
	st.commit(noon)
	st.Trial = &Trial{To: three, From: "2.0"}
	st.commit(noon)
	if *st.Active != three || *st.Previous != two {
		t.Errorf("active %v, previous %v", st.Active, st.Previous)
	}
	st.Trial = &Trial{To: two, From: "3.0", Withdraw: true}
	st.commit(noon)
	if *st.Active != two || *st.Previous != three || st.Bad["3.0"].Kind != Withdrawn {
		t.Errorf("after a downgrade: active %v, previous %v, bad %v", st.Active, st.Previous, st.Bad)
	}
	st.Trial = &Trial{To: inst, From: "2.0", Withdraw: true}
	st.commit(noon)
	if st.Active != nil || st.Previous != nil {
		t.Errorf("back to the installed: active %v", st.Active)
	}
	for i := range 12 {
		st.Note("4.0", fmt.Errorf("timeout"), codeFailed, "", noon)
		if want := min(time.Minute<<i, 24*time.Hour); i <= 10 && st.Tries["4.0"].Next != noon.Add(want) {
			t.Errorf("try %d: next after %v, want %v", i+1, st.Tries["4.0"].Next.Sub(noon), want)
		}
	}
	st.Note("4.0", unsigned("no"), codeUnsigned, "", noon)
	if st.Bad["4.0"].Kind != Refused || st.Tries["4.0"].N != 0 {
		t.Errorf("refused: %+v %+v", st.Bad["4.0"], st.Tries)
	}
	for i := range 50 {
		st.condemn(fmt.Sprintf("5.%d", i), Bad{Kind: RolledBack, At: noon.Add(time.Duration(i) * time.Second)})
	}
	if len(st.Bad) != maxBad {
		t.Errorf("%d bad versions remembered, want %d", len(st.Bad), maxBad)
	}
}

func TestStore(t *testing.T) {
	s := Store{Root: host.Root(t.TempDir()), Lib: "/var/lib/waagent"}
	if err := s.Change(func(st *State) bool { st.Last.Text = "x"; return true }); err != nil {
		t.Fatal(err)
	}
	me := Self{Program: Program{Version: "2.0"}, PID: 7, Ticks: 8, Boot: "b"}
	set := func(tr *Trial) {
		if err := s.Change(func(st *State) bool { st.Trial = tr; return true }); err != nil {
			t.Fatal(err)
		}
	}
	commits := func(me Self) bool {
		done, err := s.Commit(me)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	set(&Trial{To: Program{Version: "2.0", Path: "/two"}, PID: 7, Ticks: 8, Boot: "b"})
	for name, other := range map[string]Self{
		"another process": {Program: me.Program, PID: 8, Ticks: 8, Boot: "b"}, "reused id": {Program: me.Program, PID: 7, Ticks: 9, Boot: "b"},
		"other boot": {Program: me.Program, PID: 7, Ticks: 8, Boot: "c"}, "the old version": {Program: Program{Version: "1.0"}, PID: 7, Ticks: 8, Boot: "b"},
	} {
		if commits(other) {
			t.Errorf("%s committed the version", name)
		}
	}
	if !commits(me) || commits(me) {
		t.Error("the version on trial does not commit exactly once")
	}
	// A damaged state is lost, but the agent works.
	if err := s.Root.WriteFile(s.file(), []byte("{\"active\": 5"), 0o600); err != nil {
		t.Fatal(err)
	}
	if next, err := s.Start(Self{Program: Program{Version: "1.0", Path: "/usr/sbin/azguest"}, PID: os.Getpid(), Boot: "b"}, Channel, ""); err != nil || next != nil {
		t.Errorf("with a broken state: %v, %v", next, err)
	}
	if st, err := s.Load(); err != nil || st.Installed.Version != "1.0" {
		t.Errorf("state not repaired: %+v, %v", st, err)
	}
	fi, err := os.Stat(s.Root.Path(s.file()))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of the state: %v %v", fi, err)
	}
	if !strings.HasSuffix(s.file(), "azguest/update.json") {
		t.Errorf("state is in %s", s.file())
	}
}

// TestStartChecksProgram: a version that a power cut has damaged is not run.
func TestStartChecksProgram(t *testing.T) {
	s := Store{Root: host.Root(t.TempDir()), Lib: "/lib"}
	bin := s.Root.Path("/two")
	if err := s.Root.WriteFile("/two", []byte("good"), 0o700); err != nil {
		t.Fatal(err)
	}
	sum, err := hashFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	active := Program{Version: "2.0", Path: bin, SHA256: sum}
	if err := s.Change(func(st *State) bool { st.Active = &active; return true }); err != nil {
		t.Fatal(err)
	}
	me := Self{Program: Program{Version: "1.0", Path: "/usr/sbin/azguest"}, Boot: "b"}
	if next, err := s.Start(me, Channel, ""); err != nil || next == nil || *next != active {
		t.Fatalf("intact: %v, %v", next, err)
	}
	if next, err := s.Start(Self{Program: active, Staged: true}, Channel, ""); err != nil || next != nil {
		t.Errorf("a staged version starts another: %v, %v", next, err)
	}
	if err := s.Root.WriteFile("/two", []byte("goof"), 0o700); err != nil {
		t.Fatal(err)
	}
	if next, err := s.Start(me, Channel, ""); err != nil || next != nil {
		t.Errorf("changed: %v, %v", next, err)
	}
	if st, _ := s.Load(); st.Last.Code != codeFailed || st.Active != nil {
		t.Errorf("nothing said about it: %+v", st)
	}
}

package chaos

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine/machinetest"
)

var (
	seedFlag  = flag.Uint64("seed", givenSeed(), "seed of the run; 0 draws one, which is printed")
	minutes   = flag.Float64("minutes", 3, "how long TestFaults goes on")
	sequences = flag.Int("sequences", 20, "how many lives TestSequences has")
	only      = flag.Int("only", 0, "run only this one of the sequences")
)

func TestMain(m *testing.M) {
	machinetest.Main(m, func() {
		for _, v := range verdicts.list {
			fmt.Println("verdict:", v)
		}
	})
}

// givenSeed returns AZGUEST_SEED, with which runs can be compared.
func givenSeed() uint64 {
	n, err := strconv.ParseUint(os.Getenv("AZGUEST_SEED"), 10, 64)
	if err != nil {
		return 0 // a random seed is used
	}
	return n
}

// seed returns the seed of this run.
func seed(t *testing.T) uint64 {
	n := *seedFlag
	if n == 0 {
		n = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	t.Logf("seed %d: repeat with scripts/chaos --seed %d", n, n)
	return n
}

// play executes a step and the pause after it.
func (l *life) play(s *script, st step) (spoiled bool) {
	l.t.Helper()
	l.t.Logf("%s step %d: %s", time.Now().Format("15:04:05.000"), s.n, st.text)
	for _, w := range s.wants {
		if w.secret != "" && !slices.Contains(l.heard.list(), w.secret) {
			l.heard.expect(w.secret)
		}
	}
	before := l.kills
	if err := st.do(l); err != nil {
		l.t.Fatalf("step %d: %s: %v", s.n, st.text, err)
	}
	if err := l.AgentEnded(); err != nil {
		l.t.Fatalf("step %d: %s: %v", s.n, st.text, err)
	}
	time.Sleep(st.pause)
	// A kill that found no process spoils nothing.
	return st.spoils && (l.kills > before || strings.HasPrefix(st.text, "fault"))
}

// mend removes all faults, waits for the end of all operations, puts extensions
// again that a fault may have spoiled, and verifies the result.
func (l *life) mend(s *script, spoiled bool) {
	t := l.t
	t.Helper()
	l.Fabric.RemoveFault(0)
	l.VM.Configure(func(c *fabric.Config) { *c = fabric.Config{FastTrack: c.FastTrack, StatusBlob: c.StatusBlob} })
	began := time.Now()
	if !l.wait(patience, func() bool { return len(l.pending(append(s.names(), l.names()...))) == 0 }) {
		for _, n := range l.pending(append(s.names(), l.names()...)) {
			state, _ := l.VM.ProvisioningState(n)
			t.Errorf("%s is still %s, %v after all faults were removed", n, state, patience)
		}
		t.Errorf("meanwhile: %s", strings.Join(l.verify(s), "\n"))
		t.FailNow()
	}
	healed := time.Since(began)
	if spoiled {
		var again []string
		for _, name := range s.names() {
			state, failure := l.VM.ProvisioningState(name)
			w := s.wants[name]
			if !(s.outcome(name) != either && state != s.outcome(name)) && s.right(l, name) {
				continue
			}
			again = append(again, fmt.Sprintf("%s: %v", name, failure))
			s.n++
			w.x.ForceUpdateTag = strconv.Itoa(s.n)
			if err := l.VM.Put(w.x); err != nil {
				t.Fatal(err)
			}
		}
		for _, a := range again {
			t.Logf("        asked for again: %s", a)
		}
		l.await("what was asked for again", func() bool { return len(l.pending(s.names())) == 0 })
	}
	var wrong []string
	if !l.wait(patience, func() bool { wrong = l.verify(s); return len(wrong) == 0 }) {
		t.Fatalf("after all faults were removed:\n%s", strings.Join(wrong, "\n"))
	}
	for _, bad := range append(l.heard.takeBad(), l.spilled()...) {
		t.Error(bad)
	}
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%s well: %d extensions, %.1f s after mending, all in %.1f s", time.Now().Format("15:04:05.000"), len(s.wants), healed.Seconds(), time.Since(began).Seconds())
}

// right reports whether the status has the message of a successful run. A
// handler may succeed with another message if its certificate could not be
// fetched.
func (s *script) right(l *life, name string) bool {
	doc, _ := l.VM.StatusDocument()
	w := s.wants[name]
	return s.outcome(name) != succeeds || strings.Contains(string(doc), w.says)
}

// names are the resources of all kinds, so that deletions are awaited, too.
func (l *life) names() []string {
	var out []string
	for _, k := range kinds() {
		out = append(out, k.names...)
	}
	return out
}

// empty deletes all extensions and waits until they are gone; this is the state
// in which the agent's resources are compared.
func (l *life) empty(s *script) {
	for _, name := range s.names() {
		s.n++
		l.play(s, s.remove(name))
	}
	l.mend(s, false)
}

// A sample of the resources of the agent's process.
type sample struct{ fds, goroutines, kib int }

func (l *life) sample() sample {
	l.t.Helper()
	var out sample
	dir := fmt.Sprintf("/proc/%d", l.Agent.PID)
	// Wait for a snapshot that is newer than now; the next heartbeat writes it.
	now := time.Now()
	l.await("a fresh snapshot", func() bool {
		s, err := l.ReadStatus()
		out.goroutines = s.Agent.Goroutines
		return err == nil && s.Written.After(now)
	})
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		l.t.Fatal(err)
	}
	out.fds = len(fds)
	b, err := os.ReadFile(dir + "/status")
	if err != nil {
		l.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			out.kib, _ = strconv.Atoi(f[1])
		}
	}
	l.t.Logf("%s holds %d descriptors, %d goroutines, %d KiB", time.Now().Format("15:04:05.000"), out.fds, out.goroutines, out.kib)
	return out
}

// Allowed growth, which is not a leak. Each idle connection has a descriptor
// and two goroutines, and the agent keeps a few for a while (four hosts, at
// most two each); a supervised command or a running job adds goroutines. The
// heap size varies by a factor of two between collections with Go's default,
// and unused memory is returned late: memory may grow by half and 6 MiB. A leak
// in each round exceeds all that in a run of half an hour and, if it is more
// than a few KiB a round, in one of minutes.
const (
	moreFDs, moreGoroutines = 8, 24
	morePercent, moreKiB    = 50, 6 << 10
)

// grown compares the median of the last third with that of the first.
func grown(t testing.TB, all []sample) {
	t.Helper()
	if len(all) < 4 {
		t.Logf("%d measurements are too few to see growth", len(all))
		return
	}
	all = all[1:] // the first one was taken before caches were filled
	third := max(1, len(all)/3)
	median := func(part []sample, of func(sample) int) int {
		var n []int
		for _, s := range part {
			n = append(n, of(s))
		}
		slices.Sort(n)
		return n[len(n)/2]
	}
	for _, m := range []struct {
		what string
		of   func(sample) int
		may  func(first int) int
	}{
		{"descriptors", func(s sample) int { return s.fds }, func(n int) int { return n + moreFDs }},
		{"goroutines", func(s sample) int { return s.goroutines }, func(n int) int { return n + moreGoroutines }},
		{"KiB", func(s sample) int { return s.kib }, func(n int) int { return n + n*morePercent/100 + moreKiB }},
	} {
		first, last := median(all[:third], m.of), median(all[len(all)-third:], m.of)
		t.Logf("%s at %d equal points: first %d, last %d, at most %d", m.what, len(all), first, last, m.may(first))
		if last > m.may(first) {
			t.Errorf("%s grew from %d to %d", m.what, first, last)
		}
	}
}

// TestFaults: one long run on one machine with all kinds of events.
func TestFaults(t *testing.T) {
	machinetest.Need(t)
	t.Parallel()
	s := newScript(seed(t))
	l := newLife(t, s)
	l.heard.expect(password)
	began := time.Now()
	all := time.Duration(*minutes * float64(time.Minute))
	calm := [4]int{42, 16, 34, 8}
	rough := [4]int{36, 12, 24, 12}
	var samples []sample
	for round := 1; time.Since(began) < all; round++ {
		spared := time.Since(began) < all*6/10
		weights := rough
		if spared {
			weights = calm
		}
		t.Logf("round %d, the agent is spared: %v", round, spared)
		spoiled := false
		for range 6 + s.IntN(10) {
			spoiled = l.play(s, s.next(weights)) || spoiled
		}
		l.mend(s, spoiled)
		// Tables that persist between rounds are a better test than empty ones;
		// but to compare the agent with itself, everything must be deleted.
		if spared {
			l.empty(s)
			samples = append(samples, l.sample())
		}
	}
	l.empty(s)
	grown(l.t, samples)
}

// TestSequences: short runs on a platform without faults.
func TestSequences(t *testing.T) {
	machinetest.Need(t)
	t.Parallel()
	base := seed(t)
	for n := 1; n <= *sequences; n++ {
		if *only != 0 && n != *only {
			continue
		}
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			s := newScript(base + uint64(n)*1_000_003)
			l := newLife(t, s)
			l.heard.expect(password)
			weights := [4]int{68, 8, 0, 0} // the rest kills the agent
			if s.chance(40) {
				weights = [4]int{62, 6, 0, 16}
			}
			spoiled := false
			for range 4 + s.IntN(10) {
				spoiled = l.play(s, s.next(weights)) || spoiled
			}
			l.mend(s, spoiled)
			if s.chance(30) {
				l.empty(s)
			}
			if err := l.Close(); err != nil {
				l.t.Error(err)
			}
		})
	}
}

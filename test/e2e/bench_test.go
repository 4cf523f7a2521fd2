package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/sandbox"
)

// The benchmarks are run by scripts/bench, which sets the number of runs and
// prints a table. They report seconds of wall-clock time in metrics whose names
// end in the unit; ns/op is meaningless.

// A contender is an agent to measure.
type contender struct {
	name  string
	cloud func(testing.TB) *cloud
	start func(testing.TB, *cloud) *sandbox.Process
}

// contenders are this agent, and Debian's if AZGUEST_BENCH_PEER is set.
func contenders(packages map[string][]byte) []contender {
	list := []contender{{
		name: "azguest",
		cloud: func(t testing.TB) *cloud {
			o := blank()
			o.Packages, o.defaults = packages, true
			return newAgentCloud(t, o)
		},
		start: func(t testing.TB, c *cloud) *sandbox.Process { return c.StartAgent(t) },
	}}
	if os.Getenv("AZGUEST_BENCH_PEER") != "" {
		list = append(list, contender{
			name:  "waagent",
			cloud: func(t testing.TB) *cloud { return newPeerCloud(t, packages) },
			start: func(t testing.TB, c *cloud) *sandbox.Process { return startPeer(t, c) },
		})
	}
	return list
}

// BenchmarkStartToReady measures the time from the start of the process on a
// blank machine until the platform has received Ready.
func BenchmarkStartToReady(b *testing.B) {
	for _, who := range contenders(samples(b)) {
		b.Run(who.name, func(b *testing.B) {
			var took []float64
			for b.Loop() {
				c := who.cloud(b)
				start := time.Now()
				who.start(b, c)
				c.WaitReady(b)
				took = append(took, c.VM.Health().Time.Sub(start).Seconds())
				c.End(b)
			}
			report(b, took)
		})
	}
}

// BenchmarkChangeToHandler measures the time from a change of the goal state,
// at a random moment of the default poll period, to the first instruction of
// the handler's enable command.
func BenchmarkChangeToHandler(b *testing.B) {
	const clock = `
case $op in
enable)
	echo "$seq $now" >>"$work/enabled"
	say success 0 "enabled $seq"
	;;
esac
`
	for _, who := range contenders(map[string][]byte{"Azguest.Samples.Hello/1.0.0": handler(b, clock)}) {
		b.Run(who.name, func(b *testing.B) {
			c := who.cloud(b)
			who.start(b, c)
			c.WaitReady(b)
			e := helloExtension
			c.follow(b, c.put(b, e))
			var took []float64
			n := 0
			for b.Loop() {
				n++
				// Not for synchronisation: the moment must be random.
				time.Sleep(rand.N(6 * time.Second))
				e.settings = map[string]any{"n": n}
				start := time.Now()
				if msg := c.follow(b, c.put(b, e)); msg != "" {
					b.Fatal(msg)
				}
				took = append(took, c.enabled(b, n).Sub(start).Seconds())
			}
			report(b, took)
			c.End(b)
		})
	}
}

// enabled returns when the handler's enable command for a sequence number
// began.
func (c *cloud) enabled(t testing.TB, seq int) time.Time {
	t.Helper()
	text, err := c.ReadFile("/var/tmp/handler/enabled")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == strconv.Itoa(seq) {
			ns, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return time.Unix(0, ns)
		}
	}
	t.Fatalf("no enable of sequence %d: %s", seq, text)
	return time.Time{}
}

// BenchmarkIdle measures an idle agent with one extension for
// AZGUEST_BENCH_IDLE seconds, beginning AZGUEST_BENCH_SETTLE seconds after the
// last change; default 120 each.
func BenchmarkIdle(b *testing.B) {
	settle, idle := period(b, "AZGUEST_BENCH_SETTLE"), period(b, "AZGUEST_BENCH_IDLE")
	for _, who := range contenders(samples(b)) {
		b.Run(who.name, func(b *testing.B) {
			c := who.cloud(b)
			p := who.start(b, c)
			c.WaitReady(b)
			if msg := c.follow(b, c.put(b, helloExtension)); msg != "" {
				b.Fatal(msg)
			}
			for b.Loop() { // runs once: the duration is fixed
			}
			time.Sleep(settle)
			from := len(c.Fabric.Journal(fabric.Query{}))
			cpu, bytes := cpuSeconds(b, p.PID), traffic(b, p.PID)
			time.Sleep(idle)
			minutes := idle.Minutes()
			requests := 0
			for _, e := range c.Fabric.Journal(fabric.Query{})[from:] {
				if e.Method != "" && e.Kind != fabric.Control {
					requests++
				}
			}
			b.ReportMetric((cpuSeconds(b, p.PID)-cpu)/minutes, "cpu-s/min")
			b.ReportMetric(float64(pss(b, p.PID))/1024, "pss-MiB")
			b.ReportMetric(float64(requests)/minutes, "requests/min")
			b.ReportMetric(float64(traffic(b, p.PID)-bytes)/minutes*60/1024, "KiB/h")
			b.ReportMetric(0, "ns/op")
			c.End(b)
		})
	}
}

// period reads a duration in seconds from the environment.
func period(b *testing.B, name string) time.Duration {
	b.Helper()
	s := os.Getenv(name)
	if s == "" {
		return 2 * time.Minute
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		b.Fatalf("%s: %v", name, err)
	}
	return time.Duration(n) * time.Second
}

func report(b *testing.B, took []float64) {
	slices.Sort(took)
	at := func(q float64) float64 { return took[int(q*float64(len(took)-1)+0.5)] }
	b.ReportMetric(at(0.5), "p50-s")
	b.ReportMetric(at(0.95), "p95-s")
	b.ReportMetric(took[0], "min-s")
	b.ReportMetric(0, "ns/op")
}

// family returns a process and its descendants, because an agent may have
// several processes.
func family(t testing.TB, pid int) []int {
	t.Helper()
	children := map[int][]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		var child int
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(name)), "%d", &child); err != nil {
			continue
		}
		// The name in parentheses may contain anything.
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		parent, err := strconv.Atoi(f[1])
		if err != nil {
			continue
		}
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// cpuSeconds returns the processor time from the scheduler's statistics: the
// ticks in stat are too coarse for an agent that is mostly idle.
func cpuSeconds(t testing.TB, pid int) float64 {
	t.Helper()
	var total float64
	for _, p := range family(t, pid) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range tasks {
			b, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			ns, _, _ := strings.Cut(string(b), " ")
			n, err := strconv.ParseFloat(ns, 64)
			if err != nil {
				t.Fatal(err)
			}
			total += n / 1e9
		}
	}
	return total
}

// pss returns the proportional set size in KiB.
func pss(t testing.TB, pid int) int {
	t.Helper()
	total := 0
	for _, p := range family(t, pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, err := strconv.Atoi(strings.Fields(rest)[0])
				if err != nil {
					t.Fatal(err)
				}
				total += n
			}
		}
	}
	return total
}

// traffic returns the number of bytes on the machine's loopback, where the
// platform is: both directions, including the headers of HTTP, TCP and IP, but
// not Ethernet's.
func traffic(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "lo" {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no lo in net/dev")
	return 0
}

// BenchmarkMetadata measures the time that agentctl metadata takes for one value.
func BenchmarkMetadata(b *testing.B) {
	c := newAgentCloud(b, blank())
	var took []float64
	for b.Loop() {
		start := time.Now()
		c.Sh(b, "agentctl metadata compute/vmId")
		took = append(took, time.Since(start).Seconds())
	}
	report(b, took)
}

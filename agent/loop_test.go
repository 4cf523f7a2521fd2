package agent

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/peak"
)

// emptyZip is a package without a handler: it is refused at once, and no command
// is run.
const emptyZip = "PK\x05\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// testAgent returns an agent on an empty machine that talks to the fabric in
// memory. It is not running yet.
func testAgent(t *testing.T, f *fabric.Fabric, change ...func(*config.Config)) *Agent {
	t.Helper()
	cfg := config.Default()
	cfg.Protocol.Endpoint = "168.63.129.16" // the fabric's, in memory; also keeps the firewall out
	for _, c := range change {
		c(cfg)
	}
	a := New(Options{
		Version: "3.0.0.1", Config: cfg, Root: host.Root(t.TempDir()), Runner: &hosttest.Runner{}, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel),
		Platform: func(o *platform.Options) { o.Dial = f.DialContext },
	})
	for _, d := range []string{"/run/azguest", "/var/lib/waagent", "/var/log/azure"} {
		if err := a.Root.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// serveJobs runs the jobs as serve does, except those named, without handlers.
func serveJobs(t *testing.T, a *Agent, without ...string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	if err := a.platform.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	a.loop.changed = time.Now()
	jobs := slices.DeleteFunc(a.jobs(), func(j periodicJob) bool { return slices.Contains(without, j.name) })
	sched, err := startJobs(ctx, a.Log, jobs)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() { a.keepPace(ctx, sched) })
	done.Go(func() { _ = a.reporter(ctx) })
	return func() {
		cancel()
		if err := sched.Shutdown(); err != nil {
			t.Error(err)
		}
		done.Wait()
		a.platform.Close()
	}
}

func count(f *fabric.Fabric, since time.Time, kinds ...fabric.Kind) int {
	n := 0
	for _, e := range f.Journal(fabric.Query{}) {
		if e.Method != "" && e.Time.After(since) && (len(kinds) == 0 || slices.Contains(kinds, e.Kind)) {
			n++
		}
	}
	return n
}

// A meter counts the bytes that connections would take on a network: what is
// read and written, and an IP and a TCP header with timestamps for every
// packet.
type meter struct{ bytes, connections atomic.Int64 }

const (
	headers = 20 + 32
	segment = 1500 - headers
)

func (m *meter) dial(dial web) web {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		m.connections.Add(1)
		m.bytes.Add(7 * headers) // three to open it, four to close it
		return &metered{c, m}, nil
	}
}

type web = func(ctx context.Context, network, addr string) (net.Conn, error)

type metered struct {
	net.Conn
	m *meter
}

func (c *metered) packets(n int) { c.m.bytes.Add(int64(n + (n+segment-1)/segment*headers)) }

func (c *metered) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.packets(n)
	if n > 0 {
		c.m.bytes.Add(headers) // no data of ours follows that could carry the acknowledgement
	}
	return n, err
}

func (c *metered) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.packets(n)
	return n, err
}

// TestOneJobPanics: a panic ends only that turn of that job.
func TestOneJobPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		bad, good := 0, 0
		ctx, cancel := context.WithCancel(t.Context())
		sched, err := startJobs(ctx, zerolog.New(&log), []periodicJob{
			{"bad", time.Second, func(context.Context) error {
				if bad++; bad < 3 {
					panic("nobody thought of this")
				}
				return nil
			}},
			{"good", time.Second, func(context.Context) error { good++; return nil }},
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(9500 * time.Millisecond)
		cancel()
		if err := sched.Shutdown(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if bad != 10 || good != 10 {
			t.Errorf("turns: %d and %d, want 10 of each", bad, good)
		}
		text := log.String()
		for _, want := range []string{"AZ-AGENT-FAULT: nobody thought of this", "TestOneJobPanics", "works again"} {
			if !strings.Contains(text, want) {
				t.Errorf("the log does not have %q:\n%s", want, text)
			}
		}
	})
}

// TestRecoveryIsLoggedOnlyWhenJobWorks: a job is reported as working again only
// when it works, not when it fails for a known reason.
func TestRecoveryIsLoggedOnlyWhenJobWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ends := []error{errors.New("no route"), errKnown, errKnown, nil, nil, errKnown, nil}
		turn := 0
		ctx, cancel := context.WithCancel(t.Context())
		sched, err := startJobs(ctx, zerolog.New(&log), []periodicJob{{"x", time.Second, func(context.Context) error {
			turn++
			return ends[min(turn, len(ends))-1]
		}}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		cancel()
		if err := sched.Shutdown(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		want := `{"level":"warn","error":"no route","job":"x","failures":1,"message":"job failed"}
{"level":"info","job":"x","failures":3,"message":"job works again"}
{"level":"info","job":"x","failures":1,"message":"job works again"}
`
		if log.String() != want {
			t.Errorf("log:\n%s", log.String())
		}
	})
}

func TestIdleIsCheap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fabric.New(t)
		f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
		a := testAgent(t, f)
		var m meter
		o := a.Options
		o.Platform = func(o *platform.Options) { o.Dial = m.dial(f.DialContext) }
		a = New(o)
		// The test's clock differs from the kernel's, and a jump would be
		// reported.
		stop := serveJobs(t, a, "clock")
		time.Sleep(fastFor + time.Minute) // until polling is slow
		since := time.Now()
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		perMinute := float64(count(f, since)) / 20
		if perMinute > 26 {
			t.Errorf("%.1f requests a minute when idle, want at most 26", perMinute)
		}
		if n := count(f, since, fabric.PluginStatus); n < 20 || n > 45 {
			t.Errorf("%d status reports in 20 minutes, want at least one a minute and not one a poll", n)
		}
		for _, e := range f.Journal(fabric.Query{Problems: true}) {
			t.Errorf("a strict platform would object to %s %s: %v", e.Method, e.URL, e.Problems)
		}
		if n := count(f, since, fabric.Telemetry); n > 20 {
			t.Errorf("%d telemetry posts in 20 idle minutes", n)
		}
		// Traffic of an idle agent, in bytes.
		since = time.Now()
		bytes, conns := m.bytes.Load(), m.connections.Load()
		time.Sleep(time.Hour)
		synctest.Wait()
		bytes, conns = m.bytes.Load()-bytes, m.connections.Load()-conns
		t.Logf("%d requests, %d bytes, %d new connections in an hour", count(f, since), bytes, conns)
		if n := count(f, since); n > 960 {
			t.Errorf("%d requests in an idle hour, want 16 a minute", n)
		}
		if bytes > 1_000_000 {
			t.Errorf("%d bytes in an idle hour, want a megabyte", bytes)
		}
		// Two requests that begin at the same time need two connections.
		if conns > 12 {
			t.Errorf("%d new connections in an idle hour: they are to be kept", conns)
		}
		stop()
		synctest.Wait()
		_ = f.Close()
	})
}

func TestTelemetryOffMeansNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fabric.New(t)
		f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
		a := testAgent(t, f, func(c *config.Config) { c.Telemetry.Enabled = false })
		stop := serveJobs(t, a)
		time.Sleep(30 * time.Minute)
		if n := count(f, time.Time{}, fabric.Telemetry, fabric.HealthService); n != 0 {
			t.Errorf("%d telemetry requests although it is off", n)
		}
		if n := count(f, time.Time{}, fabric.PluginStatus); n < 25 {
			t.Errorf("%d status reports in half an hour", n)
		}
		stop()
		synctest.Wait()
		_ = f.Close()
	})
}

func TestAPlatformThatIsGoneIsNotHammeredAndHealsSoon(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fabric.New(t)
		vm := f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
		a := testAgent(t, f)
		stop := serveJobs(t, a)
		time.Sleep(10 * time.Minute)
		heals := func(within time.Duration) {
			t.Helper()
			mended := time.Now()
			time.Sleep(within)
			for _, e := range f.Journal(fabric.Query{Kind: fabric.GoalState}) {
				if e.Time.After(mended) && e.Code == 200 {
					return
				}
			}
			t.Errorf("no good goal state within %v after the fault cleared", within)
		}
		id := vm.Fail(fabric.GoalState, 503, 0)
		time.Sleep(3 * time.Minute)
		f.RemoveFault(id)
		heals(time.Minute)
		time.Sleep(10 * time.Minute)

		// After a long time: twenty attempts an hour, so a request every three
		// minutes is the most.
		id = vm.Fail(fabric.GoalState, 503, 0)
		time.Sleep(10 * time.Minute)
		since := time.Now()
		time.Sleep(time.Hour)
		if n := count(f, since, fabric.GoalState); n > 20 {
			t.Errorf("%d goal state requests in an hour of 503", n)
		}
		if n := count(f, since, fabric.PluginStatus); n < 55 {
			t.Errorf("%d status reports in that hour, want at least 55: a fault of the goal state must not stop them", n)
		}
		f.RemoveFault(id)
		heals(4 * time.Minute)
		stop()
		synctest.Wait()
		_ = f.Close()
	})
}

package extensions

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/test/fabric"
)

// site is an engine with the real client of a platform in memory, in a bubble of
// fake time. No command of a handler can be started in it: what matters is
// whether the package arrives, and what the rows say until then.
type site struct {
	t    *testing.T
	f    *fabric.Fabric
	vm   *fabric.VM
	root host.Root
	c    *platform.Client
	m    *Manager
	evs  *events
	stop func()
	cfg  Config
	key  string // of the last goal state
}

// siteHandler is the one handler of a site.
const siteHandler = "Contoso.Echo"

func newSite(t *testing.T, p pkg, set ...func(*fabric.Options)) *site {
	s := &site{t: t, f: fabric.New(t, set...), evs: &events{}, root: host.Root(t.TempDir())}
	if err := s.f.AddPackage(siteHandler, "1.0.0", p.build(t)); err != nil {
		t.Fatal(err)
	}
	s.vm = s.f.CreateVM("vm", fabric.Linux("azureuser", ""))
	if err := s.vm.Put(fabric.Extension{Handler: siteHandler, Version: "1.0.0", Settings: map[string]any{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	s.c = platform.New(platform.Options{Root: s.root, HTTP: s.vm.Client(), AgentVersion: "9.9.9.9", Log: zerolog.Nop()})
	return s
}

// Manifest and the others make a site the Fetcher of its engine, as the agent
// does.
func (s *site) Manifest(ctx context.Context, uris []secret.URL) (protocol.Manifest, error) {
	m, err := s.c.Manifest(ctx, uris)
	if err != nil {
		return protocol.Manifest{}, err
	}
	return *m, nil
}

func (s *site) Package(ctx context.Context, m protocol.Manifest, v protocol.PackageVersion, dst string, limit int64, check func(file, sum string) error) (string, error) {
	return s.c.Package(ctx, v.URIs, m.From, strings.TrimPrefix(dst, s.root.Path("")), limit, check)
}

func (s *site) Wait(ctx context.Context, d time.Duration) (bool, error) { return s.c.Wait(ctx, d) }

func (s *site) start() {
	s.m = New(s.root, job.Launcher{Exe: "/nonexistent"}, s, s.evs, zerolog.Nop(), s.cfg)
	s.m.notify = func() (*fsnotify.Watcher, error) { return nil, errors.New("its goroutine would hold up the fake time") }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	m := s.m
	go func() { done <- m.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
	if err := s.c.Connect(ctx); err != nil {
		s.t.Fatal(err)
	}
	gs, err := s.c.GoalState(ctx, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.m.Offer(gs)
}

// fetched reports whether the package has arrived.
func (s *site) fetched() bool {
	s.evs.mu.Lock()
	defer s.evs.mu.Unlock()
	for _, e := range s.evs.all {
		if e.Kind == event.Operation && e.Name == siteHandler && e.OK && e.Message == "Download succeeded" {
			return true
		}
	}
	return false
}

// row returns the word and the message of the extension's status.
func (s *site) row() (word, text string) {
	for _, h := range s.m.Status().Handlers {
		if h.Name != siteHandler {
			continue
		}
		if e := h.Extension; e != nil && e.Message != nil {
			return e.Status, *e.Message
		}
		if h.Code != 0 {
			return handler.Error, *h.Message
		}
	}
	return "", ""
}

// asked counts the requests for blobs, by kind and address. Go's transport
// repeats a request at once if a connection that was in use before is reset; the
// two count as one.
func (s *site) asked() map[string]int {
	n, last := map[string]int{}, map[string]time.Time{}
	for _, kind := range []fabric.Kind{fabric.Artifact, fabric.BlobGet} {
		for _, e := range s.f.Journal(fabric.Query{Kind: kind}) {
			what := fmt.Sprint(kind, " ", e.Host, e.URL, " ", e.Header["X-Ms-Artifact-Location"])
			if !e.Time.Equal(last[what]) {
				n[what]++
			}
			last[what] = e.Time
		}
	}
	return n
}

// until looks every second until done, and calls at each look.
func (s *site) until(limit time.Duration, done func() bool, look func()) (after time.Duration, ok bool) {
	for start := time.Now(); ; time.Sleep(time.Second) {
		synctest.Wait()
		if done() {
			return time.Since(start), true
		}
		if look != nil {
			look()
		}
		if time.Since(start) > limit {
			return limit, false
		}
	}
}

// page is what a captive portal says.
var page = "<html><head><title>Sign in</title></head><body>Please sign in</body></html>"

// failures are what an outage looks like to a download, by name.
func failures() map[string][]fabric.Fault {
	half := 200
	both := func(f fabric.Fault) []fabric.Fault {
		a, b := f, f
		a.Kind, b.Kind = fabric.Artifact, fabric.BlobGet
		return []fabric.Fault{a, b}
	}
	relay := func(f fabric.Fault) []fabric.Fault { // and the direct way is blocked
		f.Kind = fabric.Artifact
		return []fabric.Fault{f, {Kind: fabric.BlobGet, Reset: true}}
	}
	return map[string][]fabric.Fault{
		"503":                      both(fabric.Fault{Status: 503}),
		"429 with Retry-After":     both(fabric.Fault{Status: 429, Set: map[string]string{"Retry-After": "20"}}),
		"408":                      both(fabric.Fault{Status: 408}),
		"425":                      both(fabric.Fault{Status: 425}),
		"403":                      both(fabric.Fault{Status: 403}),
		"204":                      both(fabric.Fault{Status: 204}),
		"302":                      both(fabric.Fault{Status: 302, Set: map[string]string{"Location": "https://portal.example/"}}),
		"409":                      both(fabric.Fault{Status: 409}),
		"416":                      both(fabric.Fault{Status: 416}),
		"407 of a proxy":           both(fabric.Fault{Status: 407}),
		"reset":                    both(fabric.Fault{Reset: true}),
		"half bodies":              both(fabric.Fault{Truncate: &half}),
		"a page with 200":          both(fabric.Fault{Status: 200, Body: &page, ContentType: "text/html"}),
		"400 through the host":     relay(fabric.Fault{Status: 400}),
		"404 through the host":     relay(fabric.Fault{Status: 404}),
		"410 through the host":     relay(fabric.Fault{Status: 410}),
		"a page through the host":  relay(fabric.Fault{Status: 200, Body: &page, ContentType: "text/html"}),
		"page direct, host is 503": {{Kind: fabric.Artifact, Status: 503}, {Kind: fabric.BlobGet, Status: 200, Body: &page}},
	}
}

func (s *site) fail(fs []fabric.Fault, match string) {
	for _, f := range fs {
		f.Match = match
		if _, err := s.f.Fail(f); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestPAT1AnOutageIsWaitedOut: whatever an outage looks like, and whichever blob
// it is about, the extension's status is "transitioning" and says why, the
// package arrives soon after the end of the outage in the same goal state, and no
// request is made more often than 20 times in an hour.
func TestPAT1AnOutageIsWaitedOut(t *testing.T) {
	t.Parallel()
	lengths := []time.Duration{40 * time.Second, 3 * time.Minute, 20 * time.Minute}
	for name, fs := range failures() {
		for i, length := range lengths {
			if name != "503" && name != "reset" && i != len(name)%3 {
				continue // each kind of failure with one length
			}
			for _, match := range []string{"_manifest.xml", ".zip"} {
				t.Run(fmt.Sprintf("%s of %s for %v", name, match, length), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { outage(t, fs, match, length) })
				})
			}
		}
	}
}

func outage(t *testing.T, fs []fabric.Fault, match string, length time.Duration) {
	s := newSite(t, pkg{name: siteHandler, version: "1.0.0", script: simple})
	s.fail(fs, match)
	s.start()
	defer s.stop()
	said := false
	check := func() {
		word, text := s.row()
		if word != "" && word != handler.Transitioning {
			t.Fatalf("during the outage the row is %s: %s", word, text)
		}
		said = said || strings.Contains(text, "not available yet, trying again since 2000-")
	}
	if _, ok := s.until(length, s.fetched, check); ok {
		t.Fatal("there was no outage")
	}
	if !said {
		_, text := s.row()
		t.Errorf("the row does not say what is waited for: %s", text)
	}
	n := s.asked()
	s.f.RemoveFault(0)
	limit := max(time.Minute, length*2/5)
	if after, ok := s.until(limit, s.fetched, check); !ok {
		_, text := s.row()
		t.Errorf("not fetched %v after the end: %s", after, text)
	}
	for what, k := range n {
		if k > protocol.PaceHourly {
			t.Errorf("%d requests for %s in %v", k, what, length)
		}
	}
}

// TestPAT1ReportedAfterTheTime: after the set time the extension is reported as
// failed, it is tried on, and the failure is taken back. What depends on it
// waits, is blocked, and runs at last.
func TestPAT1ReportedAfterTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, pkg{name: siteHandler, version: "1.0.0", script: simple})
		s.fail([]fabric.Fault{{Kind: fabric.Artifact, Status: 503}, {Kind: fabric.BlobGet, Status: 503}}, ".zip")
		s.start()
		defer s.stop()
		failed := func() bool { word, _ := s.row(); return word == handler.Error || word == "" && s.m.Status().Converged }
		after, ok := s.until(time.Hour, failed, nil)
		if !ok || after < 30*time.Minute || after > 40*time.Minute {
			t.Fatalf("reported as failed after %v (%v), want 30 minutes and an attempt", after, ok)
		}
		snap := s.m.Status()
		if !snap.Converged || snap.GoalState == nil || !strings.Contains(message(snap, 0), "Failed to download") || !strings.Contains(message(snap, 0), "503") {
			t.Errorf("converged %v, %s", snap.Converged, message(snap, 0))
		}
		if snap.Handlers[0].Code != 1001 {
			t.Errorf("code %d", snap.Handlers[0].Code)
		}
		if _, ok := s.until(time.Hour, func() bool { return !failed() }, nil); ok {
			t.Error("the row changes although nothing did")
		}
		s.f.RemoveFault(0)
		if after, ok := s.until(10*time.Minute, s.fetched, nil); !ok {
			t.Errorf("given up: not fetched %v after the end", after)
		}
		if _, text := s.row(); strings.Contains(text, "download") {
			t.Errorf("the failure stays: %s", text)
		}
	})
}

// TestPAT1SurvivesRestarts: a restart of the agent neither begins the time anew
// nor ends it, also if the clock was set by hours meanwhile.
func TestPAT1SurvivesRestarts(t *testing.T) {
	t.Parallel()
	for _, set := range []time.Duration{0, 9 * time.Hour, -9 * time.Hour} {
		t.Run(set.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { restarts(t, set) })
		})
	}
}

// clockSet changes what is on disk as if the clock had been set since.
func (s *site) clockSet(by time.Duration) {
	for _, r := range s.m.handlers[strings.ToLower(siteHandler)].recs {
		if r.Awaited != nil {
			a := *r.Awaited
			a.Since = a.Since.Add(-by)
			r.Awaited = &a
		}
		if err := s.m.store.Save(r); err != nil {
			s.t.Fatal(err)
		}
	}
}

func restarts(t *testing.T, set time.Duration) {
	s := newSite(t, pkg{name: siteHandler, version: "1.0.0", script: simple})
	s.fail([]fabric.Fault{{Kind: fabric.Artifact, Status: 503}, {Kind: fabric.BlobGet, Status: 503}}, "_manifest.xml")
	s.start()
	defer func() { s.stop() }()
	began := time.Now()
	for range 4 {
		if _, ok := s.until(6*time.Minute, func() bool { word, _ := s.row(); return word == handler.Error }, nil); ok {
			t.Fatalf("failed after %v", time.Since(began))
		}
		s.stop()
		s.clockSet(set)
		s.start()
	}
	failed := func() bool { return s.m.Status().Converged }
	if _, ok := s.until(time.Hour, failed, nil); !ok || time.Since(began) < 29*time.Minute || time.Since(began) > 50*time.Minute {
		t.Errorf("with four restarts failed after %v", time.Since(began))
	}
	s.stop()
	s.start() // also after it was reported
	s.f.RemoveFault(0)
	if after, ok := s.until(5*time.Minute, s.fetched, nil); !ok {
		t.Errorf("not fetched %v after the end", after)
	}
}

// TestPAT1NeverFailsAtOnce: waiting did not spread to what no waiting changes;
// and what may appear is looked for without being waited for.
func TestPAT1NeverFailsAtOnce(t *testing.T) {
	t.Parallel()
	whole := pkg{name: siteHandler, version: "1.0.0", script: simple}
	climbs := whole
	climbs.files = map[string]string{"../../evil": "x"}
	for name, tc := range map[string]struct {
		pkg    pkg
		before func(*site)
		mend   func(*site) // nil: it can't be mended
		want   string
	}{
		"climbing names": {climbs, func(*site) {}, nil, "invalid"},
		"not a package":  {pkg{name: siteHandler, version: "1.0.0", files: map[string]string{handler.ManifestName: "{"}}, func(*site) {}, nil, ""},
		"unsigned":       {whole, func(s *site) { s.cfg.RequireSignature = true }, nil, "signature"},
		"401": {whole, func(s *site) {
			s.fail([]fabric.Fault{{Kind: fabric.Artifact, Status: 401}, {Kind: fabric.BlobGet, Status: 401}}, ".zip")
		}, nil, "401"},
		"404 of everything": {whole, func(s *site) {
			s.fail([]fabric.Fault{{Kind: fabric.Artifact, Status: 404}, {Kind: fabric.BlobGet, Status: 404}}, ".zip")
		}, func(s *site) { s.f.RemoveFault(0) }, "404"},
		"no such version": {whole, func(s *site) {
			body := `<PluginVersionManifest><Plugins><Plugin><Version>0.9</Version><Uris><Uri>http://a/b</Uri></Uris></Plugin></Plugins></PluginVersionManifest>`
			s.fail([]fabric.Fault{{Kind: fabric.Artifact, Status: 200, Body: &body}, {Kind: fabric.BlobGet, Status: 200, Body: &body}}, "_manifest.xml")
		}, func(s *site) { s.f.RemoveFault(0) }, "Unable to find version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, tc.pkg)
				tc.before(s)
				s.start()
				defer s.stop()
				if after, ok := s.until(time.Minute, func() bool { return s.m.Status().Converged }, nil); !ok || after > 20*time.Second {
					_, text := s.row()
					t.Fatalf("reported after %v (%v): %s", after, ok, text)
				}
				if text := message(s.m.Status(), 0); !strings.Contains(text, tc.want) {
					t.Errorf("message %s, want %q", text, tc.want)
				}
				before := len(s.asked())
				if tc.mend == nil {
					s.until(20*time.Minute, func() bool { return false }, nil)
					if n := len(s.asked()); n != before {
						t.Errorf("%d requests, and %d after 20 minutes", before, n)
					}
					return
				}
				tc.mend(s)
				if after, ok := s.until(2*time.Minute, s.fetched, nil); !ok {
					t.Errorf("not fetched %v after it has appeared", after)
				}
			})
		})
	}
}

// TestPAT1TheEndIsHeardOf: what this machine learns about itself wakes a wait.
func TestPAT1TheEndIsHeardOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple})
	w.repo.noManif = protocol.Judge(protocol.Later, &protocol.Fault{Op: "manifest", Err: errors.New("no route"), Next: time.Now().Add(time.Hour)})
	w.start()
	gs := w.state(ext("P.X", "1.0", 0))
	w.m.Offer(gs)
	w.await("the wait", func(s Snapshot) bool { return strings.Contains(message(s, 0), "no route") })
	w.repo.mu.Lock()
	w.repo.noManif = nil
	w.repo.mu.Unlock()
	w.repo.moved <- struct{}{}
	w.await("success", func(s Snapshot) bool {
		return len(s.Handlers) > 0 && s.Handlers[0].Extension != nil && s.Handlers[0].Extension.Status == handler.Success
	})
}

// TestPAT1ArtifactsProfile: while it can't be had whether a goal state is on hold,
// nothing is begun and the row says so. It is asked for again: then it holds, or
// goes on soon; and after some minutes it goes on without.
func TestPAT1ArtifactsProfile(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hold   bool
		outage time.Duration
	}{
		"not on hold": {false, 40 * time.Second},
		"on hold":     {true, 40 * time.Second},
		"never":       {true, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, pkg{name: siteHandler, version: "1.0.0", script: simple})
				s.c = platform.New(platform.Options{Root: s.root, HTTP: s.vm.Client(), AgentVersion: "9.9.9.9", NoFastTrack: true, Log: zerolog.Nop()})
				s.vm.Configure(func(c *fabric.Config) { c.OnHold = tc.hold })
				s.fail([]fabric.Fault{{Kind: fabric.Artifact, Status: 503}, {Kind: fabric.BlobGet, Status: 503}}, ".vmSettings")
				s.start()
				defer s.stop()
				look := func() { // as the agent polls
					if gs, err := s.c.GoalState(t.Context(), s.key); err == nil {
						s.key = gs.Key()
						s.m.Offer(gs)
					}
				}
				asks := false
				if after, ok := s.until(tc.outage, s.fetched, func() {
					_, text := s.row()
					asks = asks || strings.Contains(text, "the platform's word on whether it may run: artifacts profile: ")
					look()
				}); ok != (name == "never") || ok && (after < 4*time.Minute || after > 6*time.Minute) {
					t.Errorf("begun during the outage: %v, after %v", ok, after)
				}
				if !asks {
					_, text := s.row()
					t.Errorf("the row does not say what it waits for: %s", text)
				}
				s.f.RemoveFault(0)
				if after, ok := s.until(time.Minute, s.fetched, look); ok != (name != "on hold") {
					t.Errorf("begun after the outage: %v, after %v", ok, after)
				}
			})
		})
	}
}

// TestPAT1DependantsWait: what depends on an extension whose package is late
// waits with it; if the failure was reported meanwhile, it runs when that is
// taken back.
func TestPAT1DependantsWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.A", version: "1.0", script: simple}, pkg{name: "P.B", version: "1.0", script: simple})
	w.cfg.Timeouts.Fetch = 500 * time.Millisecond
	w.repo.late = map[string]error{"P.A": protocol.Judge(protocol.Later, errors.New("not yet"))}
	w.start()
	gs := w.state(level(ext("P.A", "1.0", 0), 0), level(ext("P.B", "1.0", 0), 1, "P.A"))
	w.m.Offer(gs)
	both := func(word string) func(Snapshot) bool {
		return func(s Snapshot) bool {
			n := 0
			for _, h := range s.Handlers {
				if h.Extension != nil && h.Extension.Status == word || word == handler.Error && h.Status == "NotReady" && h.Code != 0 {
					n++
				}
			}
			return n == 2
		}
	}
	w.await("both wait", both(handler.Transitioning))
	w.await("both failed", both(handler.Error))
	w.repo.mu.Lock()
	w.repo.late = nil
	w.repo.mu.Unlock()
	w.await("both are enabled", both(handler.Success))
	if got := strings.Join(w.calls(), "; "); !strings.Contains(got, "1.0 enable") {
		t.Errorf("calls %s", got)
	}
}

// TestPAT1WaitsAreForgotten: a new goal state begins without what an earlier one
// has waited for, and leaves nothing of it on disk.
func TestPAT1WaitsAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple})
	w.repo.noManif = protocol.Judge(protocol.Later, errors.New("not yet"))
	w.start()
	w.m.Offer(w.state(ext("P.X", "1.0", 0)))
	w.await("the wait", func(s Snapshot) bool { return strings.Contains(message(s, 0), "not yet") })
	w.offer()
	if left, _ := w.root.Glob("/var/lib/waagent/azguest/records/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for _, h := range w.m.view.handlers {
		if r := h.recs["1.0"]; r.State != plan.Absent && r.State != "" {
			t.Errorf("state %s", r.State)
		}
	}
}

// TestPAT1ReplacedMeanwhile: a package that is published once more while it is
// downloaded is not put together from two halves: its ETag tells, from the
// storage to the disk.
func TestPAT1ReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]bool{"the same": false, "another": true} {
		synctest.Test(t, func(t *testing.T) {
			noise := func(seed byte) string { // which zip can't make smaller
				b := make([]byte, 300<<10)
				x := uint32(seed) + 1
				for i := range b {
					x = x*1664525 + 1013904223
					b[i] = byte(x >> 24)
				}
				return string(b)
			}
			p := pkg{name: siteHandler, version: "1.0.0", script: simple, files: map[string]string{"big": noise(1)}}
			s := newSite(t, p)
			cut := 100 << 10
			s.fail([]fabric.Fault{{Kind: fabric.Artifact, Truncate: &cut, Times: 1}}, ".zip")
			s.start()
			defer s.stop()
			time.Sleep(500 * time.Millisecond)
			if replace {
				p.files = map[string]string{"big": noise(2)}
				if err := s.f.AddPackage(siteHandler, "1.0.0", p.build(t)); err != nil {
					t.Fatal(err)
				}
			}
			if after, ok := s.until(5*time.Second, s.fetched, nil); !ok {
				t.Fatalf("%s: not fetched after %v", name, after)
			}
			b, err := s.root.ReadFile("/var/lib/waagent/" + siteHandler + "-1.0.0/big")
			if err != nil || string(b) != p.files["big"] {
				t.Errorf("%s: %d bytes, %v", name, len(b), err)
			}
			var codes []int
			for _, e := range s.f.Journal(fabric.Query{Kind: fabric.Artifact}) {
				if strings.Contains(e.Header["X-Ms-Artifact-Location"], ".zip") {
					codes = append(codes, e.Code)
				}
			}
			if want := map[bool]string{false: "[200 206]", true: "[200 200]"}[replace]; fmt.Sprint(codes) != want {
				t.Errorf("%s: answers %v, want %s", name, codes, want)
			}
		})
	}
}

// TestP12TheEngineContinues: a package that takes longer than any limit arrives
// although the link breaks and the agent restarts, without being received twice;
// a goal state that wants something else does not wait for it.
func TestP12TheEngineContinues(t *testing.T) {
	t.Parallel()
	big := pkg{name: siteHandler, version: "1.0.0", script: simple, files: map[string]string{"bin/big": incompressible(3 << 20)}}
	slow := []fabric.Fault{{Kind: fabric.Artifact, Rate: 5000}, {Kind: fabric.BlobGet, Rate: 5000}}
	parts := func(s *site) []string {
		names, _ := s.root.Glob("/var/lib/waagent/azguest/ext/packages/*" + host.PartSuffix)
		return names
	}
	t.Run("arrives", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, big)
			s.fail(slow, ".zip")
			s.start()
			defer func() { s.stop() }()
			if _, ok := s.until(7*time.Minute, s.fetched, nil); ok {
				t.Fatal("it is not slow")
			}
			s.stop()
			if got := parts(s); len(got) != 1 {
				t.Fatalf("kept: %q", got)
			}
			s.start()
			after, ok := s.until(time.Hour, s.fetched, func() {
				if word, text := s.row(); word != "" && word != handler.Transitioning {
					t.Fatalf("%s: %s", word, text)
				}
			})
			if whole := 3 << 20 / 5000 * time.Second; !ok || after > whole-6*time.Minute {
				t.Errorf("arrived after %v (%v), the whole takes %v", after, ok, whole)
			}
			if got := parts(s); len(got) != 0 {
				t.Errorf("left: %q", got)
			}
		})
	})
	t.Run("another version", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, big)
			if err := s.f.AddPackage(siteHandler, "1.1.0", pkg{name: siteHandler, version: "1.1.0", script: simple}.build(t)); err != nil {
				t.Fatal(err)
			}
			s.fail(slow, "1.0.0.zip")
			s.start()
			defer s.stop()
			if _, ok := s.until(2*time.Minute, s.fetched, nil); ok {
				t.Fatal("it is not slow")
			}
			if err := s.vm.Put(fabric.Extension{Handler: siteHandler, Version: "1.1.0", Settings: map[string]any{"a": "b"}}); err != nil {
				t.Fatal(err)
			}
			gs, err := s.c.GoalState(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			s.m.Offer(gs)
			if after, ok := s.until(time.Minute, s.fetched, nil); !ok {
				_, text := s.row()
				t.Errorf("not fetched after %v: %s", after, text)
			}
			if _, ok := s.until(25*time.Hour, func() bool { return len(parts(s)) == 0 }, nil); !ok {
				t.Errorf("kept for ever: %q", parts(s))
			}
		})
	})
}

// incompressible returns n bytes of text that a zip file can't make smaller.
func incompressible(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

// TestP40: a package that an operator has put in place needs nothing from the
// network; one that can't be used is replaced by a download.
func TestP40(t *testing.T) {
	t.Parallel()
	good := pkg{name: siteHandler, version: "1.0.0", script: simple}
	for name, tc := range map[string]struct {
		file     []byte
		manifest bool // can be had
	}{
		"no network":    {good.build(t), false},
		"not a zip":     {[]byte("half"), true},
		"other handler": {pkg{name: "Other.One", version: "1.0.0", script: simple, manifest: `"nonsense"`}.build(t)[:100], true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, good)
				if !tc.manifest {
					for _, what := range []string{"_manifest.xml", ".zip"} {
						s.fail([]fabric.Fault{{Kind: fabric.Artifact, Status: 503}, {Kind: fabric.BlobGet, Status: 503}}, what)
					}
				}
				side := s.root.Path("/var/lib/waagent/" + siteHandler + "__1.0.0.zip")
				if err := s.root.MkdirAll("/var/lib/waagent", 0o755); err != nil {
					t.Fatal(err)
				}
				writeFile(t, side, string(tc.file))
				s.start()
				defer s.stop()
				if after, ok := s.until(30*time.Second, s.fetched, nil); !ok {
					_, text := s.row()
					t.Errorf("not there after %v: %s", after, text)
				}
				if n := s.asked(); !tc.manifest && strings.Contains(fmt.Sprint(n), "manifest.xml") {
					t.Errorf("asked for %v", n)
				}
				if exists(side) == tc.manifest {
					t.Errorf("the file is there: %v", exists(side))
				}
			})
		})
	}
}

// TestPAT1FastTrackReleasesThePace: requests that were far apart after a long
// outage are made at once when a new goal state comes, whichever way it comes.
func TestPAT1FastTrackReleasesThePace(t *testing.T) {
	t.Parallel()
	for _, fast := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, pkg{name: siteHandler, version: "1.0.0", script: simple}, func(o *fabric.Options) { o.FastTrack = fast })
			s.fail(failures()["503"], ".zip")
			s.start()
			defer s.stop()
			if _, ok := s.until(30*time.Minute, s.fetched, nil); ok {
				t.Fatal("there was no outage")
			}
			s.f.RemoveFault(0)
			if err := s.vm.Put(fabric.Extension{Handler: siteHandler, Version: "1.0.0", Settings: map[string]any{"a": "c"}}); err != nil {
				t.Fatal(err)
			}
			gs, err := s.c.GoalState(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if got := gs.Source == protocol.FastTrack; got != fast {
				t.Fatalf("FastTrack: %v", got)
			}
			s.m.Offer(gs)
			if after, ok := s.until(5*time.Second, s.fetched, nil); !ok {
				t.Errorf("FastTrack %v: not fetched after %v", fast, after)
			}
		})
	}
}

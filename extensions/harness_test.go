package extensions

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/protocol"
)

// TestMain makes the test binary its own supervisor, as the agent's binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == job.SuperviseArg {
		os.Exit(job.Supervise(context.Background(), os.Args[2:]))
	}
	ownEnvironment()
	if len(os.Args) > 1 && os.Args[1] == "test-agent" {
		os.Exit(testAgent(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// ownEnvironment removes what a developer's session has, and what handlers would
// get as from an administrator.
func ownEnvironment() {
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if name != "TMPDIR" && !strings.HasPrefix(name, "AZGUEST_") && !strings.HasPrefix(name, "GO") {
			_ = os.Unsetenv(name) // fails for invalid names only
		}
	}
	_ = os.Setenv("PATH", host.DefaultPath)
}

// A pkg is a package a test publishes. The script is the body of run.sh, which
// is called with the operation as its argument; it finds its sequence number
// in $seq and can call `log` and `status WORD [OP]`.
type pkg struct {
	name, version string
	script        string
	manifest      string // fields of handlerManifest besides the commands
	files         map[string]string
	zip           []byte // the whole package; other fields are not used then
}

const prelude = `#!/bin/sh
op=$1; seq=$ConfigSequenceNumber; ext=$ConfigExtensionName; base=$AZURE_GUEST_AGENT_EXTENSION_PATH
log() { echo "$AZURE_GUEST_AGENT_EXTENSION_VERSION $op${ext:+ $ext} $seq${*:+ $*}" >> "$base/../calls.log"; }
status() { f="$base/status/${ext:+$ext.}$seq.status"
  printf '[{"version":1.0,"timestampUTC":"2024-01-01T00:00:00Z","status":{"name":"t","operation":"%s","status":"%s","code":0,"formattedMessage":{"lang":"en-US","message":"%s"}}}]' "${2:-Enable}" "$1" "$3" > "$f.tmp" && mv "$f.tmp" "$f"; }
`

// simple is a script that logs each call and reports success.
const simple = `log
[ "$op" = enable ] && status success
exit 0
`

func (p pkg) build(t testing.TB) []byte {
	t.Helper()
	if p.zip != nil {
		return p.zip
	}
	var b strings.Builder
	z := zip.NewWriter(&b)
	add := func(name, body string) {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	manifest := p.manifest
	if manifest != "" && !strings.HasSuffix(manifest, ",") {
		manifest += ","
	}
	if _, own := p.files[handler.ManifestName]; !own {
		add(handler.ManifestName, `[{"name":"x","version":1.0,"handlerManifest":{`+manifest+
			`"installCommand":"run.sh install","enableCommand":"run.sh enable","disableCommand":"run.sh disable","updateCommand":"run.sh update","uninstallCommand":"run.sh uninstall","rebootAfterInstall":false}}]`)
	}
	add("run.sh", prelude+p.script)
	for name, body := range p.files {
		add(name, body)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return []byte(b.String())
}

// repository is the Fetcher of the tests: packages in memory.
type repository struct {
	mu        sync.Mutex
	pkgs      map[string]map[string][]byte
	manifests int
	downloads int
	fail      error
	noManif   error
	hang      string           // name of the handler whose download does not end
	hangs     chan struct{}    // closed when that download has begun
	moved     chan struct{}    // the machine has changed
	late      map[string]error // by handler: what its manifest fails with
}

func (r *repository) publish(t testing.TB, ps ...pkg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range ps {
		if r.pkgs[p.name] == nil {
			r.pkgs[p.name] = map[string][]byte{}
		}
		r.pkgs[p.name][p.version] = p.build(t)
	}
}

func (r *repository) Manifest(_ context.Context, uris []secret.URL) (protocol.Manifest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests++
	if r.noManif != nil {
		return protocol.Manifest{}, r.noManif
	}
	if len(uris) == 0 {
		return protocol.Manifest{}, errors.New("no address")
	}
	name := strings.TrimPrefix(uris[0].Reveal(), "test://")
	if err := r.late[name]; err != nil {
		return protocol.Manifest{}, err
	}
	m := protocol.Manifest{From: uris[0]}
	for v := range r.pkgs[name] {
		m.Versions = append(m.Versions, protocol.PackageVersion{Version: v, URIs: []secret.URL{secret.NewURL("test://" + name + "/" + v)}})
	}
	slices.SortFunc(m.Versions, func(a, b protocol.PackageVersion) int { return strings.Compare(a.Version, b.Version) })
	return m, nil
}

func (r *repository) Wait(ctx context.Context, d time.Duration) (bool, error) {
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-r.moved:
		return true, nil
	case <-time.After(d):
		return false, nil
	}
}

func (r *repository) Package(ctx context.Context, _ protocol.Manifest, v protocol.PackageVersion, dst string, limit int64, check func(file, sum string) error) (string, error) {
	if r.hang != "" && strings.Contains(v.URIs[0].Reveal(), r.hang) {
		close(r.hangs)
		<-ctx.Done()
		return "", context.Cause(ctx)
	}
	b, err := r.download(v, limit)
	if err != nil {
		return "", err
	}
	raw := sha256.Sum256(b)
	sum := hex.EncodeToString(raw[:])
	if err := os.WriteFile(dst, b, 0o600); err != nil {
		return "", err
	}
	return sum, check(dst, sum)
}

func (r *repository) download(v protocol.PackageVersion, limit int64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.downloads++
	if r.fail != nil {
		return nil, r.fail
	}
	if strings.Contains(v.URIs[0].Reveal(), "P.Panics") {
		panic("nobody thought of this")
	}
	parts := strings.Split(strings.TrimPrefix(v.URIs[0].Reveal(), "test://"), "/")
	b := r.pkgs[parts[0]][parts[1]]
	if int64(len(b)) > limit {
		return nil, errors.New("too long")
	}
	return b, nil
}

// world is one machine with one manager on it, which can be restarted.
type world struct {
	t    testing.TB
	root host.Root
	repo *repository
	cfg  Config
	boot string
	m    *Manager
	stop func()
	inc  int
	evs  *events
}

type events struct {
	mu  sync.Mutex
	all []event.Event
}

func (e *events) Emit(ev event.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

// home is like t.TempDir for a machine whose supervisors may outlive the test:
// the test does not fail if one still writes while the directory is removed.
func home(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "extensions") //nolint:usetesting // see the comment of home
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for try := 0; os.RemoveAll(dir) != nil; try++ {
			if try == 100 {
				t.Logf("%s is left", dir)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return dir
}

// short are the tests of the whole engine that run with -short: there are some
// hundred, and together they take minutes.
var short = []string{"TestLifecycle", "TestFailures", "TestMultiConfig", "TestSequencing", "TestSameVersion", "TestUpdateKeepsState"}

func newWorld(t testing.TB, ps ...pkg) *world {
	t.Helper()
	if name, _, _ := strings.Cut(t.Name(), "/"); testing.Short() && !slices.Contains(short, name) {
		t.Skip("starts an engine with its supervisors; the fast run has " + strings.Join(short, ", "))
	}
	w := &world{t: t, root: host.Root(home(t)), repo: &repository{pkgs: map[string]map[string][]byte{}, moved: make(chan struct{})}, evs: &events{}}
	w.cfg = Config{Agent: "1.0", StatusPoll: 200 * time.Millisecond, Timeouts: Timeouts{Dead: 200 * time.Millisecond, Late: 600 * time.Millisecond, PackagesFree: 300 * time.Millisecond}}
	w.repo.publish(t, ps...)
	t.Cleanup(func() {
		if w.stop != nil {
			w.stop()
		}
	})
	return w
}

// launcher runs supervisors from this test binary.
func launcher() job.Launcher { return job.SelfLauncher() }

// start starts the agent.
func (w *world) start() *world {
	w.t.Helper()
	log := zerolog.Nop()
	if os.Getenv("AZGUEST_TEST_LOG") != "" {
		log = zerolog.New(zerolog.NewTestWriter(w.t))
	}
	w.m = New(w.root, launcher(), w.repo, w.evs, log, w.cfg)
	if w.boot != "" {
		w.m.boot = w.boot
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	m := w.m
	go func() { done <- m.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
		w.stop = nil
	}
	return w
}

func (w *world) restart() {
	w.stop()
	w.start()
}

// ext describes a handler in a goal state.
func ext(name, version string, seq int) protocol.Handler {
	h := protocol.Handler{Name: name, Version: version, Want: protocol.WantEnabled, Manifests: []secret.URL{secret.NewURL("test://" + name)}}
	if seq >= 0 {
		h.Settings = []protocol.Settings{{Name: name, Seq: seq, Want: protocol.WantEnabled, Public: []byte(`{"a": 1.0}`)}}
	}
	return h
}

func gone(h protocol.Handler) protocol.Handler {
	h.Want = protocol.WantUninstall
	return h
}

// multi describes a multi-config handler; "x:3" is extension x with sequence
// number 3, "-x:3" the same to be deleted.
func multi(name, version string, exts ...string) protocol.Handler {
	h := ext(name, version, -1)
	h.MultiConfig = true
	for _, e := range exts {
		s := protocol.Settings{Want: protocol.WantEnabled}
		if strings.HasPrefix(e, "-") {
			s.Want, e = protocol.WantDisabled, e[1:]
		}
		n, _, _ := strings.Cut(e, ":")
		if _, err := fmt.Sscanf(e[len(n):], ":%d", &s.Seq); err != nil {
			panic(err)
		}
		s.Name = n
		h.Settings = append(h.Settings, s)
	}
	return h
}

func level(h protocol.Handler, n int, after ...string) protocol.Handler {
	h.Level = n
	for i := range h.Settings {
		h.Settings[i].Level = n
		for _, a := range after {
			h.Settings[i].After = append(h.Settings[i].After, protocol.Dependency{Handler: a})
		}
	}
	return h
}

// state builds the next goal state.
func (w *world) state(hs ...protocol.Handler) *protocol.GoalState {
	w.inc++
	return &protocol.GoalState{
		Incarnation: fmt.Sprint(w.inc), ID: fmt.Sprintf("incarnation_%d", w.inc), SeqNo: []byte(fmt.Sprint(w.inc)),
		Desired: protocol.Desired{Handlers: hs},
	}
}

// offer hands over a goal state and waits until all rows are final.
func (w *world) offer(hs ...protocol.Handler) Snapshot {
	w.t.Helper()
	gs := w.state(hs...)
	w.m.Offer(gs)
	return w.await("goal state done", func(s Snapshot) bool { return s.Key == gs.Key() && s.GoalState != nil && w.m.settled() && s.Converged })
}

// processed hands over a goal state and waits until nothing is left to be run,
// whatever the handlers report.
func (w *world) processed(hs ...protocol.Handler) Snapshot {
	w.t.Helper()
	gs := w.state(hs...)
	w.m.Offer(gs)
	w.await("goal state processed", func(s Snapshot) bool { return s.Key == gs.Key() && w.m.settled() })
	return w.m.Status() // the last report may be slightly older
}

func (m *Manager) settled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.view.pass == nil || !m.view.pass.settled {
		return false
	}
	for _, h := range m.view.handlers {
		if h.busy != nil {
			return false
		}
	}
	return true
}

// patience is when a test that hangs fails; long enough for slow machines.
const patience = 5 * time.Minute

// await waits for a report for which ok is true.
func (w *world) await(what string, ok func(Snapshot) bool) Snapshot {
	w.t.Helper()
	late := time.After(patience)
	for {
		s := w.m.Status()
		if ok(s) {
			return s
		}
		select {
		case <-w.m.Changed():
		case <-time.After(50 * time.Millisecond):
		case <-late:
			w.t.Fatalf("%s: not in %v; last report: %s\ncalls: %q", what, patience, show(s), w.calls())
		}
	}
}

func (w *world) calls() []string {
	b, err := w.root.ReadFile("/var/lib/waagent/calls.log")
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (w *world) clearCalls() {
	_ = w.root.Remove("/var/lib/waagent/calls.log")
}

func (w *world) base(name string) string { return w.root.Path("/var/lib/waagent/" + name) }

func (w *world) read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		w.t.Errorf("read: %v", err)
	}
	return string(b)
}

// show formats a report with one line per row.
func show(s Snapshot) string {
	var b strings.Builder
	for _, h := range s.Handlers {
		fmt.Fprintf(&b, "%s %s %s %d", h.Name, h.Version, h.Status, h.Code)
		if e := h.Extension; e != nil {
			fmt.Fprintf(&b, " | ")
			if e.Multi {
				fmt.Fprintf(&b, "%s ", e.Name)
			}
			fmt.Fprintf(&b, "%d %s %s", e.Seq, e.Status, e.Code)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func message(s Snapshot, i int) string {
	if i >= len(s.Handlers) {
		return ""
	}
	if e := s.Handlers[i].Extension; e != nil && e.Message != nil && e.Status != handler.Success {
		return *e.Message
	}
	if m := s.Handlers[i].Message; m != nil {
		return *m
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func writeFile(t testing.TB, path, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

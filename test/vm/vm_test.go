package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// verdicts are the failures with their reasons. TestMain prints them again at
// the end of the log.
var verdicts []string

func TestMain(m *testing.M) {
	code := m.Run()
	for _, v := range verdicts {
		fmt.Println("verdict:", v)
	}
	os.Exit(code)
}

// TestScenarios boots machines; scripts/test --full prepares them and sets
// AZGUEST_VM.
func TestScenarios(t *testing.T) {
	if os.Getenv("AZGUEST_VM") == "" {
		t.Skip("AZGUEST_VM is not set; see scripts/test --full")
	}
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cuts := 0 // the default
	if os.Getenv("AZGUEST_LONG") == "" {
		cuts = 2
	}
	// One at a time, so that measurements are not disturbed.
	for _, s := range Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			var said strings.Builder
			r, err := Play(t.Context(), Options{Repo: repo, Cache: cache, Mirror: Mirror(t.Context()), Cuts: cuts, Out: io.MultiWriter(t.Output(), &said)}, s)
			if err != nil {
				for line := range strings.Lines(tail(said.String(), 80)) {
					verdicts = append(verdicts, s.Name+": "+strings.TrimRight(line, "\n"))
				}
				verdicts = append(verdicts, s.Name+": "+err.Error())
				t.Fatal(err)
			}
			t.Logf("power on to Ready: %.1f s", r.ToReady.Seconds())
		})
	}
}

func TestScenarioNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Scenarios() {
		if s.Name == "" || s.About == "" || s.Play == nil || seen[s.Name] {
			t.Errorf("incomplete or twice: %+v", s)
		}
		seen[s.Name] = true
	}
}

func TestVariantScript(t *testing.T) {
	v := Variant{Files: map[string]string{"/b/x": "one\n", "/a/y": "it's $HOME"}, Script: "true\n"}
	want := "mkdir -p '/a'\ncat >'/a/y' <<'END-OF-FILE'\nit's $HOME\nEND-OF-FILE\n" +
		"mkdir -p '/b'\ncat >'/b/x' <<'END-OF-FILE'\none\nEND-OF-FILE\ntrue\n"
	if got := v.script(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestLab creates the network and connects to it, without a machine.
func TestLab(t *testing.T) {
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("needs root")
	}
	for _, program := range []string{"ip", "dnsmasq", "nsenter"} {
		if _, err := run(t.Context(), nil, "sh", "-c", "command -v "+program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	l, err := NewLab(t.Context(), t.Logf)
	if err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	defer l.Close()
	out, err := l.runInside(t.Context(), "ip", "-brief", "address")
	if err != nil || !strings.Contains(out, endpoint) || !strings.Contains(out, metadata) {
		t.Errorf("addresses: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if conn, err := l.dial(ctx, "tcp", gateway+":1"); err == nil {
		_ = conn.Close()
		t.Error("connected to a port nobody listens on")
	} else if ctx.Err() != nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dial into the lab: %v, want it refused there", err)
	}
	ns := l.ns
	l.Close()
	if _, err := os.Stat(filepath.Join(netnsDir, ns)); err == nil {
		t.Error("the namespace is still there")
	}
	if _, err := os.Stat(l.Dir); err == nil {
		t.Error("the scratch directory is still there")
	}
}

// TestDied: a machine has died if its kernel has panicked, but only since it
// was last switched on.
func TestDied(t *testing.T) {
	l := &Lab{Dir: t.TempDir()}
	m := &Machine{lab: l}
	if err := m.Died(); err == nil {
		t.Error("Died() of a machine that is off: no error")
	}
	var err error
	if m.qemu, err = start(l.path("qemu.log"), "sleep", "60"); err != nil {
		t.Fatal(err)
	}
	defer m.Cut()
	const panicked = "[ 0.08] Kernel panic - not syncing: no timer\r\n[ 0.08] CPU: 0\r\n"
	if err := os.WriteFile(m.console(), []byte("[ 0.04] hello\r\n"+panicked), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Died(); err == nil || err.Error() != "the guest's kernel panicked - not syncing: no timer" {
		t.Errorf("got %v", err)
	}
	m.printed = len(m.Console())
	if err := m.Died(); err != nil {
		t.Errorf("after a panic before the last start: %v", err)
	}
	m.Cut()
	if err := m.Died(); err == nil {
		t.Error("Died() after Cut: no error")
	}
}

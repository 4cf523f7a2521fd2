package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/test/fabric"
)

func TestLogsLeaveOnlyWithConsent(t *testing.T) {
	t.Parallel()
	f := fabric.New(t)
	f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
	for text, want := range map[string]bool{"": false, "Logs.Collect=y\n": true, "Logs.Collect=n\n": false} {
		cfg, warns := config.Parse("/etc/waagent.conf", []byte("OS.EnableFIPS=n\n"+text))
		if len(warns) > 0 {
			t.Fatal(warns)
		}
		a := testAgent(t, f)
		a.cfg = cfg
		if got := a.shipsLogs(); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestLogsAreUploaded(t *testing.T) {
	t.Parallel()
	f := fabric.New(t)
	f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
	a := testAgent(t, f)
	a.Runner = &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}
	if err := a.Root.MkdirAll("/var/lib/waagent/logcollector", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := a.Root.WriteFile("/var/lib/waagent/logcollector/logs.zip", []byte("PK\x05\x06"+strings.Repeat("\x00", 18)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.platform.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer a.platform.Close()
	if _, err := a.platform.GoalState(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := a.shipLogs(t.Context()); err != nil { // no upload in the first minutes
		t.Fatal(err)
	}
	if n := count(f, time.Time{}, fabric.AgentLog); n != 0 {
		t.Errorf("%d uploads at once", n)
	}
	a.nextLogs = time.Now().Add(-time.Second)
	if err := a.shipLogs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := count(f, time.Time{}, fabric.AgentLog); n != 1 {
		t.Errorf("%d uploads, want 1", n)
	}
	if err := a.shipLogs(t.Context()); err != nil || count(f, time.Time{}, fabric.AgentLog) != 1 {
		t.Errorf("again within the hour: %v", err)
	}
	for _, e := range f.Journal(fabric.Query{Problems: true}) {
		t.Errorf("a strict platform would object: %v", e.Problems)
	}
}

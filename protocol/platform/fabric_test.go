package platform_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/cms"
	"github.com/azguest/azguest/protocol/platform"
	"github.com/azguest/azguest/test/fabric"
)

// TestAgainstTheFabric runs the client against the emulator, which others
// wrote from the specification: in each configuration of the emulator the
// client gets its certificates, opens protected settings with them, downloads
// the package, and its reports are accepted by the control plane.
func TestAgainstTheFabric(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*fabric.Config){
		"plain":         func(*fabric.Config) {},
		"fast track":    func(c *fabric.Config) { c.FastTrack, c.MixedCaseKeys = true, true },
		"no vmSettings": func(c *fabric.Config) { c.NoVMSettings = true },
		"page blob":     func(c *fabric.Config) { c.StatusBlob = "PageBlob" },
		"DES only":      func(c *fabric.Config) { c.Certificates.OnlyDES = true },
		"FIPS":          func(c *fabric.Config) { c.Certificates.FIPS = true },
		"old shape":     func(c *fabric.Config) { c.OldShape = true },
		"on hold":       func(c *fabric.Config) { c.OnHold = true },
		"users": func(c *fabric.Config) {
			c.Users = []fabric.User{{Name: "jit", Password: "pässword", Expires: time.Date(2035, 1, 2, 3, 4, 5, 0, time.UTC)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			againstFabric(t, name, change)
		})
	}
}

func againstFabric(t *testing.T, name string, change func(*fabric.Config)) {
	ctx := t.Context()
	f := fabric.New(t)
	var pkg bytes.Buffer
	w := zip.NewWriter(&pkg)
	m, err := w.Create("HandlerManifest.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Write([]byte(`[{"name":"Echo","version":1.0,"handlerManifest":{"installCommand":"i","enableCommand":"e","uninstallCommand":"u","updateCommand":"p","disableCommand":"d"}}]`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.AddPackage("Contoso.Echo", "1.0.0", pkg.Bytes()); err != nil {
		t.Fatal(err)
	}
	vm := f.CreateVM("vm-01", fabric.Linux("azureuser", ""), fabric.WithConfig(change))
	root := host.Root(t.TempDir())
	c := platform.New(platform.Options{Root: root, HTTP: vm.Client(), AgentVersion: "9.9.9.9", VMID: vm.ID(), Log: zerolog.New(zerolog.NewTestWriter(t))})
	defer c.Close()
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.ReportHealth(ctx, protocol.Health{State: protocol.Ready}); err != nil || vm.Health().State != "Ready" {
		t.Fatalf("health: %v, %+v", err, vm.Health())
	}
	gs, err := c.GoalState(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if gs.OnHold != (name == "on hold") {
		t.Errorf("on hold: %v", gs.OnHold)
	}
	if name == "users" && (gs.Users == nil || len(gs.Users.Users) != 1 || gs.Users.Users[0].Err != nil || gs.Users.Users[0].Password.Reveal() != "pässword") {
		t.Errorf("users: %+v", gs.Users)
	}
	if err := vm.Put(fabric.Extension{Handler: "Contoso.Echo", Version: "1.0.0", Settings: map[string]any{"text": "hi"}, Protected: map[string]any{"key": "canary"}}); err != nil {
		t.Fatal(err)
	}
	if gs, err = c.GoalState(ctx, gs.Key()); err != nil {
		t.Fatal(err)
	}
	if len(gs.Handlers) != 1 || gs.Handlers[0].Invalid != "" || gs.CertsErr != nil {
		t.Fatalf("goal state: %+v, %v", gs.Handlers, gs.CertsErr)
	}
	if want := name == "fast track"; (gs.Source == protocol.FastTrack) != want {
		t.Errorf("source %s", gs.Source)
	}
	h := gs.Handlers[0]
	s := h.Settings[0]
	if !strings.Contains(string(s.Public), `"hi"`) {
		t.Errorf("public settings: %s", s.Public)
	}
	crt, err1 := root.ReadFile("/var/lib/waagent/" + s.Thumbprint + ".crt")
	prv, err2 := root.ReadFile("/var/lib/waagent/" + s.Thumbprint + ".prv")
	open, err := cms.DecryptSettings(s.Protected, crt, prv)
	if err = errors.Join(err, err1, err2); err != nil || !strings.Contains(open.Reveal(), "canary") {
		t.Errorf("protected settings: %v", err)
	}
	man, err := c.Manifest(ctx, h.Manifests)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Package(ctx, man.Versions[0].URIs, man.From, "/p.zip", 1<<20, nil); err != nil {
		t.Error(err)
	}
	if got, err := root.ReadFile("/p.zip"); err != nil || !bytes.Equal(got, pkg.Bytes()) {
		t.Errorf("package: %v, %d bytes", err, len(got))
	}
	msg := "Plugin enabled"
	r, err := c.ReportStatus(ctx, protocol.Status{
		Agent: protocol.AgentStatus{Version: "9.9.9.9"},
		Handlers: []protocol.HandlerStatus{{
			Name: h.Name, Version: h.Version, Status: "Ready", Message: &msg,
			Extension: &protocol.ExtensionStatus{Name: h.Name, Seq: s.Seq, Status: "success", Operation: "Enable", Code: json.RawMessage("0"), Message: &msg},
		}},
		OS:        protocol.OSInfo{ComputerName: "vm-01", Name: "debian", Version: "12"},
		GoalState: &protocol.GoalStateStatus{OK: true, SeqNo: gs.SeqNo, Done: time.Now()},
	})
	if err != nil || !r.Accepted {
		t.Errorf("status: %+v, %v", r, err)
	}
	if err := vm.Wait(ctx, fabric.Ready("Contoso.Echo")); err != nil {
		t.Error(err)
	}
	if err := c.SendEvents(ctx, []event.Event{{Kind: event.Operation, Name: "WALinuxAgent", Op: "x", OK: true, Time: time.Now()}}); err != nil {
		t.Error(err)
	}
	if err := c.Heartbeat(ctx); err != nil {
		t.Error(err)
	}
	if err := c.UploadLogs(ctx, pkg.Bytes()); err != nil {
		t.Error(err)
	}
	// The host moves the machine: nothing of this may need a new incarnation.
	vm.Migrate(true)
	if _, err := c.Manifest(ctx, []secret.URL{man.From}); err != nil {
		t.Errorf("after a migration: %v", err)
	}
	for _, e := range f.Journal(fabric.Query{Problems: true}) {
		t.Errorf("a strict platform objects to %s %s: %q", e.Method, e.URL, e.Problems)
	}
}

// TestHealthTakenByAPage: a proxy that answers with a page and status 200 has not
// delivered the report, which is repeated until the platform has it.
func TestHealthTakenByAPage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := fabric.New(t)
		vm := f.CreateVM("vm-01", fabric.Linux("azureuser", ""))
		c := platform.New(platform.Options{Root: host.Root(t.TempDir()), Dial: f.DialContext, AgentVersion: "9.9.9.9", VMID: vm.ID(), Log: zerolog.Nop()})
		page := "\ufeff\r\n <!doctype html><html>Sign in</html>"
		for _, kind := range []fabric.Kind{fabric.Health, fabric.ProvisioningHealth} {
			if _, err := f.Fail(fabric.Fault{Kind: kind, Status: 200, Body: &page, ContentType: "text/html", For: fabric.Duration(time.Minute)}); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		for c.ReportHealth(t.Context(), protocol.Health{State: protocol.Ready}) != nil && time.Since(start) < 5*time.Minute {
			time.Sleep(30 * time.Second) // as the agent
		}
		if got := vm.Health().State; got != "Ready" || time.Since(start) > 3*time.Minute {
			t.Errorf("the platform has %q after %v", got, time.Since(start))
		}
		c.Close()
		synctest.Wait()
		_ = f.Close()
	})
}

// TestHealthWithoutNames: a report needs the names of the goal state, unless
// it goes to the service that knows the machine by its address.
func TestHealthWithoutNames(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kind fabric.Kind
		code int
	}{
		"reports are refused":          {fabric.Health, 400},
		"the goal state is gone":       {fabric.GoalState, 400},
		"the goal state does not come": {fabric.GoalState, 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := fabric.New(t)
				vm := f.CreateVM("vm-01", fabric.Linux("azureuser", ""))
				c := platform.New(platform.Options{Root: host.Root(t.TempDir()), Dial: f.DialContext, AgentVersion: "9.9.9.9", VMID: vm.ID(), Log: zerolog.Nop()})
				vm.Fail(tc.kind, tc.code, 0)
				h := protocol.Health{State: protocol.NotReady, SubStatus: "ProvisioningFailed", Description: "result=error|reason=\"ö\""}
				start := time.Now()
				if err := c.ReportHealth(t.Context(), h); err != nil {
					t.Error(err)
				}
				if got := vm.Health(); got.State != "NotReady" || got.SubStatus != h.SubStatus || got.Description != h.Description {
					t.Errorf("the platform has %+v", got)
				}
				if took := time.Since(start); took > 90*time.Second {
					t.Errorf("it took %v", took)
				}
				for _, e := range f.Journal(fabric.Query{Kind: fabric.ProvisioningHealth, Problems: true}) {
					t.Errorf("a strict platform would object: %v", e.Problems)
				}
				c.Close()
				synctest.Wait()
				_ = f.Close()
			})
		})
	}
}

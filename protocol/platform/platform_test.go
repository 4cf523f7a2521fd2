package platform

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// TestFirstMinutes does what an agent does in a machine's first minutes: it
// connects, reports, gets a goal state with certificates and an extension,
// downloads, and reports status.
func TestFirstMinutes(t *testing.T) {
	t.Parallel()
	f := newHost(t)
	f.tenant = []tenant{newTenant(t, "tenant"), newTenant(t, "other")}
	f.ext = strings.Replace(extNone, "</Extensions>", `<Plugins><Plugin name="Contoso.Echo" version="1.0" location="https://a.example/m.xml" state="enabled"/></Plugins>
<PluginSettings><Plugin name="contoso.echo" version="1.0"><RuntimeSettings seqNo="0">{"runtimeSettings":[{"handlerSettings":{"publicSettings":{"k":1}}}]}</RuntimeSettings></Plugin></PluginSettings></Extensions>`, 1)
	f.blobs["https://a.example/m.xml"] = []byte(`<PluginVersionManifest><Plugins><Plugin><Version>1.0.0</Version><Uris><Uri>https://a.example/p.zip</Uri></Uris></Plugin></Plugins></PluginVersionManifest>`)
	f.blobs["https://a.example/p.zip"] = []byte(strings.Repeat("zip", 100000))
	root := host.Root(t.TempDir())
	c := f.client(root, nil)
	ctx := t.Context()
	if err := c.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.ReportHealth(ctx, protocol.Health{State: protocol.NotReady, SubStatus: "Provisioning", Description: "Starting & <more>"}); err != nil {
		t.Fatal(err)
	}
	if err := c.ReportHealth(ctx, protocol.Health{State: protocol.Ready}); err != nil {
		t.Fatal(err)
	}
	if len(f.health) != 2 || !strings.Contains(f.health[1], "<State>Ready</State></Health>") || !strings.Contains(f.health[0], "Starting &amp; &lt;more&gt;") {
		t.Errorf("health reports: %q", f.health)
	}
	gs, err := c.GoalState(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if gs.ID != "incarnation_1" || gs.Source != protocol.Fabric || string(gs.SeqNo) != `"1"` || len(gs.Handlers) != 1 || gs.CertsErr != nil || len(gs.Certs) != 2 {
		t.Errorf("goal state: %+v", gs)
	}
	thumb := gs.Certs[0].Thumbprint
	if !root.Exists("/var/lib/waagent/"+thumb+".crt") || !root.Exists("/var/lib/waagent/"+thumb+".prv") {
		t.Errorf("no files for %s", thumb)
	}
	if all, err := root.ReadFile("/var/lib/waagent/Certificates.pem"); err != nil || strings.Count(string(all), "-----BEGIN CERTIFICATE-----\n") != 2 || strings.Contains(string(all), "KEY") {
		t.Errorf("certificates for the machine's authorities: %v\n%s", err, all)
	}
	if _, err := c.GoalState(ctx, gs.Key()); !errors.Is(err, protocol.ErrNotModified) {
		t.Errorf("second goal state: %v, want not modified", err)
	}
	m, err := c.Manifest(ctx, gs.Handlers[0].Manifests)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := c.Package(ctx, m.Versions[0].URIs, m.From, "/p.zip", 1<<20, nil)
	if err != nil || len(sum) != 64 {
		t.Fatalf("Package() = %q, %v", sum, err)
	}
	if len(f.requests("a.example")) != 0 {
		t.Errorf("host first, but storage was asked: %v", f.requests("a.example"))
	}
	if _, err := c.Package(ctx, m.Versions[0].URIs, m.From, "/small.zip", 1<<10, nil); err == nil || root.Exists("/small.zip") {
		t.Errorf("a package beyond its limit: %v", err)
	}
	if left, _ := filepath.Glob(root.Path("/.*part*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	r, err := c.ReportStatus(ctx, protocol.Status{Agent: protocol.AgentStatus{Version: "9.9.9"}, GoalState: &protocol.GoalStateStatus{OK: true, SeqNo: gs.SeqNo, Done: time.Now()}})
	if err != nil || !r.Accepted || r.Via != "host" || !json.Valid(f.status) {
		t.Errorf("ReportStatus() = %+v, %v; %s", r, err, f.status)
	}
	if err := c.SendEvents(ctx, []event.Event{{Kind: event.Operation, Op: "x", OK: true, Message: "https://a.example/b?sig=canary"}}); err != nil {
		t.Error(err)
	}
	if len(f.telemetry) != 1 || strings.Contains(f.telemetry[0], "canary") || !strings.Contains(f.telemetry[0], `Name="Location" Value="westus2"`) {
		t.Errorf("telemetry: %s", f.telemetry)
	}
	if err := c.UploadLogs(ctx, []byte("zip")); err != nil || string(f.blobs["log"]) != "zip" {
		t.Errorf("logs: %v", err)
	}
	if err := c.Heartbeat(ctx); err != nil || len(f.telemetry) != 2 {
		t.Errorf("heartbeat: %v, %q", err, f.telemetry)
	}
	_ = secret.URL{}
}

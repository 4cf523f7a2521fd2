package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/extensions"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/platform"
)

func TestExtensionCode(t *testing.T) {
	for name, tc := range map[string]struct {
		d    extensions.Detail
		want string
	}{
		"well":                  {extensions.Detail{Status: "success", Ready: "Ready"}, ""},
		"runs":                  {extensions.Detail{Status: "error", Ready: "NotReady", Phase: "enable", Cause: "AZ-EXT-EXIT"}, ""},
		"waits":                 {extensions.Detail{Status: "error", Ready: "NotReady", BlockedBy: "the operator", Cause: "AZ-EXT-EXIT"}, ""},
		"old cause, well":       {extensions.Detail{Status: "success", Ready: "Ready", Cause: "AZ-EXT-EXIT"}, ""},
		"exit":                  {extensions.Detail{Status: "error", Ready: "NotReady", Cause: "AZ-EXT-EXIT", Code: 1009}, "AZ-EXT-EXIT"},
		"own error":             {extensions.Detail{Status: "error", Ready: "Ready", Cause: "AZ-EXT-REPORTED", Message: "no such package"}, "AZ-EXT-REPORTED"},
		"denied":                {extensions.Detail{Ready: "NotReady", Cause: "AZ-POL-DENIED", Message: "Extension will not be processed"}, "AZ-POL-DENIED"},
		"noexec":                {extensions.Detail{Ready: "NotReady", Cause: "AZ-EXT-NOEXEC", Message: "AZ-EXT-NOEXEC: /var", Code: 1001}, "AZ-EXEC-NOEXEC"},
		"heartbeat":             {extensions.Detail{Ready: "Unresponsive", Cause: "AZ-EXT-UNRESPONSIVE"}, "AZ-EXT-UNRESPONSIVE"},
		"ERR4 a handler's word": {extensions.Detail{Status: "error", Ready: "Ready", Message: "AZ-NET-DNS: [InvalidPolicyError] Extension will not be processed"}, "AZ-EXT-REPORTED"},
		"ERR4 of a command":     {extensions.Detail{Status: "error", Ready: "NotReady", Cause: "AZ-EXT-EXIT", Message: "invalid package AZ-POL-DENIED"}, "AZ-EXT-EXIT"},
	} {
		got := extensionCode(tc.d)
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
		if _, known := doctor.Lookup(got); got != "" && !known {
			t.Errorf("%s: %s can't be explained", name, got)
		}
	}
}

func TestEndpointCodes(t *testing.T) {
	faults := []string{
		platform.FaultRoute, platform.FaultBlocked, platform.FaultRefused, platform.FaultTimeout, platform.FaultProxy,
		platform.FaultTLS, platform.FaultDNS, platform.FaultStatus, platform.FaultNetwork,
	}
	for _, name := range []string{platform.WireServer, platform.HostPlugin, platform.Metadata, platform.Storage} {
		for _, fault := range faults {
			e := endpoint(platform.EndpointFact{Name: name, Fault: fault, Since: time.Now(), Failures: 2, Err: "x"})
			if _, known := doctor.Lookup(e.Code); !known || e.Code == "" || e.Fix == "" || e.Since.IsZero() || e.State == status.OK {
				t.Errorf("%s %s: %+v", name, fault, e)
			}
		}
		once := endpoint(platform.EndpointFact{Name: name, Fault: platform.FaultTimeout, LastOK: time.Now(), Since: time.Now(), Failures: 1})
		if once.Code != "" {
			t.Errorf("%s: one failure is a fault: %+v", name, once)
		}
	}
	for want, f := range map[string]platform.EndpointFact{
		"AZ-NET-WIRESERVER": {Name: platform.WireServer, Fault: platform.FaultTimeout},
		"AZ-NET-HOSTPLUGIN": {Name: platform.HostPlugin, Fault: platform.FaultRefused},
		"AZ-NET-IMDS":       {Name: platform.Metadata, Fault: platform.FaultTimeout},
		"AZ-NET-NOROUTE":    {Name: platform.WireServer, Fault: platform.FaultRoute},
		"AZ-NET-PROXY":      {Name: platform.Storage, Fault: platform.FaultProxy},
		"AZ-NET-TLS":        {Name: platform.Storage, Fault: platform.FaultTLS},
		"AZ-NET-DNS":        {Name: platform.Storage, Fault: platform.FaultDNS},
		"AZ-NET-STORAGE":    {Name: platform.Storage, Fault: platform.FaultTimeout},
		"AZ-FW-BLOCKED":     {Name: platform.WireServer, Fault: platform.FaultBlocked},
	} {
		if got := endpointCode(f.Name, f.Fault); got != want {
			t.Errorf("%s %s: %s, want %s", f.Name, f.Fault, got, want)
		}
	}
}

func TestCerts(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	gs := &protocol.GoalState{
		Received: time.Now(),
		Certs: []protocol.Certificate{
			{Thumbprint: "AA", CertPEM: certPEM, KeyPEM: secret.New("k")},
			{Thumbprint: "BB", CertPEM: certPEM},
			{Thumbprint: "CC", CertPEM: []byte("rubbish")},
		},
	}
	gs.Handlers = []protocol.Handler{{Name: "P.T", Settings: []protocol.Settings{{Thumbprint: "aa"}, {Thumbprint: "BB"}, {Thumbprint: "DD"}, {Thumbprint: "DD"}}}}
	got := certs(gs)
	if len(got) != 4 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []struct{ code, kind string }{{"", "EC P-256"}, {"AZ-CERT-NOKEY", "EC P-256"}, {"", ""}, {"AZ-CERT-MISSING", ""}} {
		if got[i].Code != want.code || got[i].KeyType != want.kind {
			t.Errorf("%d: %+v, want %+v", i, got[i], want)
		}
	}
	if !got[0].NotAfter.Equal(until) || len(got[3].UsedBy) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestRequester(t *testing.T) {
	var x requesters
	at := time.Now()
	gs := func(activity string, seq int, when time.Time) *protocol.GoalState {
		g := &protocol.GoalState{Received: when}
		g.ActivityID, g.Handlers = activity, []protocol.Handler{{Name: "P.T", Version: "1", Settings: []protocol.Settings{{Name: "P.T", Seq: seq}}}}
		return g
	}
	d := extensions.Detail{Name: "P.T", Version: "1", Seq: 0, Started: at.Add(time.Second)}
	x.set(gs("one", 0, at))
	x.set(gs("two", 0, at.Add(time.Hour))) // the same settings again: still requested by the first
	if got := x.by(d); got != "activity one" {
		t.Error(got)
	}
	d.Started = at.Add(-time.Hour)
	if got := x.by(d); got != "" {
		t.Errorf("attributed to %s, but it had started before", got)
	}
	x.set(gs("three", 1, at))
	d.Seq, d.Started = 1, at.Add(time.Minute)
	if got := x.by(d); got != "activity three" {
		t.Error(got)
	}
}

// TestTOOL5FiguresAreCurrent: the use of the processor is that of the last
// minutes, and a goal state that has been applied in time does not become late
// when work is done again.
func TestTOOL5FiguresAreCurrent(t *testing.T) {
	start := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	w := cpuSince(start)
	for i, c := range []struct {
		after   time.Duration // since start
		seconds float64       // processor time since start
		want    float64
	}{
		{time.Second, 1, 100},        // a busy first second
		{50 * time.Second, 2, 4},     // which does not count for long
		{5 * time.Minute, 30, 10},    // since the start
		{10 * time.Minute, 30, 0},    // idle since the last measurement
		{15 * time.Minute, 60, 10},   // busy again
		{15*time.Minute + 1, 60, 10}, // soon after the last one
		{20 * time.Minute, 60, 0},    // idle
		{19 * time.Minute, 60, 0},    // the clock was set back
	} {
		if got := w.percent(start.Add(c.after), c.seconds); got < c.want-.09 || got > c.want+.09 {
			t.Errorf("measurement %d: %.3f %%, want %.3f", i, got, c.want)
		}
	}

	a := testAgent(t, nil)
	gs := &protocol.GoalState{ID: "7"}
	a.loop.gs = gs
	received := time.Now().Add(-time.Hour)
	a.live.set(func(s *status.Snapshot) { s.Platform.GoalState.Received = received })
	a.applied(extensions.Snapshot{Key: gs.Key(), Converged: true})
	first := a.live.copy().Platform.GoalState
	if first.LagS < 3600 || first.Applied.IsZero() {
		t.Fatalf("applied: %+v", first)
	}
	a.live.set(func(s *status.Snapshot) { s.Platform.GoalState.LagS = 2 }) // as if it had been applied at once
	a.applied(extensions.Snapshot{Key: gs.Key()})                          // resume: an extension runs again
	if g := a.live.copy().Platform.GoalState; !g.Applied.IsZero() || g.LagS != 2 {
		t.Errorf("while work is done again: %+v", g)
	}
	a.applied(extensions.Snapshot{Key: gs.Key(), Converged: true})
	if g := a.live.copy().Platform.GoalState; g.Applied.IsZero() || g.LagS != 2 {
		t.Errorf("after work was done again: %+v", g)
	}
}

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// screen waits until agentctl status prints all of want, and returns its
// output. Every code in it must come with a fix.
func (c *cloud) screen(t testing.TB, exit int, want ...string) string {
	t.Helper()
	var out string
	code := -1
	last := func() bool {
		r, _ := c.Run(t.Context(), "agentctl", "status")
		out, code = r.Stdout+r.Stderr, r.Code
		for _, w := range want {
			if !strings.Contains(out, w) {
				return false
			}
		}
		return code == exit
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("exit %d, want %d and %q:\n%s", code, exit, want, out)
		}
	})
	await(t, "the screen", last)
	t.Logf("exit %d\n%s", code, out)
	if strings.Count(out, "AZ-") > 0 && !strings.Contains(out, "fix: ") && !strings.Contains(out, "NOT RUNNING") {
		t.Errorf("a code without a fix:\n%s", out)
	}
	return out
}

// codes returns the findings of agentctl doctor with their codes.
func (c *cloud) codes(t testing.TB) string {
	t.Helper()
	r, _ := c.Run(t.Context(), "agentctl", "doctor", "-o", "json")
	var d struct {
		Findings []struct{ Check, State, Code, Evidence, Fix string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
		t.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
	}
	var b strings.Builder
	for _, f := range d.Findings {
		if f.Code != "" && f.Fix == "" {
			t.Errorf("doctor: %+v: no fix", f)
		}
		b.WriteString(f.Check + " " + f.State + " " + f.Code + "\n")
	}
	return b.String()
}

func fail(t testing.TB, c *cloud, f fabric.Fault) int {
	t.Helper()
	id, err := c.Fabric.Fail(f)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestScreens: in each faulty state, the output says what is wrong, since when
// and how to fix it, and the exit code fits.
func TestScreens(t *testing.T) {
	t.Parallel()
	t.Run("starting", func(t *testing.T) {
		o := blank()
		o.NoMedium = true
		c := newAgentCloud(t, o)
		c.StartAgent(t)
		c.screen(t, 1, "STARTING", "waiting for the provisioning medium")
	})
	t.Run("waiting for cloud-init", func(t *testing.T) {
		c := newAgentCloud(t, blank())
		c.Sh(t, "mkdir -p /etc/waagent.conf.d && echo Provisioning.Agent=cloud-init >/etc/waagent.conf.d/x.conf")
		c.StartAgent(t)
		c.screen(t, 1, "STARTING", "by cloud-init", "waiting for cloud-init (Provisioning.Agent=cloud-init)")
	})
	t.Run("provisioning failed", func(t *testing.T) {
		o := blank()
		o.NoIMDS = true
		o.Medium = func(m *fabric.Medium) { m.Malformed = true }
		c := newAgentCloud(t, o)
		c.StartAgent(t)
		c.screen(t, 2, "FAILED", "provision", "AZ-PROV-", "fix: ")
		if r, _ := c.Run(t.Context(), "agentctl", "status", "--wait=ready", "--timeout", "30s"); r.Code != 2 {
			t.Errorf("--wait=ready: exit %d, want 2 at once", r.Code)
		}
	})
	t.Run("platform unreachable", func(t *testing.T) {
		c := newAgentCloud(t, blank())
		id := fail(t, c, fabric.Fault{Kind: "*", Reset: true})
		c.StartAgent(t)
		c.screen(t, 2, "FAILED", "AZ-NET-WIRESERVER", "wireserver error", "fix: ")
		if got := c.codes(t); !strings.Contains(got, "wireserver error AZ-NET-WIRESERVER") {
			t.Errorf("doctor: %s", got)
		}
		c.Fabric.RemoveFault(id)
		c.WaitReady(t)
		if r, _ := c.Run(t.Context(), "agentctl", "status", "--wait=converged", "--timeout", "60s"); r.Code != 0 {
			t.Errorf("after it came back: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		c.screen(t, 0, "HEALTHY", "wireserver ok", "hostplugin ok")
		if got := c.codes(t); strings.Contains(got, "AZ-NET-WIRESERVER") {
			t.Errorf("doctor: %s", got)
		}
	})
	t.Run("extensions", func(t *testing.T) {
		o := blank()
		o.Packages = map[string][]byte{"Azguest.E2E.Crash/1.0.0": handler(t, crash), "Azguest.E2E.Slow/1.0.0": handler(t, slow), "Azguest.E2E.Other/1.0.0": handler(t, crash)}
		c := newAgentCloud(t, o)
		c.Sh(t, `mkdir -p /etc/waagent.conf.d && echo Extensions.PolicyMode=enforce >/etc/waagent.conf.d/x.conf
cat >/etc/waagent_policy.json <<.
{"policyVersion":"0.1.0","extensionPolicies":{"allowListedExtensionsOnly":true,"extensions":{"Azguest.E2E.Crash":{},"Azguest.E2E.Slow":{}}}}
.`)
		c.StartAgent(t)
		c.WaitReady(t)
		slowly := c.put(t, extension{name: "slow", publisher: "Azguest.E2E", kind: "Slow", version: "1.0", settings: map[string]any{"a": 1}})
		c.screen(t, 0, "RUNNING  Azguest.E2E.Slow 1.0.0", "enable 00:")
		c.follow(t, c.put(t, extension{name: "crash", publisher: "Azguest.E2E", kind: "Crash", version: "1.0", settings: map[string]any{"a": 1}}))
		c.screen(t, 1, "DEGRADED", "FAILED   Azguest.E2E.Crash 1.0.0", "exit 52", "AZ-EXT-DEPENDENCY", "RUNNING  Azguest.E2E.Slow", "fix: agentctl logs Azguest.E2E.Crash")
		c.follow(t, c.put(t, extension{name: "other", publisher: "Azguest.E2E", kind: "Other", version: "1.0", settings: map[string]any{"a": 1}}))
		c.screen(t, 1, "policy     enforce, denied: Azguest.E2E.Other", "AZ-POL-DENIED for ", "allowed")
		r, _ := c.Run(t.Context(), "agentctl", "status", "--wait=converged", "--timeout", "1s")
		if r.Code != 1 {
			t.Errorf("--wait=converged while one runs: exit %d, want 1", r.Code)
		}
		c.Sh(t, "touch /var/tmp/handler/go")
		if got := c.follow(t, slowly); got != "" {
			t.Error(got)
		}
		c.screen(t, 1, "1 ok, 2 failed")
	})
	t.Run("certificates", func(t *testing.T) {
		o := blank()
		o.Packages = samples(t)
		c := newAgentCloud(t, o)
		fail(t, c, fabric.Fault{Kind: fabric.Certificates, Status: 500})
		c.StartAgent(t)
		c.WaitReady(t)
		c.put(t, helloExtension)
		c.screen(t, 1, "certs", "AZ-CERT-MISSING", "AZ-CERT-FETCH", "needed by Azguest.Samples.Hello")
	})
	t.Run("disk low", func(t *testing.T) {
		c := newAgentCloud(t, blank())
		c.Sh(t, "mkdir -p /var/lib/waagent && mount -t tmpfs -o size=48m,mode=700 tmpfs /var/lib/waagent")
		c.StartAgent(t)
		c.WaitReady(t)
		c.screen(t, 1, "disk", "AZ-DISK-LOW", "agentctl disk --free")
	})
	t.Run("firewall", func(t *testing.T) {
		c := newAgentCloud(t, blank())
		c.Sh(t, "nft list tables && mkdir -p /etc/waagent.conf.d && echo OS.EnableFirewall=y >/etc/waagent.conf.d/x.conf")
		p := c.StartAgent(t)
		c.WaitReady(t)
		c.screen(t, 0, "HEALTHY", "firewall   nftables ok, verified")
		c.Sh(t, "nft add table ip admin && nft add chain ip admin o '{ type filter hook output priority 0; }' && nft add rule ip admin o ip daddr 168.63.129.16 drop")
		if got := c.codes(t); !strings.Contains(got, "AZ-FW-BLOCKED") {
			t.Errorf("doctor with a rule of an administrator: %s", got)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		c.screen(t, 3, "NOT RUNNING", "AZ-AGENT-DOWN: ", " old")
	})
}

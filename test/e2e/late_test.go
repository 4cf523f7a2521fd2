package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// succeeds puts an extension and waits until its operation has succeeded.
func (c *cloud) succeeds(t testing.TB, x fabric.Extension, meanwhile func()) {
	t.Helper()
	if err := c.VM.Put(x); err != nil {
		t.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
	}
	_, name, _ := strings.Cut(x.Handler, ".")
	await(t, x.Handler, func() bool {
		state, err := c.VM.ProvisioningState(name)
		if state == "Failed" {
			t.Fatalf("%s: %v", x.Handler, err)
		}
		return state == "Succeeded"
	})
}

// says waits until the status document contains a text.
func (c *cloud) says(t testing.TB, text string) {
	t.Helper()
	await(t, fmt.Sprintf("%q in the status", text), func() bool { d, _ := c.VM.StatusDocument(); return strings.Contains(string(d), text) })
}

// TestLateCertificateAndPackageManager: the agent waits for a certificate
// that is delivered after the settings that need it, and for a package manager
// that is in use, and reports what it waits for.
func TestLateCertificateAndPackageManager(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages["Late.Key/1.0.0"] = handler(t, `
[ $op != enable ] || { thumb=$(sed -n 's/.*Thumbprint": "\([0-9A-F]*\)".*/\1/p' "$home/config/$seq.settings")
	[ -e "/var/lib/waagent/$thumb.prv" ] && say success 0 "read" || say error 1 "no key $thumb"; }
`)
	o.Packages["Late.Packages/1.0.0"] = handler(t, `
# apt-get is what it would use
[ $op != enable ] || say success 0 "done"
`)
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	c.WaitReady(t)
	if _, err := c.Fabric.Fail(fabric.Fault{Kind: fabric.Certificates, Status: 404}); err != nil {
		t.Fatal(err)
	}
	if err := c.VM.RotateCertificate(); err != nil {
		t.Fatal(err)
	}
	c.succeeds(t, fabric.Extension{Handler: "Late.Key", Version: "1.0", Protected: map[string]any{"key": "canary"}}, func() {
		c.says(t, "is waiting for the certificate ")
		c.Fabric.RemoveFault(0)
	})
	c.Sh(t, `mkdir -p /var/lib/dpkg && mkfifo /var/tmp/free && (perl -e 'use Fcntl; open F, ">>", "/var/lib/dpkg/lock-frontend" or die;
$l = pack("s s l! l! i", F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) or die; open L, ">", "/var/tmp/locked"; open G, "<", "/var/tmp/free"; <G>' >/dev/null 2>&1 &)`)
	await(t, "the lock", func() bool { _, err := c.ReadFile("/var/tmp/locked"); return err == nil })
	c.succeeds(t, fabric.Extension{Handler: "Late.Packages", Version: "1.0", Settings: map[string]any{}}, func() {
		c.says(t, "is waiting for the package manager, used by perl (process ")
		c.Sh(t, "echo >/var/tmp/free")
	})
}

// TestMovedToAnOldHost: the machine moves, with a new agent, to a host without
// vmSettings whose goal state is older than the extensions. No command is run,
// nothing is deleted, and nothing disappears from the status. The status is
// written to the existing blob in its actual type, not in the type that the
// goal state names.
func TestMovedToAnOldHost(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Configure = func(c *fabric.Config) { c.FastTrack = true }
	o.Packages["Late.Plain/1.0.0"] = handler(t, "[ $op != enable ] || say success 0 \"round $seq\"\n")
	c := newAgentCloud(t, o)
	p := c.StartAgent(t)
	c.WaitReady(t)
	x := fabric.Extension{Handler: "Late.Plain", Version: "1.0", Settings: map[string]any{"n": 1}}
	c.succeeds(t, x, nil)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	calls := c.Sh(t, "cat /var/tmp/handler/calls")
	c.VM.SetConfig(func(cfg *fabric.Config) { cfg.NoVMSettings, cfg.FastTrack, cfg.StatusBlob = true, false, "PageBlob" })
	_, before := c.VM.StatusDocument()
	c.StartAgent(t)
	await(t, "a status", func() bool { _, n := c.VM.StatusDocument(); return n > before })
	c.says(t, "round 0")
	if now := c.Sh(t, "cat /var/tmp/handler/calls; [ -e /var/lib/waagent/fast_track.json ] && ls -d /var/lib/waagent/Late.Plain-*"); now != calls+"\n/var/lib/waagent/Late.Plain-1.0.0" {
		t.Errorf("before:\n%s\nafter:\n%s", calls, now)
	}
	x.Settings = map[string]any{"n": 2}
	c.succeeds(t, x, nil)
	if got := c.Sh(t, "tail -n 1 /var/tmp/handler/calls | cut -d' ' -f1,2; ls /var/lib/waagent/fast_track.json 2>/dev/null || echo none"); got != "enable 1\nnone" {
		t.Errorf("after a newer goal state: %q", got)
	}
}

package e2e

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// TestMetadata: agentctl metadata as root and as an ordinary user, with values
// that a shell must not execute, while a value changes, and with the service
// down.
func TestMetadata(t *testing.T) {
	t.Parallel()
	o := blank()
	o.telemetry = true // which fetches the document
	o.Provisioning.UserData = []byte("#!/bin/sh\necho hunter2-S3cret\n\x00\xff")
	c := newAgentCloud(t, o)
	c.VM.SetTags(map[string]string{"env": "prod", "evil": `'; touch /tmp/pwned; $(touch /tmp/pwned) "`, "db-password": "hunter2-S3cret"})
	c.Sh(t, `mkdir -p /etc/waagent.conf.d; echo Metadata.EnvFile=y >/etc/waagent.conf.d/metadata.conf`)
	p := c.StartAgent(t)
	c.WaitReady(t)
	await(t, "the copies of the metadata", func() bool {
		r, _ := c.Run(t.Context(), "test", "-e", "/run/azguest/metadata.env")
		return r.Code == 0
	})
	c.screen(t, 0, "metadata   fetched ", ", also in /run/azguest/metadata.env")
	const user = "setpriv --reuid=65534 --regid=65534 --clear-groups "
	try := func(do string, code int, want ...string) {
		t.Helper()
		r, _ := c.Run(t.Context(), "sh", "-c", do)
		for _, w := range want {
			if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, w) {
				t.Errorf("%s: exit %d, want %d and %q:\n%s%s", do, r.Code, code, w, r.Stdout, r.Stderr)
			}
		}
	}
	id := c.Sh(t, "agentctl metadata compute/vmId")
	if got := c.Sh(t, user+"agentctl metadata compute/vmId; "+user+"agentctl metadata --cached compute/vmId"); id == "" || got != id+"\n"+id {
		t.Errorf("vmId is %q for root, %q for a user", id, got)
	}
	try(user+"agentctl metadata", 0, "compute:\n", "  vmId: "+id+"\n", "userData: (", "network:\n  interface:\n    0:\n")
	try(user+"agentctl metadata network/interface/0/ipv4 --json", 0, `"privateIpAddress": "`)
	try(user+"agentctl metadata userdata | od -An -c | tr -d ' \n'", 0, `#!/bin/sh\nechohunter2-S3cret\n\0377`)
	try(`eval "$(`+user+`agentctl metadata --shell compute)"; echo "$AZ_COMPUTE_VMID $AZ_COMPUTE_TAGS_EVIL"; env | grep -c hunter2; test ! -e /tmp/pwned`, 0, id+` '; touch /tmp/pwned; $(touch /tmp/pwned) "`+"\n0\n")
	try(`set -eu; . /run/azguest/metadata.env; echo "$AZ_COMPUTE_TAGS_ENV $AZ_COMPUTE_TAGS_EVIL"; test ! -e /tmp/pwned`, 0, `prod '; touch /tmp/pwned; $(touch /tmp/pwned) "`)
	try(`grep -rl hunter2-S3cret /run/azguest; grep -rl "$(agentctl metadata compute/userData)" /run/azguest; stat -c '%a %n' /run/azguest/metadata.*`, 0, "644 /run/azguest/metadata.env\n644 /run/azguest/metadata.json\n")
	if r, _ := c.Run(t.Context(), "sh", "-c", `grep -rl hunter2-S3cret /run/azguest`); r.Stdout != "" {
		t.Errorf("a secret is in %s", r.Stdout)
	}
	try(user+"agentctl metadata compute/nothing", 1, `the metadata have no "compute/nothing"`)
	try(user+"agentctl __complete metadata compute/vm", 0, "compute/vmId\n")

	// A change, seen by an ordinary user who has the first answer when the second
	// question comes.
	asked := func() int { return len(c.Fabric.Journal(fabric.Query{Kind: fabric.Metadata, Contains: "2025-04-07"})) }
	before := asked()
	changed := make(chan string, 1)
	go func() {
		r, _ := c.Run(t.Context(), "sh", "-c", user+"agentctl metadata --wait-change compute/tags/env --every 1s --timeout 1m")
		changed <- r.Stdout + r.Stderr
	}()
	await(t, "agentctl to ask", func() bool { return asked() > before+1 })
	c.VM.SetTags(map[string]string{"env": "test"})
	if got := <-changed; got != "test\n" {
		t.Errorf("--wait-change printed %q", got)
	}
	// Root refreshes the copies.
	try(`agentctl metadata compute/tags/env; `+user+`agentctl metadata --cached compute/tags/env; . /run/azguest/metadata.env; echo "$AZ_COMPUTE_TAGS_ENV"`, 0, "test\ntest\ntest\n")

	// The service fails: the copy answers, and says how old it is.
	down := fail(t, c, fabric.Fault{Kind: fabric.Metadata, Reset: true})
	try(user+"agentctl metadata compute/tags/env", 5, "test\n", "printed from the copy, ")
	try(user+"agentctl metadata userdata", 3, "which may be secret")
	try(user+"agentctl metadata --wait-change compute/tags/env --timeout 1s", 6, "could not be read within 1s")
	c.Sh(t, "rm /run/azguest/metadata.json")
	try(user+"agentctl metadata compute/vmId", 3, "there is no copy")

	// The agent says so, too, if copies are wanted of it, and recovers.
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Sh(t, "echo Metadata.Period=1 >>/etc/waagent.conf.d/metadata.conf")
	c.StartAgent(t)
	c.screen(t, 1, "problem    instance metadata: ", "AZ-NET-IMDS", "metadata   not fetched yet, every 1s, also in /run/azguest/metadata.env")
	c.Fabric.RemoveFault(down)
	c.screen(t, 0, "metadata   fetched ")
	c.VM.SetTags(map[string]string{"env": "newest"})
	await(t, "the copy to be refreshed", func() bool {
		r, _ := c.Run(t.Context(), "grep", "-x", `AZ_COMPUTE_TAGS_ENV="newest"`, "/run/azguest/metadata.env")
		return r.Code == 0
	})
}

package e2e

import (
	"strings"
	"testing"
)

const steady = `
case $op in
enable) say success 0 "enabled with $seq" ;;
esac
`

// TestTakeOver: a machine that Debian's agent has provisioned and extended gets
// this agent instead. It is not provisioned again, and no extension is
// installed again.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	c := newPeerCloud(t, map[string][]byte{"Azguest.E2E.Steady/1.0.0": handler(t, steady)})
	p := startPeer(t, c)
	c.WaitReady(t)
	if got := c.follow(t, c.put(t, extension{name: "steady", publisher: "Azguest.E2E", kind: "Steady", version: "1.0", settings: map[string]any{"a": 1}})); got != "" {
		t.Fatalf("the extension under Debian's agent: %s", got)
	}
	// Its extension process is a separate child.
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Sh(t, "pkill -9 -f '[r]un-exthandlers' || :; while pgrep -f '[r]un-exthandlers|[w]aagent -daemon' >/dev/null; do sleep 0.05; done")
	const machine = `sha256sum /etc/ssh/ssh_host_*_key /etc/ssh/sshd_config /etc/shadow /etc/sudoers.d/* /home/azureuser/.ssh/authorized_keys /etc/hostname; hostname`
	before, calls := c.Sh(t, machine), c.Sh(t, "cut -d' ' -f1,2 /var/tmp/handler/calls")
	c.InstallAgent(t)
	c.StartAgent(t)
	await(t, "our report", func() bool { v, _ := c.reported(t); return strings.HasPrefix(v, "3.") })
	r, _ := c.Run(t.Context(), "agentctl", "status", "--wait=converged", "--timeout", "60s")
	if r.Code != 0 {
		t.Errorf("agentctl status: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if after := c.Sh(t, machine); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
	// A new agent enables existing extensions once, with the same sequence
	// number, as the classic agent does at every start (design, decision 9).
	const list = "cut -d' ' -f1,2 /var/tmp/handler/calls"
	if after := c.Sh(t, list); after != calls+"\nenable 0" {
		t.Errorf("the handler's calls were\n%s\nand are\n%s", calls, after)
	}
	if v := c.view(t); !strings.Contains(v, "enabled with 0") {
		t.Errorf("instance view: %s", v)
	}
	// New settings run next, and once.
	if got := c.follow(t, c.put(t, extension{name: "steady", publisher: "Azguest.E2E", kind: "Steady", version: "1.0", settings: map[string]any{"a": 2}})); got != "" {
		t.Errorf("new settings: %s", got)
	}
	if after := c.Sh(t, list); after != calls+"\nenable 0\nenable 1" {
		t.Errorf("after new settings: %q, want one enable more", after)
	}
}

package e2e

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// TestReadyWithTheLease: the platform's address is unreachable when the agent
// starts, and then the network comes up. The kernel notifies the agent. How
// soon it tries again is tested in protocol/platform.
func TestReadyWithTheLease(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	ip := func(verb, addr string) {
		t.Helper()
		if r, err := c.RunBeside(t.Context(), sandbox.Cmd{Args: []string{"ip", "address", verb, addr + "/32", "dev", "lo"}}); err != nil {
			t.Skipf("no ip program: %v %s", err, r.Stderr)
		}
	}
	ip("del", sandbox.WireServer)
	c.Sh(t, "echo Logs.Verbose=y >>/etc/waagent.conf")
	c.StartAgent(t)
	// An unrelated address is also a change, but no way to the platform.
	await(t, "the agent to hear of a change", func() bool {
		ip("add", "192.0.2.77")
		ip("del", "192.0.2.77")
		return strings.Contains(c.Log.String(), "network changed, connecting to the platform again")
	})
	if h := c.VM.Health(); h.State != "" {
		t.Fatalf("reached without an address: %+v", h)
	}
	ip("add", sandbox.WireServer)
	c.WaitReady(t)
}

// TestTheOtherInterface: of two interfaces, the one with the lower route metric
// does not lead to the platform. A second namespace is the host.
func TestTheOtherInterface(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	far, err := sandbox.New(t.Context(), sandbox.Options{Addresses: []string{sandbox.WireServer, sandbox.IMDS, machine.Storage}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	if err := machine.Connect(far, c.Fabric, c.VM, machine.Addresses()); err != nil {
		t.Fatal(err)
	}
	// In the network namespace only.
	in := func(s *sandbox.Sandbox, script string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "nsenter", "-t", strconv.Itoa(s.PID()), "-n", "sh", "-ec", script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("no such network can be made: %v %s", err, out)
		}
	}
	in(c.Sandbox, fmt.Sprintf(`
for a in %s %s %s; do ip address del $a/32 dev lo; done
ip link add wrong0 type veth peer name far0 netns %[4]d
ip link add right0 type veth peer name far1 netns %[4]d
ip address add 10.9.0.4/24 dev wrong0
ip address add 10.9.1.4/24 dev right0
ip link set wrong0 up
ip link set right0 up
`, sandbox.WireServer, sandbox.IMDS, machine.Storage, far.PID()))
	in(far, `
ip address add 10.9.1.1/24 dev far1
ip link set far0 up
ip link set far1 up
`)
	in(c.Sandbox, `
ip route add default via 10.9.0.1 metric 100
ip route add default via 10.9.1.1 metric 200
`)
	c.StartAgent(t)
	c.WaitReady(t)
	await(t, "a status", func() bool { _, n := c.VM.StatusDocument(); return n > 0 })
}

// TestWhoIsBehindABridgeIsNotThePlatform: while the platform does not answer, a
// container or guest of this machine answers in its place. The agent must not
// connect to it.
func TestWhoIsBehindABridgeIsNotThePlatform(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	far, err := sandbox.New(t.Context(), sandbox.Options{Addresses: []string{sandbox.WireServer, sandbox.IMDS}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	at := machine.Addresses()
	delete(at, fabric.Blob)
	if err := machine.Connect(far, c.Fabric, c.VM, at); err != nil {
		t.Fatal(err)
	}
	in := func(s *sandbox.Sandbox, script string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "nsenter", "-t", strconv.Itoa(s.PID()), "-n", "sh", "-ec", script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("no such network can be made: %v %s", err, out)
		}
	}
	in(c.Sandbox, fmt.Sprintf(`
for a in %s %s; do ip address del $a/32 dev lo; done
ip link add bridge0 type veth peer name inside0 netns %d
ip address add 172.17.0.1/16 dev bridge0
ip link set bridge0 up
`, sandbox.WireServer, sandbox.IMDS, far.PID()))
	in(far, `
ip address add 172.17.0.2/16 dev inside0
ip link set inside0 up
`)
	c.StartAgent(t)
	await(t, "the agent to find nobody", func() bool {
		h := c.VM.Health()
		return h.State != "" || strings.Contains(c.Log.String(), "platform not reachable yet")
	})
	if h := c.VM.Health(); h.State != "" {
		t.Errorf("a container was taken for the platform, and told %+v", h)
	}
}

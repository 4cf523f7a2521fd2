package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// pooledVM is a VM that the platform keeps in a pool (pre-provisioning): its
// medium has placeholders that must not be applied.
func pooledVM(kind string) setup {
	o := blank()
	o.Provisioning = fabric.Provisioning{HostName: "placeholder", User: "placeholder", Password: "Placeh0lder!", PPSType: kind}
	return o
}

// inPool waits until the agent has reported Ready and waits to be assigned to a
// customer.
func (c *cloud) inPool(t *testing.T) {
	t.Helper()
	c.WaitReady(t)
	await(t, "a VM that knows that it is pooled", func() bool {
		_, err := c.ReadFile("/var/lib/waagent/azguest/pps_reported")
		return err == nil && strings.Contains(c.Sh(t, "agentctl status || :"), "waiting for reprovisioning data")
	})
	c.untouched(t)
}

func (c *cloud) untouched(t *testing.T) {
	t.Helper()
	if got := c.Sh(t, "getent passwd placeholder; hostname; ls /var/lib/waagent/provisioned 2>/dev/null || :"); strings.Contains(got, "placeholder") || strings.Contains(got, "provisioned") {
		t.Errorf("provisioned with placeholders: %s", got)
	}
}

// claim assigns the VM to a customer.
func (c *cloud) claim(t *testing.T) {
	t.Helper()
	if err := c.VM.Claim(fabric.Provisioning{HostName: "customer", User: "customer", Password: password, SSHKeys: []string{authorized(t, c.key.Public(), "customer")}}); err != nil {
		t.Fatal(err)
	}
}

func (c *cloud) claimed(t *testing.T, readies int) {
	t.Helper()
	await(t, "Ready for the owner", func() bool { return c.readyReports() >= readies })
	c.provisioned(t)
	if got := c.Sh(t, "hostname; getent passwd customer | cut -d: -f1,6; getent passwd placeholder || :"); got != "customer\ncustomer:/home/customer" {
		t.Errorf("the machine shows %q", got)
	}
	if got := c.ssh(t, "customer", "id -un"); got != "customer" {
		t.Errorf("ssh shows %q", got)
	}
	b, err := c.ReadFile("/var/lib/waagent/ovf-env.xml")
	if err != nil || !strings.Contains(string(b), "customer") || strings.Contains(string(b), password) {
		t.Errorf("ovf-env.xml: %v: %s", err, b)
	}
	await(t, "an end of being pooled", func() bool { _, err := c.ReadFile("/var/lib/waagent/azguest/pps_reported"); return err != nil })
	if n := c.readyReports(); n != readies {
		t.Errorf("%d Ready reports, want %d", n, readies)
	}
	c.objections(t)
}

// neverUnready fails if the VM reported NotReady after Ready.
func (c *cloud) neverUnready(t *testing.T) {
	t.Helper()
	var states []string
	for _, e := range c.Fabric.Journal(fabric.Query{Kind: fabric.Health}) {
		for _, s := range []string{"NotReady", "Ready"} {
			if strings.Contains(e.Body, "<State>"+s+"</State>") {
				states = append(states, s)
			}
		}
	}
	if i := slices.Index(states, "Ready"); i < 0 || slices.Contains(states[i:], "NotReady") {
		t.Errorf("health reports: %v", states)
	}
}

func TestPooledRunning(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, pooledVM("Running"))
	c.StartAgent(t)
	c.inPool(t)
	c.claim(t)
	c.Sh(t, "ip link set fabric0 down && ip link set fabric0 up")
	c.claimed(t, 2)
	c.neverUnready(t)
}

// TestIN19MetadataStayAsInThePool: the order is proof that the VM has an owner,
// also if the metadata never say so.
func TestIN19MetadataStayAsInThePool(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, pooledVM("Running"))
	c.StartAgent(t)
	c.inPool(t)
	if err := c.VM.Claim(fabric.Provisioning{HostName: "customer", User: "customer", Password: password, SSHKeys: []string{authorized(t, c.key.Public(), "customer")}, PPSType: "Running"}); err != nil {
		t.Fatal(err)
	}
	c.Sh(t, "ip link set fabric0 down && ip link set fabric0 up")
	c.claimed(t, 2)
}

// TestPooledSavable: a Savable VM gets other network interfaces, perhaps on
// another host.
func TestPooledSavable(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, pooledVM("Savable"))
	c.StartAgent(t)
	c.inPool(t)
	c.Sh(t, "ip link del eth0")
	c.claim(t)
	c.Sh(t, "ip link add eth0 type veth peer name fabric0 && ip link set eth0 up && ip link set fabric0 up")
	c.claimed(t, 2)
	c.neverUnready(t)
}

// TestPooledAndStartedAgain: if the agent is killed or the VM reboots while it
// is in the pool, the agent asks for the provisioning document again, and does
// not report NotReady.
func TestPooledAndStartedAgain(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"agent killed", "reboot"} {
		t.Run(how, func(t *testing.T) {
			c := newAgentCloud(t, pooledVM("Running"))
			p := c.StartAgent(t)
			c.inPool(t)
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = p.Wait()
			if how == "reboot" {
				c.Reboot(t)
			}
			asked := func() int {
				return len(c.Fabric.Journal(fabric.Query{Kind: fabric.Metadata, Contains: "reprovisiondata"}))
			}
			before := asked() // by the agent that was killed
			c.StartAgent(t)
			await(t, "the question for the order", func() bool { return asked() > before })
			c.untouched(t)
			c.claim(t)
			c.claimed(t, 2)
			c.neverUnready(t)
		})
	}
}

// TestPooledWithInvalidDocument: the provisioning document may be invalid; the
// failure is reported to the platform.
func TestPooledWithInvalidDocument(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, pooledVM("Running"))
	c.StartAgent(t)
	c.inPool(t)
	if err := c.VM.Claim(fabric.Provisioning{HostName: "customer", User: "root", Password: password}); err != nil {
		t.Fatal(err)
	}
	c.Sh(t, "ip link set fabric0 down && ip link set fabric0 up")
	await(t, "the failure", func() bool { h := c.VM.Health(); return h.SubStatus == "ProvisioningFailed" })
	if d := c.VM.Health().Description; !strings.Contains(d, "pps_type=Running") {
		t.Errorf("reported: %s", d)
	}
}

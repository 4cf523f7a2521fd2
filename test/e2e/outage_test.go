package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// TestPAT1TheNetworkComesLate: storage can't be reached at first, for want of a
// route or of a name server, and the relay does not work. The extension waits,
// says why, is never reported as failed, and succeeds in the same goal state.
func TestPAT1TheNetworkComesLate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, url, without, why string
		comes                   func(*testing.T, *cloud)
	}{
		{
			"route", "", "ip address del " + machine.Storage + "/32 dev lo", "no route to host",
			func(t *testing.T, c *cloud) { c.beside(t, "ip address add "+machine.Storage+"/32 dev lo") },
		},
		{
			"name server", "http://{account}.blob.test", "", "lookup ",
			func(t *testing.T, c *cloud) {
				d, err := c.Beside(sandbox.Cmd{Args: []string{
					"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts",
					"--listen-address=127.0.0.53", "--bind-interfaces", "--address=/blob.test/" + machine.Storage,
				}})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = d.Kill() })
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := blank()
			o.Fabric.BlobURL = tc.url
			o.Packages["Late.Net/1.0.0"] = handler(t, "[ $op != enable ] || say success 0 here\n")
			if _, err := exec.LookPath("dnsmasq"); err != nil && tc.url != "" {
				t.Skip(err)
			}
			c := newAgentCloud(t, o)
			if err := c.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.53\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if tc.without != "" {
				c.beside(t, tc.without)
			}
			if _, err := c.Fabric.Fail(fabric.Fault{Kind: fabric.Artifact, Status: 503, Match: "Late.Net"}); err != nil {
				t.Fatal(err)
			}
			c.StartAgent(t)
			c.WaitReady(t)
			c.succeeds(t, fabric.Extension{Handler: "Late.Net", Version: "1.0"}, func() {
				c.says(t, "which is not available yet, trying again since ")
				doc, _ := c.VM.StatusDocument()
				if text, err := json.Marshal(tc.why); err != nil || !strings.Contains(string(doc), strings.Trim(string(text), `"`)) {
					t.Errorf("%q is not in %s", tc.why, doc)
				}
				tc.comes(t, c)
			})
		})
	}
}

// beside runs a command of the test's machine in the network of the sandbox.
func (c *cloud) beside(t *testing.T, command string) {
	t.Helper()
	if r, err := c.RunBeside(t.Context(), sandbox.Cmd{Args: strings.Fields(command)}); err != nil {
		t.Fatalf("%v %s", err, r.Stderr)
	}
}

// TestPAT1RoomOnTheDisk: there is too little room to unpack a package. That is
// waited for, without downloading it again and again from every address, and the
// extension goes on when somebody has made room.
func TestPAT1RoomOnTheDisk(t *testing.T) {
	t.Parallel()
	const size = 6 << 20
	o := blank()
	o.Sandbox.Disk, o.Sandbox.DiskSize = machine.Lib, 40<<20
	o.Packages["Late.Room/1.0.0"] = handler(t, "[ $op != enable ] || say success 0 here\n", make([]byte, size))
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	c.WaitReady(t)
	left := fmt.Sprint((size + size/2) >> 10)
	c.Sh(t, "cd "+machine.Lib+"; dd if=/dev/zero of=filler bs=1k count=$(($(df -k --output=avail . | tail -n 1) - "+left+"))")
	c.succeeds(t, fabric.Extension{Handler: "Late.Room", Version: "1.0"}, func() {
		c.says(t, "no space left on device")
		c.Sh(t, "rm "+machine.Lib+"/filler")
	})
}

// TestB8FirstBootDuringAnOutage: from power-on, for 40 s, the WireServer answers
// 503, the metadata service 410, and the HostGAPlugin resets connections. The
// machine becomes ready when that is over, and reports no failure before.
func TestB8FirstBootDuringAnOutage(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Provisioning = fabric.Provisioning{}
	c := newAgentCloud(t, o)
	c.prepareSSHD(t)
	const length = 40 * time.Second
	for _, f := range []fabric.Fault{
		{Kind: fabric.Versions, Status: 503},
		{Kind: fabric.GoalState, Status: 503},
		{Kind: fabric.ExtensionsConfig, Status: 503},
		{Kind: fabric.Certificates, Status: 503},
		{Kind: fabric.SharedConfig, Status: 503},
		{Kind: fabric.Health, Status: 503},
		{Kind: fabric.Metadata, Status: 410},
		{Kind: "hostga.*", Reset: true},
		{Kind: fabric.VMSettings, Reset: true},
		{Kind: fabric.Artifact, Reset: true},
		{Kind: "blob.*", Status: 503},
	} {
		f.For = fabric.Duration(length)
		if _, err := c.Fabric.Fail(f); err != nil {
			t.Fatal(err)
		}
	}
	c.StartAgent(t)
	await(t, "a report of health", func() bool {
		h := c.VM.Health()
		if h.SubStatus == "ProvisioningFailed" {
			t.Fatalf("%+v", h)
		}
		return h.State == "Ready"
	})
	for _, e := range c.Fabric.Journal(fabric.Query{Kind: fabric.Health}) {
		if strings.Contains(e.Body, "ProvisioningFailed") {
			t.Errorf("reported as failed at %v", e.Time)
		}
	}
	c.Sh(t, "id azureuser")
}

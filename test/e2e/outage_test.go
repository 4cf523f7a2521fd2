package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

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

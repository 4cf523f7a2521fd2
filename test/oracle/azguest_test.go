package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

// agentConfig switches user data on, and everything off that a comparison does
// not need.
const agentConfig = `Provisioning.Agent=azguest
Provisioning.RegenerateSshHostKeyPair=n
Telemetry.Enabled=n
OS.EnableFirewall=n
UserData.Apply=y
`

// A journal is what azguest writes about the data that it has carried out.
type journal struct {
	Boot, State string
	Problems    []json.RawMessage
	Items       []struct{ What, State, Error string }
}

// azguest returns what becomes of a machine that azguest sets up, and what
// azguest reports.
func azguest(t *testing.T, layers []string, d document) (found facts, reports []string) {
	t.Helper()
	p := fabric.Provisioning{User: user, HostName: hostName, UserData: []byte(d.user), VendorData: []byte(d.vendor), SSHKeys: []string{orderKey}}
	if d.custom {
		p.CustomData, p.UserData = p.UserData, nil
	}
	m := machinetest.WithAgent(t, machine.Options{
		Conf:         agentConfig,
		Sandbox:      sandbox.Options{Layers: layers, Hostname: hostName, Hide: []string{"/etc/apt/sources.list.d"}, DMI: sandbox.AzureDMI(machine.VMUUID)},
		Provisioning: p,
	})
	defer m.End(t)
	m.Sh(t, prepare+d.prepare)
	var j journal
	for boot := range max(1, d.boots) {
		if boot > 0 {
			m.Reboot(t)
		}
		m.StartAgent(t)
		id := strings.TrimSpace(m.Sh(t, "cat /proc/sys/kernel/random/boot_id"))
		machinetest.Await(t, "the end of "+d.name, func() bool {
			b, err := m.ReadFile(machine.Lib + "/azguest/data.json")
			j = journal{}
			return err == nil && json.Unmarshal(b, &j) == nil && (j.State == "refused" || j.Boot == id && j.State != "pending" && j.State != "doing")
		})
	}
	for _, p := range j.Problems {
		reports = append(reports, "problem "+string(p))
	}
	for _, i := range j.Items {
		if i.State != "done" {
			reports = append(reports, fmt.Sprintf("%s: %s %s", i.What, i.State, i.Error))
		}
	}
	found, err := look(context.WithoutCancel(t.Context()), m.Sandbox)
	if err != nil {
		t.Fatal(err)
	}
	return found, reports
}

package handlers

import (
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

func TestMain(m *testing.M) { machinetest.Main(m) }

const lib = machine.Lib

const conf = `Extensions.GoalStatePeriod=1
Provisioning.RegenerateSshHostKeyPair=n
Telemetry.Enabled=y
Telemetry.Period=1
Debug.EtpCollectionPeriod=2
`

// newMachine is a machine with the agent installed. Nothing is started.
func newMachine(t testing.TB) *machinetest.Machine {
	t.Helper()
	m := machinetest.WithAgent(t, machine.Options{
		Conf:         conf,
		Provisioning: fabric.Provisioning{Password: "C4nary-passw0rd!", AllowPasswords: true},
		Sandbox:      sandbox.Options{DMI: sandbox.AzureDMI(machine.VMUUID)},
	})
	m.Sh(t, "mkdir -p -m 0777 /var/tmp/seen; ulimit -c 0; id nobody >/dev/null")
	return m
}

// start starts the agent and waits until the machine is Ready.
func start(t testing.TB, m *machinetest.Machine) {
	t.Helper()
	m.StartAgent(t)
	m.WaitReady(t)
}

// await waits until ok returns true.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	machinetest.Await(t, what, ok)
}

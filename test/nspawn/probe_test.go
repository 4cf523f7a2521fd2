package nspawn

import (
	"strings"

	"github.com/azguest/azguest/test/bundles"
)

// probe is a handler that records its environment in /var/lib/probe: the
// commands it was called with, its cgroup, the stage of cloud-init. Its enable
// lasts as long as the file /etc/hold-probe exists.
const probe = "Azguest.Samples.Probe"

const probeScript = `#!/bin/sh
set -eu
cd "$(dirname "$0")/.."
mkdir -p /var/lib/probe
echo "$1" >>/var/lib/probe/commands
[ "$1" = enable ] || exit 0
for f in status result; do
	[ ! -e /run/cloud-init/$f.json ] || cp /run/cloud-init/$f.json /var/lib/probe/
done
cp /proc/self/cgroup /var/lib/probe/
getent passwd azureuser >/var/lib/probe/account || true
echo $$ >/var/lib/probe/pid
while [ -e /etc/hold-probe ]; do sleep 0.1; done
n=$(ls config/*.settings | sed 's|.*/||; s|.settings||' | sort -n | tail -n 1)
status=$(sed -n 's/.*"statusFolder"[^"]*"\([^"]*\)".*/\1/p' HandlerEnvironment.json | head -n 1)
cat >"$status/$n.status.tmp" <<END
[{"version": "1.0", "timestampUTC": "$(date -u +%Y-%m-%dT%H:%M:%SZ)", "status": {"name": "Probe",
  "operation": "Enable", "status": "success", "code": 0, "formattedMessage": {"lang": "en-US", "message": "looked"}}}]
END
mv "$status/$n.status.tmp" "$status/$n.status"
`

func probePackage() bundles.Bundle {
	b := bundles.Bundle{
		Name: probe, Version: "1.0.0.0",
		Files: map[string]string{"bin/probe": probeScript},
	}
	for name, command := range map[string]*string{
		"install": &b.Install, "enable": &b.Enable, "disable": &b.Disable, "update": &b.Update, "uninstall": &b.Uninstall,
	} {
		*command = "bin/probe " + name
	}
	return b
}

// probed waits until the probe has started and returns the content of a file of
// its.
func (m *container) probed(file string) string {
	m.t.Helper()
	m.await("the probe's enable", func() bool {
		m.alive()
		return m.holds("test -e /var/lib/probe/pid")
	})
	return m.sh("cat /var/lib/probe/" + file)
}

// succeeded waits until the operation of the probe has succeeded.
func (m *container) succeeded() {
	m.t.Helper()
	m.await("the probe's success", func() bool {
		m.alive()
		state, err := m.vm.ProvisioningState("Probe")
		if err != nil {
			m.t.Fatal(err)
		}
		return state == "Succeeded"
	})
}

// once asserts the commands that the probe was called with, in total.
func (m *container) once(want ...string) {
	m.t.Helper()
	if got := m.sh("cat /var/lib/probe/commands"); got != strings.Join(want, "\n") {
		m.t.Errorf("the probe was called with %q, want %q", got, want)
	}
}

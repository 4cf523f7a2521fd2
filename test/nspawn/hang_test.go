package nspawn

import (
	"testing"

	"github.com/azguest/azguest/test/bundles"
)

// TestAStoppedAgentIsStartedAgain: systemd gets no watchdog notification from a
// hung agent, ends it and starts another, which continues.
func TestAStoppedAgentIsStartedAgain(t *testing.T) {
	t.Parallel()
	m := newMachine(t, order{noCloudInit: true, packages: []bundles.Bundle{probePackage()}, extension: probe})
	m.write("/etc/systemd/system/azguest.service.d/soon.conf", "[Service]\nWatchdogSec=20s\nTimeoutAbortSec=5s\n")
	m.on()
	m.succeeded()
	m.settled()
	before := m.sh("systemctl show -P MainPID azguest")
	m.sh("kill -STOP " + before)
	m.await("another agent", func() bool { return m.holds("[ $(systemctl show -P NRestarts azguest) -ge 1 ]") })
	m.current()
	m.await("agentctl to call it ready", func() bool { return m.holds("agentctl status --wait ready --timeout 20s; [ $? -le 1 ]") })
	m.settled()
	for script, want := range map[string]string{
		"journalctl -b -u azguest -o cat | grep -c 'Watchdog timeout'":                       "1",
		"systemctl is-active azguest":                                                        "active",
		"[ $(systemctl show -P MainPID azguest) != " + before + " ] && echo another":         "another",
		"agentctl status --output json | sed -n 's/^ *\"restarts\": *\\([0-9]*\\),*$/\\1/p'": "1",
	} {
		if got, err := m.try(script); got != want {
			t.Errorf("%s: %q (%v), want %q", script, got, err, want)
		}
	}
	// This was no boot, so nothing is enabled again.
	m.once("install", "enable")
}

package nspawn

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/bundles"
)

// neighbours is a script that makes other owners, groups, modes and contents in
// the folders that the agent shares with handlers and administrators.
const neighbours = `useradd -r svc
groupadd azmon
chgrp azmon /var/lib/waagent /var/log/azure
chmod 0750 /var/lib/waagent
chmod 2750 /var/log/azure
mkdir -p /var/lib/waagent/Svc-1.0/state /var/log/azure/svc/old /run/azguest-neighbour
echo kept | tee /var/lib/waagent/Svc-1.0/state/db /var/log/azure/svc/own.log /var/log/azure/svc/old/1.log /run/azguest-neighbour/pid >/dev/null
chown -R svc:azmon /var/lib/waagent/Svc-1.0 /var/log/azure/svc /run/azguest-neighbour
chmod 0711 /var/lib/waagent/Svc-1.0
chmod 1777 /var/log/azure/svc
chmod 0664 /var/log/azure/svc/own.log
`

// lookAtNeighbours prints what neighbours made.
const lookAtNeighbours = `stat -c '%n %a %U:%G' /var/lib/waagent /var/log/azure
find /var/lib/waagent/Svc-1.0 /var/log/azure/svc /run/azguest-neighbour -printf '%p %m %u:%g\n' | sort
cat /var/lib/waagent/Svc-1.0/state/db /var/log/azure/svc/own.log /var/log/azure/svc/old/1.log /run/azguest-neighbour/pid`

// TestNBRUnderSystemd: what systemd, journald and logrotate do to a service,
// and to the folders that it shares.
func TestNBRUnderSystemd(t *testing.T) {
	t.Parallel()
	m := newMachine(t, order{noCloudInit: true, packages: []bundles.Bundle{probePackage()}, extension: probe})
	m.on()
	m.succeeded()
	m.settled()
	m.sh(neighbours)
	before := m.sh(lookAtNeighbours)
	kept := func(after string) {
		t.Helper()
		if now := m.sh(lookAtNeighbours); now != before {
			t.Errorf("NBR1: after %s:\n%s\nbefore:\n%s", after, now, before)
		}
	}

	// SIGHUP, in all ways, and many at once.
	pid := m.sh("systemctl show -P MainPID azguest")
	reloads := 0
	reload := func() {
		t.Helper()
		reloads++
		m.sh("systemctl reload azguest")
		m.await("the reload", func() bool { m.alive(); return len(m.reloaded()) >= reloads })
	}
	reload()
	m.sh("for i in $(seq 200); do kill -HUP " + pid + "; done; pkill -HUP -x azguest")
	m.await("the last reload", func() bool {
		m.alive()
		n := len(m.reloaded())
		return n > reloads && m.holds("sleep 0.3") && len(m.reloaded()) == n
	})
	reloads = len(m.reloaded())
	kept("a reload")

	// The journal is made anew, with its socket.
	m.sh("systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service; systemctl start systemd-journald.socket systemd-journald.service")
	reload()

	m.rotate(reload)
	if now := m.sh("systemctl show -P MainPID azguest; systemctl show -P NRestarts azguest"); now != pid+"\n0" {
		t.Errorf("NBR6: the agent has the pid and restarts %q, it had the pid %s", now, pid)
	}

	up := func() {
		t.Helper()
		m.current()
		m.await("the agent", func() bool {
			m.alive()
			return m.holds("agentctl status --wait ready --timeout 20s >/dev/null; [ $? -le 1 ]")
		})
	}
	m.sh("systemctl restart azguest")
	up()
	kept("a restart")
	m.sh("systemctl stop azguest; systemctl clean --what=all azguest; systemctl start azguest")
	up()
	kept("systemctl clean")
	m.sh("dpkg --remove azguest; systemctl daemon-reload; systemctl reset-failed")
	kept("the removal of the unit")
	// None of this was a boot.
	m.once("install", "enable")
}

// reloaded returns the lines of the journal that tell of a reload.
func (m *container) reloaded() (lines []string) {
	for line := range strings.Lines(m.sh("journalctl --sync; journalctl -b -u azguest -o cat --no-pager")) {
		if strings.Contains(line, "configuration read again") {
			lines = append(lines, line)
		}
	}
	return lines
}

// rotate renames and deletes the agent's log, as logrotate does without a signal
// and as people do: each later line is in the file that has the name. What a real
// logrotate and the agent's own rotation do to each other is tested by
// TestNBR2RotationByBoth in agent/host.
func (m *container) rotate(reload func()) {
	m.t.Helper()
	const count = "cat /var/log/waagent.log | grep -a -c 'configuration read again'"
	for _, script := range []string{"mv /var/log/waagent.log /var/log/waagent.log.1", "rm /var/log/waagent.log", "cp /var/log/waagent.log /var/log/waagent.log.1; : >/var/log/waagent.log"} {
		m.sh(script)
		reload()
		m.await("the line in the new file", func() bool { n, _ := m.try(count); return n == "1" })
	}
}

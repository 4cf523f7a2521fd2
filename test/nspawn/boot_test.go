package nspawn

import (
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/bundles"
)

// TestService: the package on a machine without another provisioner: the state
// of the unit, the cgroups of extensions, the amount of logging.
func TestService(t *testing.T) {
	t.Parallel()
	limited := probePackage()
	limited.Flags = map[string]any{"resourceLimits": map[string]any{"cpuQuotaPercentage": 40, "services": []any{
		map[string]any{"name": "ssh.service", "cpuQuotaPercentage": 30}, map[string]any{"name": "none.service", "cpuQuotaPercentage": 20},
	}}}
	m := newMachine(t, order{noCloudInit: true, packages: []bundles.Bundle{limited}, extension: probe})
	m.on()
	m.succeeded()
	m.settled()

	for script, want := range map[string]string{
		"systemctl is-system-running":                                                          "running",
		"systemctl --failed --no-legend":                                                       "",
		"systemd-analyze verify azguest.service azure-vmextensions.slice":                      "",
		"systemctl show -P Type azguest":                                                       "notify",
		"systemctl show -P Slice azguest":                                                      "azure.slice",
		"systemctl show -P NRestarts azguest":                                                  "0",
		"systemctl show -P CPUQuotaPerSecUSec azure-vmextensions-" + probe + ".slice ssh none": "400ms\n\n300ms\n\ninfinity",
		"systemctl is-enabled azguest waagent walinuxagent | sort -u":                          "alias\nenabled",
		"waagent -version | grep -c '^WALinuxAgent-[0-9.]* running on debian 12'":              "1",
		"waagent --version | wc -l":                                                            "3",
		"agentctl status >/dev/null; echo $?":                                                  "0",
		"ls /run/systemd/transient | grep -v -e ^azure -e scope":                               "",
		"hostname; cat /etc/hostname":                                                          "first-light\nfirst-light",
		"journalctl -b -u azguest -p err --no-pager -o cat -q":                                 "",
		"journalctl -b -u azguest --no-pager -o json | grep -c AAAAC3Nza":                      "0",
	} {
		if got, _ := m.try(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	// systemd reads the metadata for units as they are.
	const tag = "a\tb \"c\" 'd' \\e \\n $HOME ${HOME} $(id) `id` %n #;\nnext ü\\"
	m.vm.SetTags(map[string]string{"x": tag, "y": "\x01", "n": "\ufdd0\uffff", "z": "last"})
	m.sh("mkdir -p /etc/waagent.conf.d; echo Metadata.EnvFile=y >/etc/waagent.conf.d/m.conf; agentctl metadata compute/name")
	if got := m.sh(`systemd-run -q --wait --pipe -p EnvironmentFile=/run/azguest/metadata.env sh -c 'printf "%s|%s|%s" "$AZ_COMPUTE_TAGS_X" "$AZ_COMPUTE_TAGS_Y" "$AZ_COMPUTE_TAGS_Z"'; rm /etc/waagent.conf.d/m.conf`); got != tag+"||last" {
		t.Errorf("systemd has read %q, want %q", got, tag+"||last")
	}
	cgroup := m.sh("cat /var/lib/probe/cgroup")
	if !strings.Contains(cgroup, "/azure.slice/azure-vmextensions.slice/azure-vmextensions-") || !strings.Contains(cgroup, ".scope") {
		t.Errorf("the handler ran in %s", cgroup)
	}
	// systemd drops a scope when it hears of the end of its last process.
	m.await("the end of the scopes", func() bool {
		return m.holds("! systemctl list-units --no-legend 'azguest-*.scope' 'azure-vmextensions*.scope' | grep -q .")
	})

	// Once the boot has ended, an idle minute must pass without log messages.
	// When the boot ends depends on the machine.
	var said []string
	for range 10 {
		before := m.lines()
		select {
		case <-time.After(time.Minute):
		case <-t.Context().Done():
		}
		if said = m.lines()[len(before):]; len(said) == 0 {
			return
		}
	}
	t.Errorf("%d lines in an idle minute:\n%s", len(said), strings.Join(said, "\n"))
}

// lines returns the agent's log of this boot.
func (m *container) lines() []string {
	m.t.Helper()
	return strings.Split(m.sh("journalctl -b -u azguest --no-pager -o short-iso-precise"), "\n")
}

// TestReboots boots twice: completed work is not repeated.
func TestReboots(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		alone bool
		off   func(*container)
	}{
		{"alone, shut down", true, (*container).off},
		{"alone, power cut", true, (*container).cut},
		{"beside cloud-init, shut down", false, (*container).off},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, order{noCloudInit: c.alone, packages: []bundles.Bundle{probePackage()}, extension: probe})
			m.on()
			m.succeeded()
			m.settled()
			look := "getent passwd azureuser; cat ~azureuser/.ssh/authorized_keys; sha256sum /etc/ssh/ssh_host_*.pub; hostname; cat /var/lib/waagent/provisioned"
			before := m.sh(look)
			states, _ := m.reports()
			reports := len(states)
			c.off(m)
			m.medium = "" // the platform has detached it
			m.on()
			m.await("the agent's status", func() bool { m.alive(); return m.status().Provisioning.State == "done" })
			m.settled()
			m.await("agentctl to call the machine ready", func() bool { return m.holds("agentctl status --wait ready --timeout 20s; [ $? -le 1 ]") })
			if got := m.sh(look); got != before {
				t.Errorf("after the second boot:\n%s\nbefore:\n%s", got, before)
			}
			if states, _ := m.reports(); len(states)-reports > 1 {
				t.Errorf("the second boot reported %v", states[reports:])
			} else if len(states) > reports && states[reports] != "Ready" {
				t.Errorf("the second boot reported %s", states[reports])
			}
			// Handlers are enabled at each boot.
			m.await("the second enable", func() bool { return m.holds("[ $(grep -c enable /var/lib/probe/commands) -ge 2 ]") })
			m.settled()
			m.once("install", "enable", "enable")
		})
	}
}

package nspawn

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/bundles"
)

// jobScript prints what is known about the running handler.
const jobScript = `pid=$(cat /var/lib/probe/pid)
test -d /proc/$pid
echo $pid
cut -d' ' -f4 /proc/$pid/stat
grep azure /proc/$pid/cgroup
agentctl ext show ` + probe + ` -o json | grep -i deadline`

// TestUpgrade restarts, kills and upgrades the agent while a handler is
// running: the handler continues, under the same supervisor and with the same
// deadline, and its result is reported once.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	m := newMachine(t, order{
		noCloudInit: true, packages: []bundles.Bundle{probePackage()}, extension: probe,
		files: map[string]string{"/etc/hold-probe": ""},
	})
	m.on()
	m.probed("pid")
	m.await("the handler in agentctl", func() bool { m.alive(); return m.holds(jobScript) })
	job := m.sh(jobScript)
	if !strings.Contains(job, "azure-vmextensions") {
		t.Errorf("the handler runs in %s", job)
	}
	same := func(after string) {
		t.Helper()
		m.current()
		var now string
		m.await("the handler in agentctl after "+after, func() (ok bool) {
			m.alive()
			out, err := m.try(jobScript)
			now = out
			return err == nil
		})
		if now != job {
			t.Errorf("after %s the handler is\n%s\nit was\n%s", after, now, job)
		}
	}
	m.sh("systemctl restart azguest")
	same("a restart")
	m.kill()
	same("a kill")

	deb := newer(t, theOneImage(t).deb, "99.0.0.1")
	m.put(deb, "/root/newer.deb")
	old := m.sh("systemctl show -P MainPID azguest")
	// Like an administrator, while the agent is running.
	m.sh("DEBIAN_FRONTEND=noninteractive dpkg -i /root/newer.deb")
	m.await("the upgraded agent", func() bool {
		m.alive()
		now, _ := m.try("systemctl show -P MainPID azguest")
		return now != old && now != "0" && itoa(m.status().Agent.PID) == now
	})
	same("an upgrade")

	m.sh("rm /etc/hold-probe")
	m.succeeded()
	m.once("install", "enable")
	m.settled()
	m.oneReady("azguest")
	for script, want := range map[string]string{
		"systemctl is-system-running":                    "running",
		"dpkg-query -W -f '${Version}' azguest":          "99.0.0.1",
		"systemctl is-enabled azguest":                   "enabled",
		"cat /etc/waagent.conf | wc -l; ls /etc/*dpkg-*": m.sh("cat /etc/waagent.conf | wc -l"),
	} {
		if got, _ := m.try(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

// put copies a file into the running machine.
func (m *container) put(from, to string) {
	m.t.Helper()
	b, err := os.ReadFile(from)
	m.must(err)
	m.must(os.WriteFile(filepath.Join("/proc", itoa(m.leader), "root", to), b, 0o644))
}

// TestUpgradeByExtension: a handler upgrades the agent's package while the
// agent waits for the handler. Neither may wait for the other.
func TestUpgradeByExtension(t *testing.T) {
	t.Parallel()
	b := probePackage()
	b.Files["bin/probe"] = strings.Replace(probeScript, "while [ -e /etc/hold-probe ]", "dpkg -i /root/newer.deb\nwhile [ -e /etc/hold-probe ]", 1)
	m := newMachine(t, order{noCloudInit: true, packages: []bundles.Bundle{b}})
	deb, err := os.ReadFile(newer(t, theOneImage(t).deb, "99.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	m.write("/root/newer.deb", string(deb))
	m.on()
	m.ready()
	m.must(m.vm.PutExtension(probe, "1.0", nil))
	m.succeeded()
	m.once("install", "enable")
	if got := m.sh("dpkg-query -W -f '${Version} ${db:Status-Status}' azguest; systemctl is-active azguest"); got != "99.0.0.1 installedactive" {
		t.Errorf("after the upgrade: %s", got)
	}
}

// everything is a script that lists everything that the package could leave on
// the machine.
const everything = `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /root/newer.deb -o -path /testbed -o -path '/var/log/journal' -o -path '/run/log' \
	-o -path '/run/systemd/units' -o -path '/run/udev' -o -path '/run/user' -o -path '/run/systemd/inaccessible' \) -prune -o -print | sort
find /run -xdev \( -path /run/log -o -path /run/systemd/units -o -path /run/user -o -path /run/host -o -path '/run/systemd/*' \) -prune -o -print | sort
find /run/systemd/system /run/systemd/transient /run/systemd/generator* | sort
nft list ruleset
systemctl list-unit-files --no-legend --no-pager | cut -d' ' -f1 | grep -i -e azure -e azguest -e waagent || true
systemctl list-units --all --no-legend --no-pager --plain | cut -d' ' -f1 | grep -i -e azure -e azguest -e waagent || true
find /sys/fs/cgroup -name '*azure*' -o -name '*azguest*'
cat /etc/sudoers /etc/ssh/sshd_config /etc/fstab`

// TestRemoval installs, uses and removes the package: the machine is as before,
// except for what the customer requested.
func TestRemoval(t *testing.T) {
	t.Parallel()
	m := newMachine(t, order{noCloudInit: true, asleep: true, packages: []bundles.Bundle{probePackage()}})
	m.on()
	m.await("the end of the boot", func() bool { m.alive(); return m.holds(booted) })
	deb, err := filepath.Abs(theOneImage(t).deb)
	m.must(err)
	m.put(deb, "/root/newer.deb")
	m.sh("rm -r /etc/systemd/system/azguest.service.d; dpkg --purge azguest")
	before := m.sh(everything)
	if strings.Contains(before, "azguest") {
		t.Errorf("the package was never used and leaves\n%s", grep(before, "azguest"))
	}
	m.sh("dpkg -i /root/newer.deb")
	m.ready()
	m.must(m.vm.PutExtension(probe, "1.0", nil))
	m.succeeded()
	m.await("the firewall", func() bool { return m.holds("nft list ruleset | grep -q .") })
	m.must(m.vm.DeleteExtension("Probe"))
	m.await("the extension's removal", func() bool { s, _ := m.vm.ProvisioningState("Probe"); return s == "" })
	var plan struct {
		Goes, Stays []struct{ Kind, What string }
	}
	m.must(json.Unmarshal([]byte(m.sh("agentctl uninstall --plan -o json")), &plan))
	m.sh("dpkg --purge azguest; rm -r /var/lib/probe")
	// systemd drops a slice when it hears of the end of its last unit.
	m.await("the end of the slices", func() bool {
		return m.holds("! find /sys/fs/cgroup -name '*azure*' | grep -q . && ! systemctl list-units --all --no-legend --plain 'azure*' | grep -q .")
	})
	after := m.sh(everything)
	if len(plan.Goes) < 20 || len(plan.Stays) < 3 {
		t.Errorf("the plan is not about this machine: %+v", plan)
	}
	is := func(what string) bool { return strings.Contains("\n"+after, "\n"+what+"\n") }
	for _, r := range plan.Goes {
		if strings.HasPrefix(r.What, "/") && is(r.What) {
			t.Errorf("the plan says that %s goes, and it is there", r.What)
		}
	}
	for _, r := range plan.Stays {
		if strings.HasPrefix(r.What, "/") && !is(r.What) || r.Kind == "account" && !m.holds("id "+r.What) {
			t.Errorf("the plan says that %s stays, and it is gone", r.What)
		}
	}
	have := map[string]bool{}
	for line := range strings.Lines(before) {
		have[line] = true
	}
	for line := range strings.Lines(after) {
		if !have[line] && !ordered(strings.TrimSpace(line)) {
			t.Errorf("the package leaves %s", strings.TrimSpace(line))
		}
	}
}

// ordered reports whether a line may remain, because it was requested for this
// machine or is maintained by other programs.
func ordered(line string) bool {
	for _, prefix := range []string{
		"/home/azureuser", "/etc/ssh/", "/etc/sudoers.d/", "/etc/subuid", "/etc/subgid", "/var/log/", "/var/cache/", "/var/lib/systemd/", "/var/lib/dpkg/",
		"/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/run/systemd/", "/run/utmp", "/run/sshd", "/var/lib/sudo", "/var/lib/private",
	} {
		if strings.HasPrefix(line, prefix) && !strings.Contains(line, "azguest") && !strings.Contains(line, "waagent") && !strings.Contains(line, "azure-") && !strings.Contains(line, "azure.") {
			return true
		}
	}
	return strings.HasPrefix(line, "/etc/sudoers.d/") || strings.HasPrefix(line, "/etc/ssh/") || strings.HasPrefix(line, "/home/azureuser")
}

func grep(text, word string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			out.WriteString(line)
		}
	}
	return out.String()
}

package nspawn

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHooksAtShutdown: a real shutdown runs the scripts while the network, the
// agent and ordinary services are up, ends those that take too long, and the next
// boot knows how they ended. Stopping the unit runs nothing.
func TestHooksAtShutdown(t *testing.T) {
	t.Parallel()
	const proof = `{
	echo "$AZGUEST_HOOK"
	systemctl is-active systemd-networkd azguest ssh late
	ip -4 -o addr show scope global | grep -o '10.0.0.4/[0-9]*'
	exec 3<>/dev/tcp/168.63.129.16/80 && printf 'GET /?comp=versions HTTP/1.0\r\n\r\n' >&3 && head -n 1 <&3 | cut -d' ' -f2 | tr -d '\r'
	grep -o '"type":"[a-z]*"'
} >>/var/lib/proof 2>&1
`
	m := newMachine(t, order{
		noCloudInit: true, config: "\nHooks.Enabled=y\nHooks.ShutdownTimeout=3\n",
		files: map[string]string{
			"/etc/azguest/hooks.d/shutdown/10-proof": "#!/bin/bash\n" + proof,
			"/etc/azguest/hooks.d/shutdown/20-slow":  "#!/bin/sh\necho slow >>/var/lib/proof\nexec sleep 1000\n",
			"/etc/azguest/hooks.d/shutdown/30-late":  "#!/bin/sh\necho late >>/var/lib/proof\n",
			"/etc/azguest/hooks.d/startup/10-count":  "#!/bin/sh\necho start >>/var/lib/starts\ngrep -o 'azguest-[0-9a-f]*.scope' /proc/self/cgroup >/var/lib/scope\n",
			// Without ordering of its own, like most services.
			"/etc/systemd/system/late.service": "[Service]\nExecStart=/bin/sleep infinity\n",
		},
	})
	upper := filepath.Join(m.dir, "upper")
	wants := filepath.Join(upper, "etc/systemd/system/multi-user.target.wants")
	m.must(os.MkdirAll(wants, 0o755))
	m.must(os.Symlink("../late.service", filepath.Join(wants, "late.service")))
	scripts, err := filepath.Glob(filepath.Join(upper, "etc/azguest/hooks.d/*/*"))
	m.must(err)
	for _, s := range scripts {
		m.must(os.Chmod(s, 0o755)) //nolint:gosec // a script
	}
	m.on()
	m.ready()
	m.await("the shutdown unit", func() bool { m.alive(); return m.holds("systemctl is-active azguest-shutdown") })
	m.await("the startup script", func() bool { return m.holds("agentctl events | grep -q '^startup-.*1 ok'") })
	m.sh("systemctl restart azguest")
	m.current()
	m.await("the restarted agent", func() bool { return m.holds("agentctl status | grep -q '^hooks '") })
	m.settled()
	m.sh("systemctl restart azguest-shutdown")
	for script, want := range map[string]string{
		"cat /var/lib/starts": "start",
		"cat /var/lib/proof":  "",
		"sort -u /var/lib/scope | grep -c scope; systemctl is-system-running; systemd-analyze verify azguest-shutdown.service 2>&1": "1\nrunning",
		"systemctl show -P After azguest-shutdown | tr ' ' '\\n' | grep -c -x -e network.target -e azguest.service":                 "2",
	} {
		if got, _ := m.try(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	m.off()
	m.medium = ""
	m.on()
	m.await("the agent's status", func() bool {
		m.alive()
		return m.holds("[ $(agentctl events | grep -c '^startup-.*1 ok') = 2 ] && agentctl status | grep -q '^hooks ' && agentctl status | grep -q AZ-HOOK-FAILED")
	})
	want := "shutdown\nactive\nactive\nactive\nactive\n10.0.0.4/24\n200\n\"type\":\"poweroff\"\nslow"
	if got := m.sh("cat /var/lib/proof"); got != want {
		t.Errorf("the shutdown left:\n%s\nwant:\n%s", got, want)
	}
	for script, want := range map[string]string{
		"cat /var/lib/starts; agentctl events | grep -c '^startup'":                         "start\nstart\n2",
		"agentctl events | grep '^shutdown' | grep -c '1 ok, 1 timeout, 1 skipped'":         "1",
		"agentctl status | grep -c -e AZ-HOOK-FAILED -e '20-slow timeout, 30-late skipped'": "2",
		"dpkg -L azguest | grep azguest-shutdown; systemctl is-enabled azguest-shutdown":    "/usr/lib/systemd/system/azguest-shutdown.service\nstatic",
	} {
		if got, _ := m.try(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if got := m.sh("dpkg --remove azguest >/dev/null 2>&1; systemctl is-active azguest-shutdown || true; ls /etc/azguest/hooks.d"); got != "inactive\nshutdown\nstartup" {
		t.Errorf("after the removal: %q", got)
	}
	if got := strings.Count(m.sh("cat /var/lib/proof"), "shutdown"); got != 1 {
		t.Errorf("the removal of the package ran shutdown scripts")
	}
}

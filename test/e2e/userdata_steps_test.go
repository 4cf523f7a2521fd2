package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// TestUserDataSteps: a person whom user data has made can log in, extensions
// begin after all of it, and nothing but what is for every boot is done again.
func TestUserDataSteps(t *testing.T) {
	t.Parallel()
	o := blank()
	o.key = newKey(t)
	o.Provisioning.CustomData = nil
	o.Provisioning.VendorData = []byte("#cloud-config\ntimezone: Etc/UTC\n")
	o.Provisioning.UserData = fmt.Appendf(nil, `#cloud-config
fqdn: web.example.org
manage_etc_hosts: true
bootcmd: ['echo boot >>/srv/log']
groups: [crew]
users:
- default
- name: ann
  groups: [crew]
  shell: /bin/sh
  sudo: ALL=(ALL) NOPASSWD:ALL
  ssh_authorized_keys: ['%s']
write_files:
- {path: /home/ann/note, content: hello, owner: 'ann:crew', permissions: '0640', defer: true}
- {path: /srv/log, content: "line\n", append: true}
runcmd:
- echo >/srv/began; read x </srv/go
- echo run $x >>/srv/log
`, authorized(t, o.key.Public(), "ann"))
	o.Packages["Late.Data/1.0.0"] = handler(t, `
[ $op != enable ] || { grep -q run /srv/log && say success 0 "after the data" || say error 1 "before the data"; }
`)
	c := newAgentCloud(t, o)
	c.Sh(t, "mkdir -p /etc/waagent.conf.d; echo UserData.Apply=y >/etc/waagent.conf.d/data.conf; mkfifo /srv/began /srv/go")
	c.StartAgent(t)
	c.WaitReady(t)
	c.succeeds(t, fabric.Extension{Handler: "Late.Data", Version: "1.0", Settings: map[string]any{}}, func() {
		c.Sh(t, "cat /srv/began; echo x >/srv/go")
	})
	for id, state := range c.dataEnds(t) {
		if state != "done" {
			t.Errorf("%s: %s", id, state)
		}
	}
	for script, want := range map[string]string{
		"cat /srv/log; hostname; grep 127.0.1.1 /etc/hosts":                 "boot\nline\nrun x\nweb\n127.0.1.1\tweb.example.org web",
		"cat /home/ann/note; stat -c '%U:%G %a' /home/ann/note; id -nG ann": "helloann:crew 640\nann crew",
		"readlink /etc/localtime":                                           "/usr/share/zoneinfo/Etc/UTC",
	} {
		if got := strings.TrimSpace(c.Sh(t, script)); got != want {
			t.Errorf("%s\ngot  %q\nwant %q", script, got, want)
		}
	}
	if got := c.ssh(t, "ann", "sudo -n id -un"); got != "root" {
		t.Errorf("ann becomes %q", got)
	}
	c.Sh(t, "rm /home/ann/note; : >/etc/hosts")
	c.Reboot(t)
	c.StartAgent(t)
	c.dataEnds(t)
	if got := strings.TrimSpace(c.Sh(t, "cat /srv/log; ls /home/ann; grep -c web.example.org /etc/hosts")); got != "boot\nline\nrun x\nboot\n1" {
		t.Errorf("after the second boot: %q", got)
	}
}

// dataEnds waits until all is done that user data say for this boot, and returns
// the states of the items.
func (c *cloud) dataEnds(t testing.TB) map[string]string {
	t.Helper()
	boot := strings.TrimSpace(c.Sh(t, "cat /proc/sys/kernel/random/boot_id"))
	items := map[string]string{}
	await(t, "the end of the user data", func() bool {
		var j struct {
			Boot, State string
			Items       []struct{ ID, State string }
		}
		b, err := c.ReadFile("/var/lib/waagent/azguest/data.json")
		if err != nil || json.Unmarshal(b, &j) != nil || j.Boot != boot || j.State != "done" {
			return false
		}
		for _, i := range j.Items {
			items[i.ID] = i.State
		}
		return true
	})
	return items
}

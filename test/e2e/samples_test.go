package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// TestSampleAccess: the sample that restores access does what the documented
// settings of VMAccess ask for, and settings that it refuses change nothing.
func TestSampleAccess(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages = samples(t)
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	c.WaitReady(t)
	const accounts = "md5sum /etc/passwd /etc/shadow /etc/group /etc/ssh/sshd_config; cat /etc/sudoers.d/*; find /root /home -type f -exec md5sum {} +"
	tag := 0
	ask := func(protected any) string {
		t.Helper()
		tag++
		c.Put(t, fabric.Extension{Handler: "Azguest.Samples.Access", Version: "1.0", Settings: map[string]any{"n": tag}, Protected: protected})
		return c.Settle(t, "Access")["Access"]
	}
	key := authorized(t, c.key.Public(), "restored")
	before := c.Sh(t, accounts)
	for name, protected := range map[string]any{
		"root": map[string]any{"username": "root", "password": "x"}, "system": map[string]any{"remove_user": "daemon"}, "path": map[string]any{"username": "../x", "ssh_key": key},
		"option": map[string]any{"remove_user": "-r"}, "line": map[string]any{"username": "bob\nALL", "password": "x"}, "object": map[string]any{"username": map[string]any{"x": 1}}, "nothing": map[string]any{},
	} {
		if got := ask(protected); got == "Succeeded" || strings.Contains(got, "restored") {
			t.Errorf("%s: %s", name, got)
		}
		if after := c.Sh(t, accounts); after != before {
			t.Errorf("%s has changed the machine:\n%s\nbefore:\n%s", name, after, before)
		}
	}
	pem := c.Sh(t, "ssh-keygen -q -t rsa -b 2048 -N '' -f /var/tmp/k; ssh-keygen -e -m PKCS8 -f /var/tmp/k.pub | tee /var/tmp/pem")
	const secretText = `p"w\d$(id)'ä;`
	for _, tc := range []struct {
		protected map[string]any
		check     string // exits with 0
	}{
		{map[string]any{"username": "azureuser", "ssh_key": key, "remove_prior_keys": true}, `test "$(cat /home/azureuser/.ssh/authorized_keys)" = '` + key + `'; test "$(stat -c %a:%U /home/azureuser/.ssh/authorized_keys)" = 600:azureuser`},
		{map[string]any{"username": "rescue", "password": secretText, "expiration": "2099-12-31"}, `id rescue; chage -l rescue | grep 'Dec 31, 2099'; sshd -T | grep 'passwordauthentication yes'; test "$(grep -c '^rescue ALL=(ALL) ALL$' /etc/sudoers.d/waagent)" = 1
printf '%s\n' 'p"w\d$(id)'"'"'ä;' | setpriv --reuid=rescue --regid=rescue --init-groups sudo -S -k -p '' id -u | grep -x 0`},
		{map[string]any{"username": "azureuser", "ssh_key": pem}, `ssh-keygen -i -m PKCS8 -f /var/tmp/pem | grep -qFf - /home/azureuser/.ssh/authorized_keys; test "$(wc -l </home/azureuser/.ssh/authorized_keys)" = 2`},
		{map[string]any{"remove_user": "rescue", "reset_ssh": true}, `! id rescue; test ! -e /home/rescue; ! grep -r rescue /etc/sudoers.d; sshd -t`},
	} {
		if got := ask(tc.protected); got != "Succeeded" {
			t.Errorf("%v: %s", tc.protected, got)
		}
		if r, err := c.Run(t.Context(), "sh", "-exc", tc.check); r.Code != 0 {
			t.Errorf("%v: %v\n%s%s", tc.protected, err, r.Stdout, r.Stderr)
		}
	}
	if got := c.ssh(t, "azureuser", "id -un"); got != "azureuser" {
		t.Errorf("logged in as %q", got)
	}
	if r, _ := c.Run(t.Context(), "grep", "-rlF", `p"w\d`, "/var/log", "/var/lib/waagent", "/run/azguest"); r.Stdout != "" {
		t.Errorf("the password is in %s", r.Stdout)
	}
}

// TestSampleScanner: the sample that scans for viruses installs Debian's clamav,
// finds the public test file, and says so in a substatus and in its heartbeat;
// its next version keeps the packages and moves the file away.
func TestSampleScanner(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages = samples(t)
	debs, err := sandbox.DebianPackages(t.Context(), "clamav")
	if err != nil || len(debs) == 0 {
		t.Skipf("packages of clamav: %d, %v", len(debs), err)
	}
	files := map[string]string{}
	for _, name := range debs {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(name)] = string(b)
	}
	const name = "Azguest.Samples.Clamav"
	for _, b := range bundles.Samples() {
		if b.Name == name {
			if o.Packages[b.Name+"/"+b.Version], err = b.WithDebs(files).Zip(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := newAgentCloud(t, o)
	// The machine has no service manager, and need not survive a power cut.
	c.Sh(t, `mkdir -p /etc/dpkg/dpkg.cfg.d; printf 'force-unsafe-io\npath-exclude=/usr/share/man/*\n' >/etc/dpkg/dpkg.cfg.d/test
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d`)
	c.StartAgent(t)
	c.WaitReady(t)
	c.Put(t, fabric.Extension{Handler: name, Version: "1.0", Settings: map[string]any{"path": "/home", "period": 1}})
	if got := c.Settle(t, "Clamav")["Clamav"]; got != "Succeeded" {
		t.Fatal(got)
	}
	// In two parts, so that no scanner takes this file for a virus.
	c.Sh(t, `printf '%s%s' 'X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-' 'STANDARD-ANTIVIRUS-TEST-FILE!$H+H*' >/home/azureuser/x.com`)
	sub := func(want string) {
		t.Helper()
		c.WaitRow(t, name, want, func(r machine.Row) bool {
			return slices.Contains(r.Substatus, want) && strings.EqualFold(r.HandlerStatus, "ready")
		})
	}
	sub("Azguest.Test.EICAR: error: Azguest.Test.EICAR found in /home/azureuser/x.com")
	c.Put(t, fabric.Extension{Handler: name, Version: "1.1", Settings: map[string]any{"path": "/home", "period": 1, "action": "quarantine"}})
	sub("Azguest.Test.EICAR: success: Azguest.Test.EICAR was in /home/azureuser/x.com, moved to quarantine")
	c.Sh(t, "test ! -e /home/azureuser/x.com; test -f /var/lib/azguest-clamav/quarantine/1")
	if err := c.VM.DeleteExtension("Clamav"); err != nil {
		t.Fatal(err)
	}
	if got := c.Settle(t, "Clamav")["Clamav"]; got != "gone" {
		t.Error(got)
	}
	c.Sh(t, "! command -v clamscan; ! pgrep -f '[h]andler.sh watch'; test ! -e /var/lib/azguest-clamav")
}

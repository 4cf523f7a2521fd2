package provisioning_test

import (
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// TestIN8MountedFiles: a single file that is a mount point is written in place;
// one that is read-only is an error and stays.
func TestIN8MountedFiles(t *testing.T) {
	if !insideBox(t) {
		return
	}
	sh(t, `mkdir /tmp/m && cd /tmp/m && echo "127.0.0.1 localhost" >hosts && echo old >hostname && chmod 640 hosts
		touch /etc/hosts /etc/hostname
		mount --bind hosts /etc/hosts && mount --bind hostname /etc/hostname && mount -o remount,bind,ro /etc/hostname`)
	before := sh(t, "stat -c '%i %a' /tmp/m/hosts")
	if err := host.Root("/").WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n127.0.1.1 vm\n"), 0o644); err != nil {
		t.Error(err)
	}
	if got := sh(t, "cat /tmp/m/hosts"); !strings.HasSuffix(got, "127.0.1.1 vm") {
		t.Errorf("hosts: %q", got)
	}
	if err := host.Root("/").WriteFile("/etc/hosts", []byte("x\n"), 0o644); err != nil || sh(t, "cat /etc/hosts") != "x" {
		t.Errorf("a shorter text: %v, %q", err, sh(t, "cat /etc/hosts"))
	}
	if got := sh(t, "stat -c '%i %a' /tmp/m/hosts"); got != before {
		t.Errorf("file %s, was %s", got, before)
	}
	if err := host.Root("/").WriteFile("/etc/hostname", []byte("vm\n"), 0o644); err == nil || sh(t, "cat /etc/hostname") != "old" {
		t.Errorf("read-only file: error %v", err)
	}
	if left := sh(t, "ls -A /etc | grep azg- || true"); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// TestIN9Homes: homes of image-based systems, with the machine's own useradd.
func TestIN9Homes(t *testing.T) {
	if !insideBox(t) {
		return
	}
	user := func(name string) error { return userWithKey(t, name) }
	// A link whose target does not exist yet.
	sh(t, "rm -rf /home; ln -s var/home /home; rm -rf /var/home")
	if err := user("anna"); err != nil {
		t.Errorf("dangling link: %v", err)
	}
	if got := sh(t, "stat -c '%U %a' /var/home/anna /var/home/anna/.ssh/authorized_keys | tr '\n' ' '"); !strings.HasPrefix(got, "anna ") || !strings.HasSuffix(got, "anna 600") {
		t.Errorf("anna's home: %s", got)
	}
	// Homes that survived /etc.
	sh(t, `mkdir /home/berta /home/clara /home/dora; echo x >/home/berta/mine
		chown -R 1305:1305 /home/berta; chown 1306:1406 /home/clara; chown anna: /home/dora`)
	for name, want := range map[string]string{"berta": "1305 1305 berta", "clara": "1306 1406 clara"} {
		if err := user(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := sh(t, "echo $(id -u "+name+") $(id -g "+name+") $(stat -c %U /home/"+name+")"); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := sh(t, "stat -c %U /home/berta/mine"); got != "berta" {
		t.Errorf("berta's file belongs to %s", got)
	}
	if err := user("dora"); err == nil || !strings.Contains(err.Error(), "belongs to uid") {
		t.Errorf("a home of another account: %v", err)
	}
}

// userWithKey makes an account with a key on the machine on which this process
// runs.
func userWithKey(t *testing.T, name string) error {
	t.Helper()
	in := input()
	in.UserName = name
	in.Keys[0].Path = ""
	o := options()
	o.DeleteRootPassword = false
	m := provisioning.NewMachine(&provisioning.System{
		Root: "/", Run: host.Exec{}, Events: event.Discard{}, Log: zerolog.Nop(),
	}, o, provisioning.Identity{ID: vmID})
	f, err := m.Gather(t.Context())
	if err != nil {
		return err
	}
	steps, err := provisioning.Plan(in, f, o)
	for _, s := range steps {
		if err == nil && (s.ID() == provisioning.StepUser || s.ID() == provisioning.StepKeys) {
			err = s.Apply(t.Context(), m)
		}
	}
	return err
}

// TestIN9SkeletonOfKeys: whatever the skeleton of an image has in place of the
// directory of the keys, the person gets in, and nothing is written through it.
func TestIN9SkeletonOfKeys(t *testing.T) {
	if !insideBox(t) {
		return
	}
	sh(t, "mkdir -m 700 /srv/keys; echo keep >/srv/keys/authorized_keys")
	for name, script := range map[string]string{
		"file": "echo text >/etc/skel/.ssh", "link": "ln -s /srv/keys /etc/skel/.ssh", "dangling": "ln -s /nowhere /etc/skel/.ssh",
		"taken": "echo text >/etc/skel/.ssh; mkdir /etc/skel/.ssh.aside1", "dir": "mkdir -p /etc/skel/.ssh; echo '# of the image' >/etc/skel/.ssh/authorized_keys",
	} {
		sh(t, "rm -rf /etc/skel/.ssh*; "+script)
		if err := userWithKey(t, name); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := sh(t, "cd /home/"+name+"; stat -c '%F %U %a' .ssh .ssh/authorized_keys; grep -c ssh- .ssh/authorized_keys"); got != "directory "+name+" 700\nregular file "+name+" 600\n1" {
			t.Errorf("%s: %s", name, got)
		}
		aside := map[string]string{"dir": "", "taken": ".ssh.aside1 .ssh.aside2"}
		want, ok := aside[name]
		if !ok {
			want = ".ssh.aside1"
		}
		if got := sh(t, "cd /home/"+name+"; ls -dA .ssh.aside* 2>/dev/null | xargs"); got != want {
			t.Errorf("%s: put aside: %q, want %q", name, got, want)
		}
	}
	if got := sh(t, "cat /srv/keys/authorized_keys; ls -A /srv/keys"); got != "keep\nauthorized_keys" {
		t.Errorf("what the link points to: %s", got)
	}
}

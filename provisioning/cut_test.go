package provisioning_test

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/peak"
	"github.com/azguest/azguest/test/sandbox"
)

// runJIT runs in the test binary inside the sandbox and does what the agent
// does with a list of short-lived accounts.
func runJIT(names string) error {
	sys := provisioning.NewMachine(&provisioning.System{Root: "/", Run: host.Exec{}, Kernel: host.LinuxKernel(), Events: event.Discard{}, Log: zerolog.Nop()}, options(), provisioning.Identity{ID: vmID})
	if name, ok := strings.CutPrefix(names, "remove:"); ok {
		return sys.RemoveAccount(ctxBackground(), name)
	}
	if err := sys.MendJIT(ctxBackground()); err != nil {
		return err
	}
	f, err := sys.Gather(ctxBackground())
	if err != nil {
		return err
	}
	var want []provisioning.JITUser
	for name := range strings.FieldsSeq(names) {
		want = append(want, provisioning.JITUser{Name: name, Password: host.NewSecret(passwd), Expires: time.Now().Add(24 * time.Hour)})
	}
	steps, warnings := provisioning.JITSteps(want, f, options(), time.Now())
	errs := warnings
	for _, s := range steps {
		errs = append(errs, s.Apply(ctxBackground(), sys))
	}
	return errors.Join(errs...)
}

// TestPowerCutWithinJIT kills the tools that make and remove a short-lived
// account, and the agent, in the middle. The next run must complete the work.
func TestPowerCutWithinJIT(t *testing.T) {
	peak.WithoutRace(t)
	t.Parallel()
	b := newBox(t, sandbox.Options{})
	jit := func(names string) {
		t.Helper()
		res, err := b.RunCmd(t.Context(), sandbox.Cmd{Args: []string{"/usr/local/bin/provisioning.test"}, Env: []string{jitEnv + "=" + names}})
		if err != nil && res.Code >= 0 {
			t.Errorf("%v: %s", err, res.Stdout)
		}
	}
	const files = "passwd shadow group gshadow subuid subgid"
	state := func() string {
		return b.sh(`cd /etc; grep -H ^ann: ` + files + ` | sed 's/\$6\$[^:]*/HASH/'; cat sudoers.d/waagent 2>/dev/null
find /home/ann /etc/sudoers.d/waagent /var/lib/waagent/azguest/removing.json /etc/*.lock -printf '%M %u %g %p\n' 2>/dev/null | sort`)
	}
	none := state()
	jit("ann")
	there := state()
	// undone restores the files and the home as they were, except the files in
	// done.
	undone := func(done string) string {
		return `for f in ` + files + `; do case " ` + done + ` " in *" $f "*) ;; *) cp -p /tmp/before/$f /etc/$f;; esac; done; [ -n "$HOME_DONE" ] || { rm -rf /home/ann; [ ! -d /tmp/before/ann ] || cp -a /tmp/before/ann /home/ann; }`
	}
	for _, tc := range []struct{ name, tool, undo string }{
		{"useradd after passwd", "useradd", undone("passwd")},
		{"useradd before gshadow", "useradd", undone("passwd shadow group")},
		{"useradd before the home", "useradd", undone(files)},
		{"useradd in the skeleton", "useradd", "rm /home/ann/.profile; chown root: /home/ann/.bashrc; : >/home/ann/.bashrc"},
		{"before the password", "chpasswd", "cp -p /tmp/before/shadow /etc/shadow"},
		{"userdel before anything", "userdel", undone("")},
		{"userdel after passwd", "userdel", undone("passwd")},
		{"userdel before group", "userdel", undone("passwd shadow")},
		{"userdel after the home", "userdel", "HOME_DONE=1\n" + undone("passwd shadow")},
	} {
		want, wanted := there, "ann"
		if tc.tool == "userdel" {
			want, wanted = none, ""
		}
		// The sudo that was asked has a process that ends a moment after it, and
		// the number of an account that has processes is not given again.
		b.sh("while pgrep -U ann >/dev/null; do sleep 0.05; done 2>/dev/null; userdel -f -r ann 2>/dev/null || :; rm -f /etc/sudoers.d/waagent /var/lib/waagent/azguest/removing.json")
		if wanted == "" {
			jit("ann")
		}
		b.sh("cat >/usr/local/sbin/" + tc.tool + " <<'EOF'\n#!/bin/sh\nrm -rf /tmp/before; mkdir /tmp/before; for f in " + files + "; do cp -p /etc/$f /tmp/before/; done; [ ! -d /home/ann ] || cp -a /home/ann /tmp/before/\n/usr/sbin/" + tc.tool +
			" \"$@\"\n" + tc.undo + "\nfor f in " + files + "; do printf 4194000 >/etc/$f.lock; done\nkill -9 $PPID\nEOF\nchmod 755 /usr/local/sbin/" + tc.tool)
		jit(wanted)
		b.sh("rm /usr/local/sbin/" + tc.tool)
		if half := state(); half == want {
			t.Errorf("%s: the cut has no effect", tc.name)
		}
		jit(wanted)
		if diff := cmp.Diff(want, state()); diff != "" {
			t.Errorf("%s (-undisturbed +cut):\n%s", tc.name, diff)
		}
	}
	// Another account that has the name or the UID by now is left alone.
	b.sh(`userdel -f -r ann 2>/dev/null || :; useradd -m -u 1777 bob; mkdir -p /var/lib/waagent/azguest
echo '[{"Name":"ann","UID":1777,"GID":1777,"Gecos":"JIT_Account","Home":"/home/bob","Shell":"/bin/sh"},{"Name":"bob","UID":1777,"GID":1777,"Gecos":"JIT_Account","Home":"/home/bob","Shell":"/bin/sh"}]' >/var/lib/waagent/azguest/removing.json`)
	jit("")
	if got := b.sh("getent passwd bob | cut -d: -f3; ls -d /home/bob; getent passwd ann || :"); got != "1777\n/home/bob" {
		t.Errorf("somebody else's account: %s", got)
	}
}

// TestAnAttemptThatWasCutOff covers steps that write several files in turn,
// and what an attempt leaves if it is interrupted before it has asked or
// reloaded sshd.
func TestAnAttemptThatWasCutOff(t *testing.T) {
	t.Parallel()
	reboot := func(m *machine) {
		m.name = strings.TrimSpace(m.read("/etc/hostname"))
		m.write("/proc/sys/kernel/random/boot_id", "boot-2\n", 0o644)
	}
	fresh := func(t *testing.T) *machine {
		m := newMachine(t, "debian")
		m.name = "image"
		m.write("/etc/hostname", "image\n", 0o644)
		m.write("/etc/hosts", "127.0.1.1\timage\n", 0o644)
		return m
	}
	step := func(t *testing.T, m *machine, o provisioning.Options, id string) error {
		t.Helper()
		for _, s := range plan(t, m, input(), o) {
			if s.ID() == id {
				return s.Apply(t.Context(), m.prov())
			}
		}
		t.Fatalf("no step %s", id)
		return nil
	}
	t.Run("hosts before the name", func(t *testing.T) {
		t.Parallel()
		m := fresh(t)
		hosts := m.read("/etc/hosts")
		if err := m.root.Remove("/etc/hosts"); err != nil {
			t.Fatal(err)
		}
		m.write("/etc/hosts/x", "", 0o644) // makes writing /etc/hosts fail
		if err := step(t, m, options(), provisioning.StepHostName); err == nil {
			t.Fatal("writing the hosts file did not fail")
		}
		if err := m.root.RemoveAll("/etc/hosts"); err != nil {
			t.Fatal(err)
		}
		m.write("/etc/hosts", hosts, 0o644)
		reboot(m)
		if err := step(t, m, options(), provisioning.StepHostName); err != nil {
			t.Fatal(err)
		}
		if got := m.read("/etc/hosts"); got != "127.0.1.1\tvm-01 # azguest\n" {
			t.Errorf("hosts: %q", got)
		}
	})
	t.Run("sshd not asked yet", func(t *testing.T) {
		t.Parallel()
		for _, main := range []string{"", "# no drop-ins\nPort 22\n"} {
			m := fresh(t)
			if main != "" {
				m.write("/etc/ssh/sshd_config", main, 0o644)
			}
			before := m.tree()
			if err := step(t, m, options(), provisioning.StepSSHD); err != nil {
				t.Fatal(err)
			}
			if maps.Equal(before, m.tree()) {
				t.Fatal("nothing was written")
			}
			if err := m.root.RemoveAll("/var/lib/waagent"); err != nil {
				t.Fatal(err)
			}
			reboot(m)
			m.run.Answers["/usr/sbin/sshd"] = answerIf(func() bool {
				return m.root.Exists("/etc/ssh/sshd_config.d/00-azguest.conf") || strings.Contains(m.read("/etc/ssh/sshd_config"), "azguest")
			}, "line 1: Bad configuration option")
			if err := step(t, m, options(), provisioning.StepSSHD); err == nil {
				t.Error("sshd did not refuse the configuration")
			}
			after := m.tree()
			delete(after, "/etc/ssh/sshd_config.d")
			for _, tree := range []map[string]string{before, after} {
				delete(tree, "/proc/sys/kernel/random/boot_id")
				delete(tree, "/var/lib") // the empty directory stays
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("not as before (-before +after):\n%s", diff)
			}
		}
	})
	t.Run("the image's kind of host key is gone", func(t *testing.T) {
		t.Parallel()
		m := fresh(t)
		o := options()
		o.HostKeyType = "ed25519"
		m.write("/etc/ssh/ssh_host_rsa_key", "the image's", 0o600)
		if err := step(t, m, o, provisioning.StepHostKeys); err != nil || m.root.Exists("/etc/ssh/ssh_host_rsa_key") {
			t.Fatal(err, "or the image's key is still there")
		}
		reboot(m)
		if err := step(t, m, o, provisioning.StepLateKeys); err != nil {
			t.Fatal(err)
		}
		first := m.read("/etc/ssh/ssh_host_rsa_key")
		// The ledger was not written, but sshd may have shown the key to a
		// client.
		m.write("/var/lib/waagent/azguest/hostkeys.json", strings.ReplaceAll(m.read("/var/lib/waagent/azguest/hostkeys.json"), `"rsa":"`, `"x":"`), 0o600)
		for _, s := range m.provWith(o).Unfinished() {
			if err := s.Apply(t.Context(), m.prov()); err != nil {
				t.Fatal(err)
			}
		}
		if m.read("/etc/ssh/ssh_host_rsa_key") != first || len(m.provWith(o).Unfinished()) > 0 {
			t.Error("the key has changed, or is not known")
		}
	})
	t.Run("the journal was lost before the custom data ran", func(t *testing.T) {
		t.Parallel()
		m := fresh(t)
		o := options()
		o.ExecuteCustomData = true
		now, _ := provisioning.Split(plan(t, m, input(), o))
		if _, err := apply(t, m, now, o, nil); err != nil {
			t.Fatal(err)
		}
		reboot(m)
		m.write("/var/lib/waagent/azguest/provision.json", strings.Repeat("\x00", 100), 0o600)
		m.run.Answers["/bin/sh"] = hosttest.Answer{}
		for range 2 {
			if _, err := apply(t, m, m.provWith(o).Unfinished(), o, nil); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(strings.Join(m.run.Commands(), "\n"), "/bin/sh "); n != 1 {
				t.Errorf("the custom data ran %d times", n)
			}
		}
	})
	t.Run("a copy in the home", func(t *testing.T) {
		t.Parallel()
		m := fresh(t)
		if err := step(t, m, options(), provisioning.StepUser); err != nil {
			t.Fatal(err)
		}
		const left, theirs = "/home/azureuser/.ssh/.authorized_keys.azg-ABCDEFGHIJKLMNOPQRSTUVWXYZ", "/home/azureuser/.ssh/.authorized_keys.azg-mine"
		m.write(left, "half", 0o600)
		m.write(theirs, "x", 0o600)
		if err := step(t, m, options(), provisioning.StepKeys); err != nil {
			t.Fatal(err)
		}
		if m.root.Exists(left) || !m.root.Exists(theirs) {
			t.Errorf("left %v, the user's own file %v", m.root.Exists(left), m.root.Exists(theirs))
		}
	})
}

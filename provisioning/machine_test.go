package provisioning_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
)

// A machine is a synthetic root with simulated account tools.
type machine struct {
	t    *testing.T
	root host.Root
	run  *hosttest.Runner
	mu   sync.Mutex
	name string // kernel's host name
	sigs []string
	keys *provisioning.HostKeyMaker // shared by tests that do not test host keys
}

// sharedKeys are made once, for tests that do not test host keys: an RSA key
// takes longer than all the rest.
var sharedKeys = sync.OnceValue(func() *provisioning.HostKeyMaker {
	return provisioning.MakeHostKeys(provisioning.HostKeyTypes(false))
})

// prov returns the machine with the default options of the tests.
func (m *machine) prov() *provisioning.Machine { return m.provWith(options()) }

func (m *machine) provWith(o provisioning.Options) *provisioning.Machine {
	return provisioning.NewMachine(m.system(), o, provisioning.Identity{ID: vmID})
}

func (m *machine) system() *provisioning.System {
	return &provisioning.System{
		Root: m.root, Run: m.run, Events: event.Discard{}, Log: zerolog.Nop(), HostKeys: m.keys,
		Kernel: host.Kernel{
			HostName:    func() (string, error) { return m.name, nil },
			SetHostName: func(n string) error { m.name = n; return nil },
			Signal: func(pid int, sig unix.Signal) error {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.sigs = append(m.sigs, fmt.Sprint(pid, " ", sig))
				return nil
			},
		},
	}
}

func (m *machine) write(name, text string, perm os.FileMode) {
	m.t.Helper()
	p := m.root.Path(name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), perm); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.t.Helper()
	b, err := m.root.ReadFile(name)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m *machine) program(names ...string) {
	for _, n := range names {
		m.write("/usr/sbin/"+n, "#!/bin/sh\n", 0o755)
	}
}

// newMachine makes the layout of a distribution. The created user has the UID
// and GID of the test process, so that the tests also work without root.
func newMachine(t *testing.T, layout string) *machine {
	t.Helper()
	m := &machine{t: t, root: host.Root(t.TempDir()), run: &hosttest.Runner{Answers: map[string]hosttest.Answer{}}, name: "localhost"}
	m.write("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n", 0o644)
	m.write("/etc/group", "root:x:0:\nadm:x:4:\nusers:x:100:\n", 0o644)
	m.write("/etc/shadow", "root:$6$abc$xyz:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n", 0o640)
	m.write("/etc/hosts", "127.0.0.1\tlocalhost\n", 0o644)
	m.write("/etc/login.defs", "UID_MIN 1000\n", 0o644)
	m.write("/proc/sys/kernel/random/boot_id", "boot-1\n", 0o644)
	m.write("/proc/stat", "cpu 0\nbtime 1700000000\n", 0o644)
	m.write("/etc/skel/.bashrc", "# bashrc\n", 0o644)
	m.write("/bin/sh", "", 0o755)
	const sshd = "Port 22\nUsePAM yes\n"
	switch layout {
	case "debian":
		m.program("useradd", "usermod", "chpasswd", "visudo", "sudo", "sshd")
		m.write("/bin/bash", "", 0o755)
		m.write("/etc/shells", "/bin/sh\n/bin/bash\n", 0o644)
		m.write("/etc/sudoers", "root ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n", 0o440)
		m.write("/etc/sudoers.d/README", "#\n", 0o440)
		m.write("/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n"+sshd+"KbdInteractiveAuthentication no\n", 0o644)
	case "rhel":
		m.program("useradd", "usermod", "chpasswd", "visudo", "sudo", "sshd", "restorecon")
		m.write("/bin/bash", "", 0o755)
		m.write("/etc/shells", "/bin/sh\n/bin/bash\n", 0o644)
		m.write("/etc/group", "root:x:0:\nusers:x:100:\nssh_keys:x:"+fmt.Sprint(os.Getgid())+":\n", 0o644)
		m.write("/sys/fs/selinux/enforce", "1", 0o644)
		m.write("/etc/sudoers", "root ALL=(ALL) ALL\n#includedir /etc/sudoers.d\n", 0o440)
		m.write("/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n"+sshd, 0o600)
		m.write("/etc/ssh/sshd_config.d/50-redhat.conf", "ChallengeResponseAuthentication no\n", 0o600)
		m.write("/etc/nsswitch.conf", "hosts: files dns myhostname\n", 0o644)
	case "suse":
		m.program("useradd", "usermod", "chpasswd", "visudo", "sudo", "sshd")
		m.write("/bin/bash", "", 0o755)
		m.write("/usr/etc/sudoers", "@includedir /usr/etc/sudoers.d\n@includedir /etc/sudoers.d\n", 0o440)
		m.write("/usr/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nInclude /usr/etc/ssh/sshd_config.d/*.conf\n"+sshd, 0o644)
		m.write("/etc/ssh/.keep", "", 0o644)
	case "alpine":
		m.program("sshd", "chpasswd")
		m.write("/bin/busybox", "", 0o755)
		if err := os.Symlink("/bin/busybox", m.root.Path("/usr/sbin/adduser")); err != nil {
			t.Fatal(err)
		}
		m.write("/usr/bin/doas", "", 0o755)
		m.write("/etc/doas.d/.keep", "", 0o644)
		m.write("/etc/ssh/sshd_config", sshd+"PasswordAuthentication yes\n", 0o644)
	case "flatcar":
		m.program("useradd", "usermod", "chpasswd", "visudo", "sudo", "sshd")
		m.write("/bin/bash", "", 0o755)
		m.write("/etc/passwd", m.read("/etc/passwd")+"core:x:500:500:CoreOS Admin:/home/core:/bin/bash\n", 0o644)
		m.write("/usr/share/ssh/sshd_config", sshd+"PasswordAuthentication no\nClientAliveInterval 60\n", 0o644)
		if err := os.MkdirAll(m.root.Path("/etc/ssh"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../usr/share/ssh/sshd_config", m.root.Path("/etc/ssh/sshd_config")); err != nil {
			t.Fatal(err)
		}
		m.write("/etc/sudoers", "#includedir /etc/sudoers.d\n", 0o440)
	default:
		t.Fatalf("no layout %q", layout)
	}
	add := func(c host.Cmd) error {
		name := c.Args[len(c.Args)-1]
		if strings.Contains(m.read("/etc/passwd"), "\n"+name+":") {
			return nil
		}
		m.write("/etc/passwd", m.read("/etc/passwd")+fmt.Sprintf("%s:x:%d:%d::/home/%s:/bin/bash\n", name, max(1000, os.Getuid()), os.Getgid(), name), 0o644)
		m.write("/etc/shadow", m.read("/etc/shadow")+name+":!:19000:0:99999:7:::\n", 0o640)
		home := m.root.Path("/home/" + name)
		if err := os.MkdirAll(home, 0o700); err != nil {
			return err
		}
		return os.Chown(home, max(1000, os.Getuid()), os.Getgid())
	}
	m.run.Answers["useradd"] = hosttest.Answer{Do: add}
	m.run.Answers["adduser"] = hosttest.Answer{Do: add}
	m.run.Answers["chpasswd"] = hosttest.Answer{Do: func(c host.Cmd) error {
		name, field, _ := strings.Cut(strings.TrimSuffix(string(c.Stdin), "\n"), ":")
		lines := strings.SplitAfter(m.read("/etc/shadow"), "\n")
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+":") })
		f := strings.Split(lines[i], ":")
		f[1] = field
		lines[i] = strings.Join(f, ":")
		m.write("/etc/shadow", strings.Join(lines, ""), 0o640)
		return nil
	}}
	m.run.Answers["/usr/sbin/visudo"] = hosttest.Answer{}
	m.run.Answers["/usr/sbin/restorecon"] = hosttest.Answer{}
	m.run.Answers["/usr/sbin/sshd"] = hosttest.Answer{}
	return m
}

// tree returns every file below the root with mode and content, to compare two
// machines. Hashes and keys, which are random, are replaced.
func (m *machine) tree() map[string]string {
	m.t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(string(m.root), func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, string(m.root))
		text := ""
		switch {
		case d.Type()&os.ModeSymlink != 0:
			text, err = os.Readlink(p)
		case d.Type().IsRegular():
			var b []byte
			b, err = os.ReadFile(p)
			text = string(b)
		}
		switch {
		case strings.Contains(name, "ssh_host_"), strings.HasSuffix(name, "/hostkeys.json"):
			text = "random"
		case strings.HasSuffix(name, "/provision.json"), strings.HasSuffix(name, "/.pwd.lock"), strings.HasPrefix(name, "/proc/"):
			return err
		case name == "/etc/shadow":
			var lines []string
			for line := range strings.Lines(text) {
				f := strings.Split(line, ":")
				if strings.HasPrefix(f[1], "$6$") {
					f[1] = "$6$"
				}
				f[2] = "day"
				lines = append(lines, strings.Join(f, ":"))
			}
			text = strings.Join(lines, "")
		}
		out[name] = info.Mode().String() + " " + text
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

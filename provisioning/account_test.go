package provisioning_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
)

// useradd is a tool that fails after a part of its work.
type useradd struct {
	code    int
	stderr  string
	account bool // the account is made nevertheless
	home    bool
}

func (u useradd) answer(m *machine) hosttest.Answer {
	whole := m.run.Answers["useradd"].Do
	return hosttest.Answer{Code: u.code, Stderr: u.stderr, Do: func(c host.Cmd) error {
		if !u.account {
			return nil
		}
		err := whole(c)
		if !u.home {
			err = errors.Join(err, os.RemoveAll(m.root.Path("/home/azureuser")))
		}
		return err
	}}
}

// TestA7UseraddWithErrors: an account that the tool has made, is completed;
// one that it has not made, fails.
func TestA7UseraddWithErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		tool  useradd
		fails bool
	}{
		{"12: no home", useradd{12, "useradd: cannot create directory /home/azureuser\n", true, false}, false},
		{"13: no mailbox", useradd{13, "", true, true}, false},
		{"14: no SELinux user", useradd{14, "", true, true}, false},
		{"18: no subordinate ids", useradd{18, "", true, true}, false},
		{"1: nothing made", useradd{1, "useradd: cannot lock /etc/passwd\n", false, false}, true},
		{"10: nothing made", useradd{10, "", false, false}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			m.run.Answers["useradd"] = tc.tool.answer(m)
			_, err := apply(t, m, plan(t, m, input(), options()), options(), nil)
			if (err != nil) != tc.fails {
				t.Fatalf("error %v, want one: %v", err, tc.fails)
			}
			if tc.fails {
				return
			}
			if got := m.read("/home/azureuser/.ssh/authorized_keys"); !strings.Contains(got, edKey) {
				t.Errorf("keys %q", got)
			}
			if fi, err := os.Stat(m.root.Path("/home/azureuser")); err != nil || fi.Mode().Perm()&0o022 != 0 {
				t.Errorf("home %v, %v", fi, err)
			}
		})
	}
	t.Run("12, and the account is not made either", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t, "debian")
		m.keys = sharedKeys()
		whole := m.run.Answers["useradd"].Do
		steps := plan(t, m, input(), options())
		m.run.Answers["useradd"] = hosttest.Answer{Code: 12, Do: func(c host.Cmd) error {
			if slices.Contains(c.Args, "-M") {
				return whole(c)
			}
			return nil
		}}
		if _, err := apply(t, m, steps, options(), nil); err != nil {
			t.Error(err)
		}
	})
}

// TestA1NamesOfOtherSources: an account that only the C library knows gets its
// keys where its home is, and nothing of it is changed; a group of the name is
// no account.
func TestA1NamesOfOtherSources(t *testing.T) {
	t.Parallel()
	entry := fmt.Sprintf("azureuser:*:%d:%d::/home/corp/azureuser:/bin/bash\n", os.Getuid(), os.Getgid())
	for _, tc := range []struct {
		name   string
		getent hosttest.Answer
		home   string
		code   string // of the failure; empty: none
	}{
		{"an account with a home", hosttest.Answer{Stdout: entry}, "/home/corp/azureuser", ""},
		{"an account without a home", hosttest.Answer{Stdout: entry}, "", provisioning.CodeKeys},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			m.run.Answers["useradd"] = hosttest.Answer{Code: 9, Stderr: "useradd: user 'azureuser' already exists\n"}
			m.run.Answers["chpasswd"] = hosttest.Answer{}
			m.run.Answers["getent passwd azureuser"] = tc.getent
			if tc.home != "" {
				if err := errors.Join(os.MkdirAll(m.root.Path(tc.home), 0o755), m.root.Chown(tc.home, os.Getuid(), os.Getgid())); err != nil {
					t.Fatal(err)
				}
			}
			in := input()
			in.Password, in.Keys[0].Path = host.Secret{}, "/home/azureuser/.ssh/authorized_keys"
			before := m.read("/etc/shadow")
			res, err := apply(t, m, plan(t, m, in, provisioning.Options{}), provisioning.Options{}, nil)
			if (err == nil) != (tc.code == "") || err != nil && provisioning.CodeOf(err) != tc.code {
				t.Fatalf("error %v, want %q", err, tc.code)
			}
			if got := m.read("/etc/shadow"); got != before {
				t.Errorf("shadow changed: %s", got)
			}
			if m.root.Exists("/home/azureuser") {
				t.Error("a home was made")
			}
			if tc.code != "" {
				return
			}
			if got := m.read(tc.home + "/.ssh/authorized_keys"); !strings.Contains(got, edKey) {
				t.Errorf("keys %q", got)
			}
			if len(res.Warnings) != 1 || res.Warnings[0].ID != provisioning.CodeUser {
				t.Errorf("warnings %v", res.Warnings)
			}
		})
	}
	t.Run("A2: a group of another source", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t, "debian")
		m.keys = sharedKeys()
		whole := m.run.Answers["useradd"].Do
		steps := plan(t, m, input(), options())
		m.run.Answers["useradd"] = hosttest.Answer{Code: 9}
		m.run.Answers["getent"] = hosttest.Answer{Code: 2}
		again := ""
		m.run.Answers["*"] = hosttest.Answer{Do: func(c host.Cmd) error { return fmt.Errorf("%s: %w", c.Name, exec.ErrNotFound) }}
		m.run.Answers["useradd -m -p * -s /bin/bash -N azureuser"] = hosttest.Answer{Do: func(c host.Cmd) error { again = c.String(); return whole(c) }}
		if _, err := apply(t, m, steps, options(), nil); err != nil || again == "" {
			t.Errorf("error %v; commands %v", err, m.run.Commands())
		}
	})
}

// TestH3HomesOfUseradd: where HOME= of useradd's defaults says, is where the
// home is made, and its parent is made before.
func TestH3HomesOfUseradd(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ defaults, option, want string }{
		{"", "", "/home/azureuser"},
		{"HOME=/home\n", "", "/home/azureuser"},
		{"# HOME=/x\nGROUP=100\nHOME=/data/home\n", "", "/data/home/azureuser"},
		{"HOME=relative\n", "", "/home/azureuser"},
		{"HOME=/data/home\n", "/srv/home", "/srv/home/azureuser"}, // Options decide
	} {
		m := newMachine(t, "debian")
		if tc.defaults != "" {
			m.write("/etc/default/useradd", tc.defaults, 0o644)
		}
		o := options()
		o.HomeDir = tc.option
		step := stepOf[provisioning.CreateUser](t, plan(t, m, input(), o))
		if step.Home != tc.want {
			t.Errorf("%q: home %s, want %s", tc.defaults, step.Home, tc.want)
			continue
		}
		parent := ""
		m.run.Answers["useradd"] = hosttest.Answer{Do: func(c host.Cmd) error {
			if !m.root.Exists(step.HomeDir) {
				return errors.New("no parent")
			}
			parent = step.HomeDir
			m.write("/etc/passwd", m.read("/etc/passwd")+fmt.Sprintf("azureuser:x:%d:%d::%s:/bin/bash\n", os.Getuid(), os.Getgid(), step.Home), 0o644)
			return os.Mkdir(m.root.Path(step.Home), 0o700)
		}}
		if err := errors.Join(m.root.MkdirAll("/var/lib/waagent/azguest", 0o700), step.Apply(t.Context(), m.prov())); err != nil || parent == "" {
			t.Errorf("%q: %v", tc.defaults, err)
		}
	}
}

// TestH16AttributesAreNamed: a step that an attribute of a file makes fail
// names the file and the attribute, whoever would have written it.
func TestH16AttributesAreNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, on string
		make     func(m *machine)
		fails    bool // else a warning
	}{
		{"accounts", "/etc/passwd", func(m *machine) {
			m.run.Answers["useradd"] = hosttest.Answer{Code: 1, Stderr: "useradd: failure while writing changes to /etc/passwd\n"}
		}, true},
		{"shadow, which the tool cannot write", "/etc/shadow", func(m *machine) { m.run.Answers["chpasswd"] = hosttest.Answer{Code: 1} }, false},
		{"sudoers.d", "/etc/sudoers.d", nil, false},
		{"our sudo rule", "/etc/sudoers.d/waagent", func(m *machine) { m.write("/etc/sudoers.d/waagent", "# x\n", 0o440) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			steps := plan(t, m, input(), provisioning.Options{})
			if tc.make != nil {
				tc.make(m)
			}
			if tc.on == "/etc/shadow" { // the account is one of the image
				m.write("/etc/passwd", m.read("/etc/passwd")+"azureuser:x:1000:1000::/home/azureuser:/bin/bash\n", 0o644)
				m.write("/etc/shadow", m.read("/etc/shadow")+"azureuser:*:19000:0:99999:7:::\n", 0o640)
			}
			if out, err := exec.CommandContext(t.Context(), "chattr", "+i", m.root.Path(tc.on)).CombinedOutput(); err != nil {
				t.Skipf("%v: %s", err, out)
			}
			t.Cleanup(func() { _ = exec.Command("chattr", "-i", m.root.Path(tc.on)).Run() })
			res, err := apply(t, m, steps, provisioning.Options{}, nil)
			for _, w := range res.Warnings {
				err = errors.Join(err, w)
			}
			f, ok := errors.AsType[*host.FlagError](err)
			if !ok || f.Name != tc.on || f.Flag != "immutable" {
				t.Errorf("%v, want the attribute of %s", err, tc.on)
			}
			if marked := m.root.Exists("/var/lib/waagent/provisioned"); marked == tc.fails {
				t.Errorf("provisioned: %v, %v", marked, err)
			}
		})
	}
}

// TestU9WhereDoasReads: the rule is written where this doas reads rules.
func TestU9WhereDoasReads(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, program, dir, have, want string }{
		{"Alpine", "ELF /etc/doas.d /etc/doas.conf", "", "", "/etc/doas.d/azguest.conf"},
		{"OpenDoas of Debian, Fedora, Arch", "ELF /etc/doas.conf", "", "permit persist :wheel\ndeny azureuser", "/etc/doas.conf"},
		{"a folder that nobody reads", "ELF /etc/doas.conf", "/etc/doas.d/x.conf", "", "/etc/doas.conf"},
		{"the port that is built by hand", "ELF /usr/local/etc/doas.conf", "", "", "/usr/local/etc/doas.conf"},
		{"not known, with a folder", "ELF", "/etc/doas.d/x.conf", "", "/etc/doas.d/azguest.conf"},
		{"not known", "ELF", "", "", "/etc/doas.conf"},
	} {
		m := newMachine(t, "debian")
		m.write("/usr/bin/doas", tc.program, 0o755)
		if tc.dir != "" {
			m.write(tc.dir, "", 0o600)
		}
		if tc.have != "" {
			m.write(tc.want, tc.have, 0o400)
		}
		step := provisioning.Sudo{User: "azureuser", Doas: true, NoPassword: true}
		if err := step.Apply(t.Context(), m.prov()); err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		want := "permit nopass azureuser\n"
		if tc.have != "" {
			want = tc.have + "\n" + want
		}
		if got := m.read(tc.want); got != want {
			t.Errorf("%s: %q, want %q", tc.name, got, want)
		}
		if err := m.prov().ForgetSudo("azureuser"); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if m.root.Exists(tc.want) != (tc.have != "") {
			t.Errorf("%s: after its removal, the file is there: %v", tc.name, m.root.Exists(tc.want))
		}
	}
}

// TestU9DoasIsAskedAsThePerson: the answers are those of OpenDoas 6.8.2 and of
// the port for other systems.
func TestU9DoasIsAskedAsThePerson(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		says    string
		code    int
		key, pw bool // whether a person with a key only, or with a password, becomes root
	}{
		{"", 0, true, true},
		{"doas: Authentication required\n", 1, false, true},
		{"doas: Authorization required\n", 1, false, true},
		{"doas: Operation not permitted\n", 1, false, false},
		{"doas: /etc/doas.conf is not owned by root\n", 1, false, false},
		{"doas: syntax error at line 1\n", 1, false, false},
		{"doas: not installed setuid\n", 1, false, false},
	} {
		m := newMachine(t, "debian")
		for _, name := range []string{"/usr/bin/sudo", "/usr/sbin/sudo", "/bin/sudo"} {
			_ = m.root.Remove(name) // it may not exist
		}
		m.write("/usr/bin/doas", "ELF /etc/doas.conf", 0o755)
		m.run.Answers["doas -n true"] = hosttest.Answer{Code: tc.code, Stderr: tc.says}
		for _, password := range []bool{false, true} {
			want := tc.key
			if password {
				want = tc.pw
			}
			if a := m.prov().AskRoot(t.Context(), host.Person{Name: "ann"}, password); a.By != "doas" || a.OK != want {
				t.Errorf("%q, password %v: %+v, want %v", tc.says, password, a, want)
			}
		}
	}
}

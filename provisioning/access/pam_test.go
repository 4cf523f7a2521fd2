package access

import (
	"context"
	"errors"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
)

// fake returns a machine of files, on which programs answer as given.
func fake(t *testing.T, files map[string]string, answers map[string]hosttest.Answer) *provisioning.Machine {
	t.Helper()
	r := host.Root(t.TempDir())
	for name, text := range files {
		if err := errors.Join(r.MkdirAll(path.Dir(name), 0o755), r.WriteFile(name, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string]hosttest.Answer{"/bin/bash": {Stdout: shellSaid + "\n"}}
	maps.Copy(all, answers)
	sys := &provisioning.System{Root: r, Run: &hosttest.Runner{Answers: all}, Events: event.Discard{}, Log: zerolog.Nop()}
	return provisioning.NewMachine(sys, provisioning.Options{}, provisioning.Identity{})
}

const passwd = "root:x:0:0::/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/bash\n"

// TestIN1PAM: a stack is walked through as libpam does it, and what is not
// known shuts nothing.
func TestIN1PAM(t *testing.T) {
	t.Parallel()
	const debian = "[success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
	for _, tc := range []struct {
		name, auth, account string
		files               map[string]string
		codes               string // of findings that shut something
	}{
		{"Debian", debian, "required pam_unix.so\n", nil, ""},
		{"a jump over the refusal is missing", "required pam_unix.so\nauth requisite pam_deny.so\n", "required pam_unix.so\n", nil, CodePAM},
		{"sufficient", "sufficient pam_unix.so\nauth required pam_deny.so\n", "required pam_permit.so\n", nil, ""},
		{"optional refusal", debian, "optional pam_deny.so\naccount required pam_permit.so\n", nil, ""},
		{"default=ignore", debian, "[default=ignore] pam_deny.so\naccount required pam_permit.so\n", nil, ""},
		{"nobody says yes", debian, "optional pam_nologin.so\n", nil, CodePAM},
		{"a directory for local users", debian, "[default=bad success=ok user_unknown=ignore] pam_sss.so\naccount required pam_unix.so\n", nil, ""},
		{"only a directory", debian, "required pam_sss.so\n", nil, CodePAM},
		{"local users first", debian, "sufficient pam_localuser.so\naccount required pam_ldap.so\n", nil, ""},
		{"a module that is not known", debian, "required pam_foo.so\n", nil, ""},
		{"a substack that ends early", debian, "substack inner\naccount required pam_deny.so\n", map[string]string{"/etc/pam.d/inner": "account sufficient pam_permit.so\n"}, CodePAM},
		{"an include", debian, "include inner\n", map[string]string{"/etc/pam.d/inner": "account required pam_access.so\n", "/etc/security/access.conf": "-:ALL EXCEPT root:ALL\n"}, CodePAM},
		{"an exception for the person", debian, "required pam_access.so\n", map[string]string{"/etc/security/access.conf": "+:u:ALL\n-:ALL:ALL\n"}, ""},
		{"a group", debian, "required pam_access.so\n", map[string]string{"/etc/security/access.conf": "-:ALL EXCEPT (staff):ALL\n"}, ""},
		{"two conditions", debian, "required pam_succeed_if.so uid >= 1000 user ingroup staff\n", nil, ""},
		{"one does not hold", debian, "required pam_succeed_if.so quiet uid >= 2000\n", nil, CodePAM},
		{"a program that is gone", debian, "required pam_exec.so quiet /gone\n", nil, CodePAM},
		{"a program", debian, "required pam_exec.so quiet /bin/check\n", map[string]string{"/bin/check": ""}, ""},
		{"limits", debian, "required pam_limits.so\naccount required pam_unix.so\n", map[string]string{"/etc/security/limits.conf": "* hard maxlogins 0\n"}, CodePAM},
		{"limits of others", debian, "required pam_limits.so\naccount required pam_unix.so\n", map[string]string{"/etc/security/limits.conf": "v hard nproc 0\n@staff - maxlogins 4\n* hard maxlogins 0\n* soft core 0\n"}, ""},
		{"a second factor", debian + "auth required pam_google_authenticator.so\n", "required pam_unix.so\n", nil, CodePAM},
		{"a second factor for those who have it", debian + "auth required pam_google_authenticator.so nullok\n", "required pam_unix.so\n", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"/etc/passwd": passwd, "/etc/pam.d/sshd": "auth " + tc.auth + "account " + tc.account}
			maps.Copy(files, tc.files)
			m := fake(t, files, nil)
			c := &check{m: m, p: Person{Name: "u"}, acct: host.Account{Name: "u", UID: 1000, Home: "/home/u", Shell: "/bin/bash"}, groups: []string{"u", "staff"}}
			j := &judge{check: c, ctx: t.Context(), a: provisioning.SSHDAnswer{}, from: provisioning.FromInternet}
			j.pam()
			var codes []string
			for _, f := range j.found {
				if len(f.Shuts) > 0 {
					codes = append(codes, f.Code)
				}
			}
			if got := strings.Join(slices.Compact(codes), " "); got != tc.codes {
				t.Errorf("findings %q, want %q: %+v", got, tc.codes, j.found)
			}
		})
	}
}

// TestIN1UnknownIsNamed: a module that decides by what the check does not read
// is named, with what it is about.
func TestIN1UnknownIsNamed(t *testing.T) {
	t.Parallel()
	for module, want := range map[string]string{
		"pam_exec.so /bin/check":        "pam_exec.so /bin/check",
		"pam_time.so":                   "pam_time.so (/etc/security/time.conf has \"sshd;*;!root;!Al0000-2400\")",
		"pam_tally2.so":                 "pam_tally2.so",
		"pam_script.so":                 "pam_script.so",
		"pam_unix.so":                   "",
		"pam_lastlog.so":                "",
		"pam_exec.so seteuid /usr/gone": "", // it refuses, and that is said
	} {
		m := fake(t, map[string]string{
			"/etc/passwd": passwd, "/bin/check": "", "/etc/pam.d/sshd": "auth required pam_permit.so\naccount required pam_unix.so\naccount required " + module + "\n",
			"/etc/security/time.conf": "# a comment\nlogin ; * ; * ; Al0000-2400\nsshd;*;root|v;Al0000-2400\nsshd;*;!root;!Al0000-2400\n",
		}, nil)
		c := &check{m: m, p: Person{Name: "u"}, acct: host.Account{Name: "u", UID: 1000}}
		j := &judge{check: c, ctx: t.Context(), a: provisioning.SSHDAnswer{}, from: provisioning.FromInternet}
		j.pam()
		got := ""
		for _, f := range j.found {
			if _, names, ok := strings.Cut(f.Evidence, "does not know: "); ok && len(f.Shuts) == 0 {
				got += names
			}
		}
		if got != want {
			t.Errorf("%s: named %q, want %q: %+v", module, got, want, j.found)
		}
	}
}

// TestIN1Wrappers: hosts.allow and hosts.deny as libwrap reads them, for a
// person from 203.0.113.1.
func TestIN1Wrappers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		allow, deny string
		shut, named bool
	}{
		{"", "", false, false},
		{"", "# ALL: ALL\n", false, false},
		{"", "ALL: ALL\n", true, true},
		{"", "ALL:\\\n ALL\n", true, true},
		{"", "sshd : ALL EXCEPT 10.0.0.0/8\n", true, true},
		{"", "sshd : 0.0.0.0/0.0.0.0 EXCEPT 203.0.113. : spawn (echo %h)\n", false, false},
		{"", "in.ftpd, telnetd: ALL\n", false, false},
		{"ALL EXCEPT sshd: ALL\n", "ALL: ALL\n", true, true},
		{"sshd: 203.0.113.0/24\n", "ALL: ALL\n", false, false},
		{"sshd: 203.0.113.0/255.255.255.0\n", "ALL: ALL\n", false, false},
		{"sshd@10.0.0.4: root@203.*\n", "ALL: ALL\n", false, false},
		{"ALL: LOCAL, [fd00::]/8\n", "ALL: ALL\n", true, true},
		{"sshd: ALL: deny\n", "", true, true},
		{"sshd: ALL: DENY\n", "", true, true},
		{"", "ALL: ALL: ALLOW\n", false, false},
		{"sshd: .corp.example\n", "ALL: ALL\n", false, true}, // the person may have such a name
		{"sshd: bastion /etc/hosts.more\n", "ALL: ALL\n", false, true},
	} {
		m := fake(t, map[string]string{"/etc/hosts.allow": tc.allow, "/etc/hosts.deny": tc.deny, "/usr/sbin/sshd": "\x00libwrap.so.0\x00"}, nil)
		j := &judge{check: &check{m: m, p: Person{Name: "u"}}, from: provisioning.FromInternet}
		j.wrappers()
		if shut := slices.ContainsFunc(j.found, func(f Finding) bool { return len(f.Shuts) > 0 }); shut != tc.shut || (len(j.found) > 0) != tc.named {
			t.Errorf("allow %q, deny %q: %+v", tc.allow, tc.deny, j.found)
		}
	}
	m := fake(t, map[string]string{"/etc/hosts.deny": "ALL: ALL\n", "/usr/sbin/sshd": "libc.so.6"}, nil)
	j := &judge{check: &check{m: m}, from: provisioning.FromInternet}
	if j.wrappers(); len(j.found) > 0 {
		t.Errorf("an sshd without wrappers: %+v", j.found)
	}
}

// TestIN1ShellAsSSHDRunsIt: a start-up file that ends the shell shuts everybody
// out, unless it ends only log-ins with a command.
func TestIN1ShellAsSSHDRunsIt(t *testing.T) {
	t.Parallel()
	const command, terminal = "/bin/bash -c echo " + shellSaid, "/bin/bash -i -c echo " + shellSaid
	ends := hosttest.Answer{}
	for _, tc := range []struct {
		answers     map[string]hosttest.Answer
		found, shut bool
	}{
		{nil, false, false},
		{map[string]hosttest.Answer{command: ends}, true, false},
		{map[string]hosttest.Answer{command: ends, terminal: ends}, true, true},
		{map[string]hosttest.Answer{command: {Code: 1}, terminal: {Code: 1}}, true, true},
	} {
		m := fake(t, map[string]string{"/etc/passwd": passwd}, tc.answers)
		c := &check{m: m, p: Person{Name: "u"}, acct: host.Account{Name: "u", UID: 1000, Shell: "/bin/bash"}}
		c.shell(t.Context())
		got := c.report.Findings
		if (len(got) > 0) != tc.found || tc.found && (len(got[0].Shuts) > 0) != tc.shut {
			t.Errorf("%v: %+v", tc.answers, got)
		}
	}
}

// TestIN1NobodyListens: under systemd, an SSH server that does not answer is a
// finding with the state of its units; elsewhere nobody knows whether it will
// be started.
func TestIN1NobodyListens(t *testing.T) {
	t.Parallel()
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGMkZDzIhpqDkIvUfRqLxFfJlJvSgJfYv0eJ0O0q0bVx"
	for _, systemd := range []bool{true, false} {
		files := map[string]string{"/etc/passwd": passwd, "/etc/ssh/sshd_config": "Port 22\n", "/usr/sbin/sshd": "", "/bin/bash": ""}
		if systemd {
			files["/run/systemd/system/x"] = ""
		}
		m := fake(t, files, map[string]hosttest.Answer{
			"/usr/sbin/sshd": {Stdout: "port 22\nlistenaddress 0.0.0.0:22\npubkeyauthentication yes\nusepam no\n"},
			"systemctl":      {Stdout: "disabled\n", Code: 1},
		})
		m.Kernel.DialSelf = func(context.Context, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}
		r := Check(t.Context(), m, Person{Name: "u", Key: true, Keys: []string{key}}, false)
		if got := slices.Contains(r.Codes(), CodeServer); got != systemd {
			t.Errorf("systemd %v: findings %+v", systemd, r.Findings)
		}
	}
}

// TestIN1Lists: the lists of sshd as its match_user and ga_match judge them.
func TestIN1Lists(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		entry string
		want  bool
	}{
		{"u", true},
		{"*", true},
		{"u?", false},
		{"[u]", false},
		{"u@203.0.113.*", true},
		{"u@203.0.113.0/24", true},
		{"u@10.0.0.0/8", false},
		{"*@*,!203.0.113.1", false},
		{"v@203.0.113.1", false},
	} {
		if _, got := matchUser([]string{"x", tc.entry}, "u", provisioning.FromInternet); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.entry, got, tc.want)
		}
	}
}

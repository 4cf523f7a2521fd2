package provisioning_test

import (
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/provisioning"
)

// sshdSays makes sshd -T answer with these lines.
func (m *machine) sshdSays(lines string) {
	m.run.Answers["/usr/sbin/sshd"] = hosttest.Answer{Stdout: lines}
}

// TestIN2KeysGoWhereSSHDLooksForThisUser: the file is the one that sshd names
// for this user, Match blocks included.
func TestIN2KeysGoWhereSSHDLooksForThisUser(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, says, path, want string }{
		{"Match Group", "authorizedkeysfile /etc/ssh/keys-%u\n", "", "/etc/ssh/keys-azureuser"},
		{"Match User, literal below the home", "authorizedkeysfile /home/azureuser/keys\n", "", "/home/azureuser/keys"},
		{"two files", "authorizedkeysfile .ssh/a .ssh/authorized_keys\n", "", "/home/azureuser/.ssh/authorized_keys"},
		{"the document names another file", "authorizedkeysfile .ssh/a\n", "$HOME/azureuser/.ssh/authorized_keys", "/home/azureuser/.ssh/a"},
		{"one of them is everybody's", "authorizedkeysfile /etc/ssh/all .ssh/a\n", "", "/home/azureuser/.ssh/a"},
		{"another account's file in the document", "authorizedkeysfile .ssh/authorized_keys\n", "/root/.ssh/authorized_keys", "/home/azureuser/.ssh/authorized_keys"},
		{"%U", "authorizedkeysfile /etc/ssh/keys/%U\n", "", fmt.Sprintf("/etc/ssh/keys/%d", max(1000, os.Getuid()))},
		{"%% is no token", "authorizedkeysfile /etc/ssh/%%u .ssh/a\n", "", "/home/azureuser/.ssh/a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m, step, _ := provisioned(t, "debian", provisioning.Key{Path: tc.path, Value: edKey})
			if os.Getuid() != 0 && !strings.HasPrefix(tc.want, "/home") {
				t.Skip("needs root")
			}
			m.sshdSays(tc.says)
			if err := step.Apply(t.Context(), m.prov()); err != nil {
				t.Fatal(err)
			}
			if got := m.read(tc.want); got != edKey+"\n" {
				t.Errorf("%s has %q", tc.want, got)
			}
		})
	}
}

// TestIN3NoKeyInAFileOfAll: a file that sshd reads for every account would let
// the person in as root.
func TestIN3NoKeyInAFileOfAll(t *testing.T) {
	t.Parallel()
	for name, pattern := range map[string]string{
		"one file":             "/etc/ssh/authorized_keys",
		"two files":            "/etc/ssh/authorized_keys /srv/keys",
		"tilde":                "~/.ssh/authorized_keys",
		"tilde as sshd has it": "/root/.ssh/authorized_keys",
		"%% is no token":       "/etc/ssh/%%u",
		"%k is not of a user":  "/etc/ssh/%k",
	} {
		for _, asked := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, sshd answers: %v", name, asked), func(t *testing.T) {
				t.Parallel()
				m, step, home := provisioned(t, "debian", provisioning.Key{Value: edKey})
				m.write("/etc/ssh/sshd_config", "AuthorizedKeysFile "+pattern+"\n", 0o644)
				if asked {
					m.sshdSays("authorizedkeysfile " + pattern + "\n")
				}
				before := m.tree()
				err := step.Apply(t.Context(), m.prov())
				if w, ok := errors.AsType[*provisioning.Warning](err); !ok || w.ID != provisioning.CodeKeys || !strings.Contains(err.Error(), pattern) {
					t.Errorf("error %v, want a warning that names %s", err, pattern)
				}
				if got := m.read(home + "/.ssh/authorized_keys"); got != edKey+"\n" {
					t.Errorf("own file has %q", got)
				}
				for name := range m.tree() {
					if _, old := before[name]; !old && !strings.HasPrefix(name, home+"/") {
						t.Errorf("wrote %s", name)
					}
				}
			})
		}
	}
}

// TestIN6KeysKeepTheirLines: a value reaches the reader of keys as it stands in
// the document.
func TestIN6KeysKeepTheirLines(t *testing.T) {
	t.Parallel()
	p256, _ := ecdsaLine(t, elliptic.P256())
	bare := strings.TrimSuffix(edKey, " user@host")
	body := strings.Fields(edKey)[1]
	for _, tc := range []struct {
		name, value string
		want        []string
	}{
		{"two lines", edKey + "\n" + p256, []string{edKey, p256}},
		{"two lines, CRLF", edKey + "\r\n" + p256 + "\r\n", []string{edKey, p256}},
		{"SSH2", "---- BEGIN SSH2 PUBLIC KEY ----\nComment: x\n" + body[:30] + "\n" + body[30:] + "\n---- END SSH2 PUBLIC KEY ----", []string{bare}},
		{"broken into lines", bare[:40] + "\n" + bare[40:], []string{bare}},
		{"zero-width space in front", "\u200b" + edKey, []string{edKey}},
		{"soft hyphen in the body", bare[:30] + "\u00ad" + bare[30:], []string{bare}},
		{"mark of direction", "\u200e" + edKey + "\u202c", []string{edKey}},
		{"quoted", `"` + edKey + `"`, []string{edKey}},
		{"quoted by a word processor", "“" + edKey + "”", []string{edKey}},
		{"each line quoted", `"` + bare + "\"\n\"" + p256 + `"`, []string{bare, p256}},
		{"quotes around several lines", `"` + bare[:40] + "\n" + bare[40:] + `"`, []string{bare}},
		{"YAML list", "- " + bare + "\n- " + p256, []string{bare, p256}},
		{"escaped twice", strings.ReplaceAll(p256, "+", "&#43;"), []string{p256}},
		{"CDATA as text", "<![CDATA[" + edKey + "]]>", []string{edKey}},
		{"comment in another script", bare + " ключ # ü", []string{bare + " ключ # ü"}},
	} {
		var escaped strings.Builder
		for _, c := range tc.value {
			switch c {
			case '<', '>', '&', '"', '\r':
				fmt.Fprintf(&escaped, "&#%d;", c)
			default:
				escaped.WriteRune(c)
			}
		}
		env, err := ovf.Parse([]byte(`<Environment><ProvisioningSection><LinuxProvisioningConfigurationSet><SSH><PublicKeys><PublicKey><Value>` +
			escaped.String() + `</Value></PublicKey></PublicKeys></SSH></LinuxProvisioningConfigurationSet></ProvisioningSection></Environment>`))
		if err != nil {
			t.Fatal(err)
		}
		in := provisioning.FromDocument(env, nil, vmID)
		got, err := provisioning.ParseKeys(in.Keys[0].Value)
		if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", tc.name, err, diff)
		}
	}
}

// TestIN6NoKeyIsNotShown: what was pasted instead of a key is described, not
// quoted.
func TestIN6NoKeyIsNotShown(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"b3BlbnNzaC1rZXktdjEAAAAABG5vbmU":                                 "a text of 31 characters",
		"-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl":                       "PEM",
		"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nb3BlbnNza": "private key",
		"~/.ssh/id_b3Bl.pub":                                              "name of a file",
		"ssh-rsa":                                                         "type without a key",
	} {
		keys, err := provisioning.ParseKeys(value)
		if err == nil || len(keys) > 0 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "b3Bl") {
			t.Errorf("%q: %v, %v, want %q", value, keys, err, want)
		}
	}
	cert := "ssh-ed25519-cert-v01@openssh.com " + base64.StdEncoding.EncodeToString(append([]byte{0, 0, 0, 32}, "ssh-ed25519-cert-v01@openssh.com"...))
	if keys, err := provisioning.ParseKeys(cert); err == nil || len(keys) > 0 || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("certificate: %v, %v", keys, err)
	}
}

// TestIN7SideConditions: a machine fails only if the person cannot get in, or
// others are not kept out; everything else is a warning.
func TestIN7SideConditions(t *testing.T) {
	t.Parallel()
	yes := true
	dir := func(name string) func(m *machine) { // a directory where a file has to be written
		return func(m *machine) { m.write(name+"/x", "", 0o600) }
	}
	brokenKey := func(in *provisioning.Input) { in.Keys[0].Value = "ssh-rsa AAAA" }
	noPassword := func(in *provisioning.Input) { in.Password = host.Secret{} }
	for _, tc := range []struct {
		name  string
		in    func(in *provisioning.Input)
		wreck func(m *machine)
		fails string // code of the failure
		warns []string
	}{
		{name: "host name of 64 characters", in: func(in *provisioning.Input) { in.HostName = strings.Repeat("a", 64) }},
		{name: "host name of 65 characters", in: func(in *provisioning.Input) { in.HostName = strings.Repeat("a", 65) }, warns: []string{"AZ-PROV-HOSTNAME"}},
		{name: "no host name file", wreck: dir("/etc/hostname"), warns: []string{"AZ-PROV-HOSTNAME"}},
		{name: "sudoers", wreck: dir("/etc/sudoers.d/waagent"), warns: []string{"AZ-PROV-SUDO"}},
		{name: "copy of the document", wreck: dir("/var/lib/waagent/ovf-env.xml"), warns: []string{"AZ-PROV-COPY"}},
		{name: "custom data", wreck: dir("/var/lib/waagent/CustomData"), warns: []string{"AZ-PROV-CUSTOMDATA"}},
		{name: "key pairs", in: func(in *provisioning.Input) {
			in.KeyPairs = []provisioning.KeyPair{{Fingerprint: "AB", Path: "x"}}
		}, warns: []string{"AZ-PROV-KEYPAIR"}},
		{name: "a broken key and a password", in: brokenKey, warns: []string{"AZ-PROV-KEYS"}},
		{name: "a broken key alone", in: func(in *provisioning.Input) { brokenKey(in); noPassword(in) }, fails: "AZ-PROV-KEYS"},
		{name: "a broken password and a key", in: func(in *provisioning.Input) { in.Password = host.NewSecret("a\x00b") }, warns: []string{"AZ-PROV-PASSWORD"}},
		{name: "a broken password alone", in: func(in *provisioning.Input) {
			in.Password, in.Keys = host.NewSecret("a\x00b"), nil
		}, fails: "AZ-PROV-PASSWORD"},
		{name: "both broken", in: func(in *provisioning.Input) { brokenKey(in); in.Password = host.NewSecret("a\x00b") }, fails: "AZ-PROV-PASSWORD"},
		{name: "a broken key, and a password that sshd is to refuse", in: func(in *provisioning.Input) {
			brokenKey(in)
			in.DisablePasswordAuth = &yes
		}, fails: "AZ-PROV-KEYS"},
		{name: "no account", wreck: func(m *machine) { delete(m.run.Answers, "useradd") }, fails: "AZ-PROV-USER"},
		{name: "root keeps its password", wreck: dir("/etc/.pwd.lock"), in: func(in *provisioning.Input) { in.Password = host.Secret{} }, fails: "AZ-PROV-ROOT"},
		{name: "no marker", wreck: dir("/var/lib/waagent/provisioned"), fails: "AZ-PROV-MARKER"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			in := input()
			if tc.in != nil {
				tc.in(&in)
			}
			if tc.wreck != nil {
				tc.wreck(m)
			}
			res, err := apply(t, m, plan(t, m, in, options()), options(), nil)
			var warns []string
			for _, w := range res.Warnings {
				warns = append(warns, w.ID)
			}
			if tc.fails == "" {
				if err != nil || !m.root.Exists("/var/lib/waagent/provisioned") {
					t.Errorf("error %v", err)
				}
				if diff := cmp.Diff(tc.warns, warns); diff != "" {
					t.Errorf("warnings (-want +got):\n%s", diff)
				}
			} else if provisioning.CodeOf(err) != tc.fails {
				t.Errorf("error %v, want %s", err, tc.fails)
			} else if fi, err := m.root.Stat("/var/lib/waagent/provisioned"); err == nil && fi.Mode().IsRegular() {
				t.Error("a failed machine has a marker")
			}
			for _, e := range res.Entries {
				if e.State == provisioning.Broken && tc.fails == "" || e.State == provisioning.Warned && e.Code == "" {
					t.Errorf("journal: %+v", e)
				}
			}
		})
	}
}

// TestIN8HostsFile: each place of the host name is written if it can be.
func TestIN8HostsFile(t *testing.T) {
	t.Parallel()
	set := func(t *testing.T, m *machine) error {
		t.Helper()
		return stepOf[provisioning.SetHostName](t, plan(t, m, input(), options())).Apply(t.Context(), m.prov())
	}
	t.Run("no hosts file", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t, "debian")
		if err := errors.Join(m.root.Remove("/etc/hosts"), set(t, m)); err != nil {
			t.Fatal(err)
		}
		if got := m.read("/etc/hosts"); !strings.Contains(got, "127.0.0.1\tlocalhost\n") || !strings.Contains(got, "::1\tlocalhost ") || !strings.Contains(got, "127.0.1.1\tvm-01 ") {
			t.Errorf("hosts:\n%s", got)
		}
	})
	for _, name := range []string{"/etc/hosts", "/etc/hostname"} {
		t.Run(name+" cannot be written", func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			if err := m.root.Remove(name); err != nil {
				t.Fatal(err)
			}
			m.write(name+"/x", "", 0o644)
			if err := set(t, m); provisioning.CodeOf(err) != provisioning.CodeHostName || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want one that names %s", err, name)
			}
			if m.name != "vm-01" || m.read("/var/lib/waagent/published_hostname") != "vm-01" {
				t.Errorf("host name %q", m.name)
			}
			if name != "/etc/hostname" && m.read("/etc/hostname") != "vm-01\n" {
				t.Error("/etc/hostname was left out")
			}
		})
	}
}

// TestIN14UserNames: a name is refused only if it is a system account's, or no
// account can have it.
func TestIN14UserNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"operator": true, "nginx": true, "postgres": true, "1user": true, "0day": true, "toor": true, "systemd-x": true, "mail": true, "mysql": true,
		"root": false, "www-data": false, "svc": false, "ALL": false, "nobody": false, "123": false, "-x": false, "a:b": false, "": false,
	} {
		in := input()
		in.UserName = name
		if _, err := provisioning.Plan(in, facts(), options()); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	with := facts()
	with.Accounts = append(with.Accounts, host.Account{Name: "operator", UID: 11, Home: "/root", Shell: "/sbin/nologin"})
	in := input()
	in.UserName = "operator"
	if _, err := provisioning.Plan(in, with, options()); provisioning.CodeOf(err) != provisioning.CodeUserName {
		t.Errorf("an existing system account: %v", err)
	}
}

// TestH14PlainKeyComesFirst: sshd takes the first line of a key, with its
// options.
func TestH14PlainKeyComesFirst(t *testing.T) {
	t.Parallel()
	p256, _ := ecdsaLine(t, elliptic.P256())
	bare := strings.TrimSuffix(edKey, " user@host")
	for _, tc := range []struct {
		name, old string
		keys      []string
		want      string
	}{
		{"command", "command=\"echo 'log in as ubuntu'\" " + bare + "\n", []string{edKey}, edKey + "\ncommand=\"echo 'log in as ubuntu'\" " + bare + "\n"},
		{"from", "# x\nfrom=\"10.0.0.1\" " + bare, []string{edKey}, "# x\n" + edKey + "\nfrom=\"10.0.0.1\" " + bare + "\n"},
		{"plain behind restricted", "restrict " + bare + "\n" + bare + "\n", []string{edKey}, edKey + "\nrestrict " + bare + "\n" + bare + "\n"},
		{"plain in front", bare + "\nrestrict " + bare + "\n", []string{edKey}, bare + "\nrestrict " + bare + "\n"},
		{"another key is restricted", "restrict " + p256 + "\n", []string{edKey}, "restrict " + p256 + "\n" + edKey + "\n"},
		{"a restricted key in the document", bare + "\n", []string{"restrict " + bare}, bare + "\n"},
		{"both in the document", "", []string{edKey, edKey}, edKey + "\n"},
	} {
		var keys []provisioning.Key
		for _, k := range tc.keys {
			keys = append(keys, provisioning.Key{Value: k})
		}
		m, step, home := provisioned(t, "debian", keys...)
		file := home + "/.ssh/authorized_keys"
		m.write(file, tc.old, 0o600)
		for _, p := range []string{home + "/.ssh", file} {
			if err := os.Chown(m.root.Path(p), max(1000, os.Getuid()), os.Getgid()); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := step.Apply(t.Context(), m.prov()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, m.read(file)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.name, diff)
			}
		}
	}
}

// TestK13OneOfTwoFiles: a file that cannot be written does not matter if the
// user's own file has the keys.
func TestK13OneOfTwoFiles(t *testing.T) {
	t.Parallel()
	m, step, home := provisioned(t, "debian", provisioning.Key{Value: edKey}, provisioning.Key{Value: edKey, Path: "$HOME/azureuser/file/keys"})
	m.write(home+"/file", "", 0o600)
	m.sshdSays("authorizedkeysfile .ssh/authorized_keys\n")
	err := step.Apply(t.Context(), m.prov())
	if _, ok := errors.AsType[*provisioning.Warning](err); !ok {
		t.Errorf("error %v, want a warning", err)
	}
	if got := m.read(home + "/.ssh/authorized_keys"); !slices.Contains(strings.Split(got, "\n"), edKey) {
		t.Errorf("own file has %q", got)
	}
}

// TestIN11WhatIsMissingIsAskedFor: the metadata service is asked also if only
// the word about passwords is missing; a document without a password needs none.
func TestIN11WhatIsMissingIsAskedFor(t *testing.T) {
	t.Parallel()
	yes := true
	in := input()
	in.DisablePasswordAuth = nil
	if in.Complete() {
		t.Error("complete without the word about passwords")
	}
	filled := in.Fill(&provisioning.Metadata{DisablePasswordAuth: &yes})
	if !filled.Complete() || filled.DisablePasswordAuth != &yes {
		t.Errorf("filled: %+v", filled)
	}
	set := stepOf[provisioning.ConfigureSSHD](t, plan(t, newMachine(t, "debian"), filled, options())).Settings
	if len(set) == 0 || set[0] != (provisioning.Setting{Key: "PasswordAuthentication", Value: "no"}) {
		t.Errorf("sshd is told %v", set)
	}
	if in.Lacks() != nil {
		t.Error("without metadata the document is not usable")
	}
	in.Password = host.Secret{}
	if !in.Complete() {
		t.Error("a document with keys alone waits for the metadata")
	}
}

// TestIN15NoUser: a document that names nobody has its own code.
func TestIN15NoUser(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]provisioning.Input{
		"nothing":         {HostName: "vm"},
		"a key, no user":  {Keys: input().Keys},
		"a user, no door": {UserName: "azureuser"},
	} {
		if err := in.Lacks(); provisioning.CodeOf(err) != provisioning.CodeNoUser || in.Complete() {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, in := range map[string]provisioning.Input{
		"password": {UserName: "u", Password: host.NewSecret("x")}, "redacted": {UserName: "u", PasswordRedacted: true}, "key": {UserName: "u", Keys: input().Keys},
	} {
		if err := in.Lacks(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestIN12CustomData: custom data that was not run, or failed, is a warning
// that says why, and stays visible after the step.
func TestIN12CustomData(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, data string
		answer     hosttest.Answer
		want       []string // parts of the warning; nil: none
	}{
		{"fine", "#!/bin/sh\nexit 0\n", hosttest.Answer{}, nil},
		{"exit 7", "#!/bin/sh\nexit 7\n", hosttest.Answer{Code: 7, Stderr: "first\npassword=hunter2hunter2 is wrong\nE: no package x\n"}, []string{"exit code 7", "custom-data.log", "root: no package x"}},
		{"exit 7, only standard output", "#!/bin/sh\n", hosttest.Answer{Code: 7, Stdout: "sorry\n"}, []string{"exit code 7", "root: sorry"}},
		{"silent", "#!/bin/sh\n", hosttest.Answer{Code: 1}, []string{"exit code 1", "root: no output"}},
		{"no #!", "echo hi\n", hosttest.Answer{}, []string{"neither a script"}},
		{"relative interpreter", "#!sh\n", hosttest.Answer{}, []string{"absolute path"}},
		{"BOM", "\ufeff#!/bin/sh\n", hosttest.Answer{}, []string{"byte order mark"}},
		{"gzip", "\x1f\x8b\x08\x00", hosttest.Answer{}, []string{"gzip"}},
		{"cloud-config", "#cloud-config\npackages: []\n", hosttest.Answer{}, []string{"cloud-init", "azguest provisions"}},
		{"MIME", "Content-Type: multipart/mixed\n", hosttest.Answer{}, []string{"cloud-init"}},
	} {
		for _, exec := range []bool{true, false} {
			m := newMachine(t, "debian")
			m.keys = sharedKeys()
			m.run.Answers["/bin/sh"] = tc.answer
			o := options()
			o.ExecuteCustomData = exec
			in := input()
			in.CustomData = provisioning.DecodeCustomData(base64.StdEncoding.EncodeToString([]byte(tc.data)))
			res, err := apply(t, m, plan(t, m, in, o), o, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := tc.want
			if !exec && !slices.Contains(want, "cloud-init") {
				want = nil
			}
			if (len(res.Warnings) > 0) != (want != nil) || len(m.provWith(o).Incomplete()) != len(res.Warnings) {
				t.Errorf("%s, run: %v: warnings %v, shown %v", tc.name, exec, res.Warnings, m.provWith(o).Incomplete())
				continue
			}
			for _, w := range want {
				text := res.Warnings[0].Error()
				if words, ok := strings.CutPrefix(w, "root: "); ok { // and nowhere else
					kept := m.provWith(o).Incomplete()[0]
					if exec && (strings.Contains(text+kept.Error, words) || !strings.Contains(kept.Words, words) || !strings.Contains(provisioning.ForRoot(res.Warnings[0]), words)) {
						t.Errorf("%s: %q, for root %q", tc.name, text, kept.Words)
					}
					continue
				}
				if res.Warnings[0].ID != provisioning.CodeCustomData || exec && !strings.Contains(text, w) || strings.Contains(text, "hunter2") {
					t.Errorf("%s: %s %s, want %q", tc.name, res.Warnings[0].ID, text, w)
				}
			}
		}
	}
}

// TestIN4HostKeysElsewhere: what HostKey names is replaced as well, so that no
// clone keeps the image's identity.
func TestIN4HostKeysElsewhere(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, conf string
		early      bool // also the RSA key is made before Ready
		files      map[string]string
	}{
		{"RSA and ed25519", "HostKey /var/lib/sshkeys/ssh_host_ed25519_key\nHostKey /var/lib/sshkeys/ssh_host_rsa_key\n", false, map[string]string{"/var/lib/sshkeys/ssh_host_ed25519_key": "ssh-ed25519", "/var/lib/sshkeys/ssh_host_rsa_key": "ssh-rsa"}},
		{"RSA alone", "HostKey /var/lib/sshkeys/mine\n", true, map[string]string{"/var/lib/sshkeys/mine": "ssh-rsa"}},
		{"in a drop-in", "Include /etc/ssh/sshd_config.d/*.conf\n", false, map[string]string{"/etc/dropbear/k": "ssh-ed25519"}},
		{"beside the usual ones", "HostKey /etc/ssh/ssh_host_ed25519_key\nHostKey /etc/ssh/other_key\n", false, map[string]string{"/etc/ssh/other_key": "ecdsa-sha2-nistp256"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			m.write("/etc/ssh/sshd_config", tc.conf, 0o644)
			m.write("/etc/ssh/sshd_config.d/x.conf", "HostKey /etc/dropbear/k\n", 0o644)
			image := map[string]string{}
			for name, kind := range tc.files {
				priv, pub := imageKey(t, kind)
				m.write(name, priv, 0o600)
				m.write(name+".pub", pub, 0o644)
				image[name] = priv
			}
			check := func(when string) {
				t.Helper()
				for name, kind := range tc.files {
					if !m.root.Exists(name) && when == "before Ready" && kind == "ssh-rsa" && !tc.early {
						continue // removed, and made after Ready
					}
					signer, err := ssh.ParsePrivateKey([]byte(m.read(name)))
					if err != nil || signer.PublicKey().Type() != kind || m.read(name) == image[name] {
						t.Errorf("%s: %s: %v, the image's: %v", when, name, err, m.read(name) == image[name])
						continue
					}
					if !strings.Contains(m.read(name+".pub"), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))) {
						t.Errorf("%s: %s.pub does not match", when, name)
					}
				}
			}
			now, late := provisioning.Split(plan(t, m, input(), options()))
			if _, err := apply(t, m, now, options(), nil); err != nil {
				t.Fatal(err)
			}
			check("before Ready")
			if _, err := apply(t, m, late, options(), nil); err != nil {
				t.Fatal(err)
			}
			check("after Ready")
			before := m.tree()
			for range 2 {
				if _, err := apply(t, m, plan(t, m, input(), options()), options(), nil); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, m.tree()); diff != "" {
				t.Errorf("a second run changed something:\n%s", diff)
			}
			kept := map[string]string{}
			for name := range tc.files {
				kept[name] = m.read(name)
			}
			m.write("/var/lib/waagent/azguest/hostkeys.json", "{}", 0o600)
			o := options()
			o.RegenerateHostKeys = false
			if _, err := apply(t, m, plan(t, m, input(), o), o, nil); err != nil {
				t.Fatal(err)
			}
			for name := range tc.files {
				if m.read(name) != kept[name] {
					t.Errorf("%s was replaced although the image's keys are to stay", name)
				}
			}
		})
	}
}

// imageKey makes a host key of an image.
func imageKey(t *testing.T, kind string) (priv, pub string) {
	t.Helper()
	if kind == "ssh-rsa" {
		priv = givenRSA()
	} else {
		name := map[string]string{"ssh-ed25519": "ed25519", "ecdsa-sha2-nistp256": "ecdsa"}[kind]
		var err error
		if priv, err = provisioning.NewHostKey(name); err != nil {
			t.Fatal(err)
		}
	}
	signer, err := ssh.ParsePrivateKey([]byte(priv))
	if err != nil {
		t.Fatal(err)
	}
	return priv, string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
}

// TestS31OnlyRSA: sshd that offers only RSA keys gets one before Ready.
func TestS31OnlyRSA(t *testing.T) {
	t.Parallel()
	for list, early := range map[string]bool{
		"":                                       false,
		"rsa-sha2-512,rsa-sha2-256":              true,
		"rsa-sha2-*":                             true,
		"ssh-ed25519,rsa-sha2-512":               false,
		"ecdsa-sha2-nistp256":                    false,
		"ecdsa-sha2-nistp521,rsa-sha2-512":       true,
		"-ssh-ed25519*,ecdsa-*":                  true,
		"-ssh-rsa":                               false,
		"+ssh-dss":                               false,
		"^rsa-sha2-512":                          false,
		"ssh-ed25519-cert-v01@openssh.com,rsa-*": true,
	} {
		f := facts()
		f.SSHDSet = map[string]string{"hostkeyalgorithms": list}
		steps, err := provisioning.Plan(input(), f, options())
		if err != nil {
			t.Fatal(err)
		}
		if got := len(stepOf[provisioning.HostKeys](t, steps).MayWait) == 0; got != early {
			t.Errorf("%q: RSA before Ready: %v", list, got)
		}
	}
}

// TestH1HomeOfUmask002: sshd refuses the keys of a home that a group may write.
func TestH1HomeOfUmask002(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	m.write("/etc/login.defs", "UID_MIN 1000\nUMASK 002\n", 0o644)
	step := stepOf[provisioning.CreateUser](t, plan(t, m, input(), options()))
	add := m.run.Answers["useradd"].Do
	m.run.Answers["useradd"] = hosttest.Answer{Do: func(c host.Cmd) error {
		return errors.Join(add(c), os.Chmod(m.root.Path("/home/azureuser"), 0o775))
	}}
	if err := errors.Join(m.root.MkdirAll("/var/lib/waagent/azguest", 0o700), step.Apply(t.Context(), m.prov())); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(m.root.Path("/home/azureuser")); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("home: %v %v", fi.Mode(), err)
	}
}

// TestH1OpenHomeOfTheImage: the same for an account that was there before, unless
// sshd does not mind.
func TestH1OpenHomeOfTheImage(t *testing.T) {
	t.Parallel()
	for conf, want := range map[string]os.FileMode{"Port 22\n": 0o755, "StrictModes no\n": 0o777} {
		m := newMachine(t, "debian")
		uid := os.Getuid()
		m.write("/etc/ssh/sshd_config", conf, 0o644)
		m.write("/etc/passwd", m.read("/etc/passwd")+fmt.Sprintf("azureuser:x:%d:%d::/home/azureuser:/bin/bash\n", uid, os.Getgid()), 0o644)
		m.write("/home/azureuser/.profile", "", 0o644)
		home := m.root.Path("/home/azureuser")
		if err := os.Chmod(home, 0o777); err != nil {
			t.Fatal(err)
		}
		o := options()
		o.AllowResetSysUser = true
		if err := stepOf[provisioning.AuthorizeKeys](t, plan(t, m, input(), o)).Apply(t.Context(), m.prov()); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(home); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q: home: %v %v, want %v", conf, fi.Mode(), err, want)
		}
	}
}

// TestU8DoasWithoutSudo: a sudoers folder of another package is no sudo.
func TestU8DoasWithoutSudo(t *testing.T) {
	t.Parallel()
	f := facts()
	f.Sudo, f.Doas = "", "/usr/bin/doas"
	steps, err := provisioning.Plan(input(), f, options())
	if err != nil || !stepOf[provisioning.Sudo](t, steps).Doas {
		t.Errorf("%v, %v", steps, err)
	}
}

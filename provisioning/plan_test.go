package provisioning_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
)

func facts() provisioning.Facts {
	return provisioning.Facts{
		Accounts: []host.Account{
			{Name: "root", UID: 0, Home: "/root", Shell: "/bin/bash"},
			{Name: "www-data", UID: 33, GID: 33, Home: "/var/www", Shell: "/usr/sbin/nologin"},
			{Name: "core", UID: 500, GID: 500, Home: "/home/core", Shell: "/bin/bash"},
			{Name: "svc", UID: 501, GID: 501, Home: "/srv", Shell: "/bin/bash"},
			{Name: "alice", UID: 1000, GID: 1000, Home: "/home/alice", Shell: "/bin/bash"},
		},
		Groups: []host.Group{{Name: "docker", GID: 998}, {Name: "staff", GID: 1500}},
		UIDMin: 1000, Shells: []string{"/bin/sh", "/bin/bash"},
		Useradd: "/usr/sbin/useradd", Chpasswd: "/usr/sbin/chpasswd", Visudo: "/usr/sbin/visudo", Sudo: "/usr/bin/sudo",
		SSHD: "/usr/sbin/sshd", SSHDMain: "/etc/ssh/sshd_config", SSHDDropInWorks: true, SudoersDir: true, SudoersIncluded: true,
	}
}

func stepOf[T provisioning.Step](t *testing.T, steps []provisioning.Step) T {
	t.Helper()
	for _, s := range steps {
		if got, ok := s.(T); ok {
			return got
		}
	}
	var zero T
	t.Errorf("the plan has no %T", zero)
	return zero
}

func TestUserNames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		refused string // part of the reason; empty: accepted
	}{
		{"azureuser", ""},
		{"a", ""},
		{"_x", ""},
		{"first.last", ""},
		{"a-b_c9", ""},
		{"AzureUser", ""},
		{"ADMIN", ""},
		{"machine$", ""},
		{"alice", ""},
		{"core", ""},
		{strings.Repeat("a", 32), ""},
		{"", "no user name"},
		{"root", "system account"},
		{"toor", ""}, // reserved until now, like the next one; only existing system accounts count
		{"ALL", "reserved"},
		{"systemd-x", ""},
		{"www-data", "system account"},
		{"svc", "system account"},
		{"nobody", "reserved"},
		{strings.Repeat("a", 33), "at most 32"},
		{"0day", ""}, // useradd --badname makes it
		{"123", "digits only"},
		{"-rf", "must start"},
		{"a b", "must start"},
		{"%wheel", "must start"},
		{"a:b", "must start"},
		{"a/b", "must start"},
		{"../x", "must start"},
		{"a\nb", "must start"},
		{"a\x00b", "must start"},
		{"é", "must start"},
		{"a,b", "must start"},
		{"a$b", "must start"},
		{"#0", "must start"},
		{".x", "must start"},
	} {
		in := input()
		in.UserName = tc.name
		_, err := provisioning.Plan(in, facts(), options())
		switch {
		case tc.refused == "" && err != nil:
			t.Errorf("%q refused: %v", tc.name, err)
		case tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused)):
			t.Errorf("%q: error %v, want %q", tc.name, err, tc.refused)
		case err != nil && (provisioning.CodeOf(err) != provisioning.CodeUserName || !strings.HasPrefix(err.Error(), "failed to provision user: ")):
			t.Errorf("%q: code %s, error %v", tc.name, provisioning.CodeOf(err), err)
		}
	}
}

func TestPlanIsWhatTheDocumentAsksFor(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	ids := func(steps []provisioning.Step) string {
		var out []string
		for _, s := range steps {
			out = append(out, s.ID())
		}
		return strings.Join(out, " ")
	}
	for _, tc := range []struct {
		name   string
		change func(*provisioning.Input, *provisioning.Facts, *provisioning.Options)
		want   string
	}{
		{"everything", func(in *provisioning.Input, f *provisioning.Facts, o *provisioning.Options) {
			in.ProvisionGuestAgent, in.GuestProxyAgent = &no, true
			in.KeyPairs = []provisioning.KeyPair{{Fingerprint: "AB", Path: "x"}}
			o.ExecuteCustomData = true
		}, "host-keys host-name user password sudo authorized-keys key-pairs sshd root-password custom-data document-copy disable-agent proxy-agent sshd-up marker late-host-keys run-custom-data"},
		{"least", func(in *provisioning.Input, f *provisioning.Facts, o *provisioning.Options) {
			*in = provisioning.Input{UserName: "bob", VMID: vmID, DisablePasswordAuth: &yes}
			*o = provisioning.Options{}
			f.SSHD, f.SSHDMain, f.Sudo, f.SudoersDir = "", "", "", false
		}, "user password marker"},
		{"custom data that is not base64 is saved and not run", func(in *provisioning.Input, f *provisioning.Facts, o *provisioning.Options) {
			in.CustomData = provisioning.DecodeCustomData("%%%")
			o.ExecuteCustomData = true
		}, "host-keys host-name user password sudo authorized-keys sshd root-password custom-data document-copy sshd-up marker late-host-keys"},
		{"one quick host key type", func(in *provisioning.Input, f *provisioning.Facts, o *provisioning.Options) {
			o.HostKeyType = "ed25519"
		}, "host-keys host-name user password sudo authorized-keys sshd root-password custom-data document-copy sshd-up marker"},
		{"sshd uses RSA only, so Ready waits for it", func(in *provisioning.Input, f *provisioning.Facts, o *provisioning.Options) {
			f.SSHDHostKeyTypes = []string{"rsa"}
		}, "host-keys host-name user password sudo authorized-keys sshd root-password custom-data document-copy sshd-up marker"},
	} {
		in, f, o := input(), facts(), options()
		tc.change(&in, &f, &o)
		steps, err := provisioning.Plan(in, f, o)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if diff := cmp.Diff(tc.want, ids(steps)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		now, later := provisioning.Split(steps)
		if got := len(now) + len(later); got != len(steps) || slices.ContainsFunc(now, provisioning.Late) {
			t.Errorf("%s: split into %d and %d of %d", tc.name, len(now), len(later), len(steps))
		}
	}
}

func TestPasswordAndDisableFlag(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	for _, tc := range []struct {
		name     string
		password string
		redacted bool
		disable  *bool
		want     string // PasswordAuthentication; empty: left alone
	}{
		{"password, not said", "x", false, nil, "yes"},
		{"password, enabled", "x", false, &no, "yes"},
		{"password, disabled", "x", false, &yes, "no"},
		{"none, not said", "", false, nil, "no"},
		{"none, enabled", "", false, &no, "yes"},
		{"none, disabled", "", false, &yes, "no"},
		{"redacted, not said", "", true, nil, ""},
		{"redacted, disabled", "", true, &yes, "no"},
	} {
		in := input()
		in.Password, in.PasswordRedacted, in.DisablePasswordAuth = host.NewSecret(tc.password), tc.redacted, tc.disable
		o := options()
		o.ClientAliveInterval = ""
		steps, err := provisioning.Plan(in, facts(), o)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, s := range steps {
			if c, ok := s.(provisioning.ConfigureSSHD); ok {
				got = c.Settings[0].Value
			}
		}
		if got != tc.want {
			t.Errorf("%s: PasswordAuthentication %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestAUserIsNotPutIntoAGroupOfTheSystem(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]provisioning.CreateUser{
		"docker": {NoOwnGroup: true},
		"staff":  {Primary: "staff"},
		"other":  {},
	} {
		in := input()
		in.UserName = name
		steps, err := provisioning.Plan(in, facts(), options())
		if err != nil {
			t.Fatal(err)
		}
		got := stepOf[provisioning.CreateUser](t, steps)
		if got.NoOwnGroup != want.NoOwnGroup || got.Primary != want.Primary {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestReadOnlyEtcIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	f := facts()
	f.EtcReadOnly = true
	if _, err := provisioning.Plan(input(), f, options()); provisioning.CodeOf(err) != provisioning.CodeReadOnly {
		t.Errorf("error %v", err)
	}
}

func TestInputIsFilledFromMetadata(t *testing.T) {
	t.Parallel()
	yes := true
	md := &provisioning.Metadata{
		VMID: strings.ToUpper(vmID), ComputerName: "from-imds", AdminUserName: "imdsuser", DisablePasswordAuth: &yes,
		Keys: []provisioning.Key{{Value: edKey}}, UserData: host.NewSecret("aGk="), PPSType: "savable",
	}
	got := provisioning.Input{HostName: "from-ovf"}.Fill(md)
	want := provisioning.Input{
		VMID: vmID, HostName: "from-ovf", UserName: "imdsuser", DisablePasswordAuth: &yes, Keys: md.Keys,
		CustomData: provisioning.CustomData{Present: true, Text: host.NewSecret("aGk="), Data: host.NewSecret("hi")}, PPS: provisioning.PPSSavable,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !got.Complete() || (provisioning.Input{HostName: "x"}).Complete() {
		t.Error("Complete is wrong")
	}
}

func TestHostNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"vm": true, "VM-01": true, "a.example.com": true, "with_underscore": true, "trailing.dot.": true, "1": true, strings.Repeat("a", 63): true, strings.Repeat("a", 64): true, strings.Repeat("a", 64) + ".": true,
		"": false, "-x": false, "x-": false, "a..b": false, "a b": false, "a/b": false, "a\nb": false, "é": false, "a..": false, ".": false, strings.Repeat("a", 65): false, strings.Repeat("a.", 40): false,
	} {
		if err := provisioning.CheckHostName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestABadHostNameIsAWarningAndTheUserGetsIn: the host name is a side condition.
func TestABadHostNameIsAWarningAndTheUserGetsIn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	in := input()
	in.HostName = "two words"
	res, err := apply(t, m, plan(t, m, in, options()), options(), nil)
	if err != nil || len(res.Warnings) != 1 || res.Warnings[0].ID != provisioning.CodeHostName {
		t.Errorf("error %v, warnings %v", err, res.Warnings)
	}
	if got := m.read("/home/azureuser/.ssh/authorized_keys"); got != edKey+"\n" {
		t.Errorf("authorized_keys %q", got)
	}
	if n := len(res.Entries); n == 0 {
		t.Error("no entries")
	}
}

func TestHostsFile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, hosts, host, want string }{
		{"added", "127.0.0.1 localhost\n", "vm", "127.0.0.1 localhost\n127.0.1.1\tvm # azguest\n"},
		{"no newline", "127.0.0.1 localhost", "vm", "127.0.0.1 localhost\n127.0.1.1\tvm # azguest\n"},
		{"fqdn", "", "vm.example.com", "127.0.1.1\tvm.example.com vm # azguest\n"},
		{"there already", "10.0.0.4 vm\n", "vm", "10.0.0.4 vm\n"},
		{"only in a comment", "# vm\n", "vm", "# vm\n127.0.1.1\tvm # azguest\n"},
		{"the installer's line", "127.0.1.1 localhost.old localhost\n", "vm", "127.0.1.1\tvm # azguest\n"},
		{"other names in that line", "127.0.1.1 localhost.old db LOCALHOST localhost cache\n", "vm", "127.0.1.1\tvm # azguest\n127.0.1.1\tdb cache\n"},
		{"ours of another name", "127.0.1.1\told # azguest\n::1 x\n", "vm", "127.0.1.1\tvm # azguest\n::1 x\n"},
	} {
		m := newMachine(t, "debian")
		m.write("/etc/hosts", tc.hosts, 0o644)
		in := input()
		in.HostName = tc.host
		if err := stepOf[provisioning.SetHostName](t, plan(t, m, in, options())).Apply(t.Context(), m.prov()); err != nil {
			t.Fatal(err)
		}
		if got := m.read("/etc/hosts"); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestSudoers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, old, user, password, want string }{
		{"new, password", "", "bob", "x", "bob ALL=(ALL) ALL\n"},
		{"new, none", "", "bob", "", "bob ALL=(ALL) NOPASSWD: ALL\n"},
		{"others are kept", "bobby ALL=(ALL) ALL\n# c", "bob", "x", "bobby ALL=(ALL) ALL\n# c\nbob ALL=(ALL) ALL\n"},
		{"one rule instead of three", "bob ALL=(ALL) NOPASSWD: ALL\nx ALL=(ALL) ALL\nbob ALL=(ALL) ALL\n\tbob  ALL = (ALL) ALL\n", "bob", "x", "bob ALL=(ALL) ALL\nx ALL=(ALL) ALL\n"},
		{"capitals", "", "ADMIN_1", "x", "\"ADMIN_1\" ALL=(ALL) ALL\n"},
		{"dots and dollars", "", "a.b$", "x", "a.b$ ALL=(ALL) ALL\n"},
	} {
		m := newMachine(t, "debian")
		if tc.old != "" {
			m.write("/etc/sudoers.d/waagent", tc.old, 0o440)
		}
		in := input()
		in.UserName, in.Password = tc.user, host.NewSecret(tc.password)
		s := stepOf[provisioning.Sudo](t, plan(t, m, in, options()))
		for range 2 {
			if err := s.Apply(t.Context(), m.prov()); err != nil {
				t.Fatal(err)
			}
			if got := m.read("/etc/sudoers.d/waagent"); got != tc.want {
				t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
			}
		}
	}
}

func TestVisudoRefusing(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	s := stepOf[provisioning.Sudo](t, plan(t, m, input(), options()))
	m.run.Answers["/usr/sbin/visudo"] = answerIf(func() bool { return true }, "parse error")
	if err := s.Apply(t.Context(), m.prov()); provisioning.CodeOf(err) != provisioning.CodeSudo {
		t.Errorf("error %v", err)
	}
	if m.root.Exists("/etc/sudoers.d/waagent") {
		t.Error("the file was written although visudo refused it")
	}
}

func TestPasswordFieldWithoutPassword(t *testing.T) {
	t.Parallel()
	for have, want := range map[string]string{"!": "*", "!!": "*", "": "*", "*": "*", "$6$a$b": "$6$a$b", "!$6$a$b": "*"} {
		m := newMachine(t, "debian")
		m.write("/etc/passwd", m.read("/etc/passwd")+"azureuser:x:1000:1000::/home/azureuser:/bin/bash\n", 0o644)
		m.write("/etc/shadow", m.read("/etc/shadow")+"azureuser:"+have+":19000:0:99999:7:::\n", 0o640)
		in := input()
		in.Password = host.Secret{}
		if err := stepOf[provisioning.SetPassword](t, plan(t, m, in, options())).Apply(t.Context(), m.prov()); err != nil {
			t.Fatal(err)
		}
		if got := m.read("/etc/shadow"); !strings.Contains(got, "azureuser:"+want+":") {
			t.Errorf("%q became\n%s", have, got)
		}
	}
}

func TestShadowIsEditedWithoutChpasswd(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	m.write("/etc/passwd", m.read("/etc/passwd")+"azureuser:x:1000:1000::/home/azureuser:/bin/bash\n", 0o644)
	m.run.Answers["chpasswd"] = answerIf(func() bool { return true }, "PAM is broken")
	s := stepOf[provisioning.SetPassword](t, plan(t, m, input(), options()))
	for range 2 {
		if err := s.Apply(t.Context(), m.prov()); err != nil {
			t.Fatal(err)
		}
	}
	got := m.read("/etc/shadow")
	if strings.Count(got, "azureuser:$6$") != 1 || !strings.HasPrefix(got, "root:$6$abc$xyz:19000:0:99999:7:::\ndaemon:*:19000:") {
		t.Errorf("shadow:\n%s", got)
	}
	if fi := m.tree()["/etc/shadow"]; !strings.HasPrefix(fi, "-rw-r----- ") {
		t.Errorf("mode of shadow: %.12s", fi)
	}
}

func TestGuestProxyAgent(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer *hosttest.Answer
		reason string // empty: fine
		data   string
	}{
		{name: "works", answer: &hosttest.Answer{}},
		{name: "missing", reason: "azure-proxy-agent not found"},
		{
			name: "fails", answer: &hosttest.Answer{Code: 3, Stderr: "no key"},
			reason: "azure-proxy-agent status failure", data: "exit_code=3 stderr=no key",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "debian")
			if tc.answer != nil {
				m.run.Answers["azure-proxy-agent --status --wait 90"] = *tc.answer
			}
			err := provisioning.ProxyAgent{}.Apply(t.Context(), m.prov())
			if tc.reason == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			e, ok := errors.AsType[*provisioning.Error](err)
			if !ok {
				t.Fatalf("error %v", err)
			}
			var data []string
			for _, p := range e.Data {
				data = append(data, p.Key+"="+p.Value)
			}
			if e.Reason != tc.reason || e.Code() != provisioning.CodeProxy || strings.Join(data, " ") != tc.data {
				t.Errorf("%+v", e)
			}
		})
	}
}

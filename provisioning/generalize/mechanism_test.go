package generalize_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/provisioning/generalize"
)

// answering is a machine on which every tool succeeds.
func answering() *hosttest.Runner {
	return &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}
}

func apply(t *testing.T, r host.Root, o generalize.Options, run host.Runner) generalize.Planned {
	t.Helper()
	p := generalize.Plan(r, o)
	if err := generalize.Apply(t.Context(), system(r, run), o, p.Actions, nil); err != nil {
		t.Error(err)
	}
	return p
}

// codes are the codes of what verify finds.
func codes(t *testing.T, r host.Root) map[string]string {
	t.Helper()
	found, err := generalize.Verify(r, opts(), generalize.Immutable)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range found {
		if f.Code == "missing-directory" {
			continue
		}
		out[f.Code] += f.Path + " "
	}
	return out
}

// TestIdentityM1ComesBack: what running programs write again until the machine
// is off is removed once more, and nothing else.
func TestIdentityM1ComesBack(t *testing.T) {
	t.Parallel()
	r, o, run := clean(t), opts(), answering()
	o.Program = "/usr/sbin/azguest"
	write(t, r, "/run/systemd/system/x", "", 0o644)
	back := texts{
		"/var/lib/systemd/random-seed": "s", "/var/lib/NetworkManager/secret_key": "k", "/var/lib/NetworkManager/internal-x.lease": "l", "/var/log/journal/a/system.journal": "j",
		"/var/log/wtmp": "w", "/var/log/auth.log": "a", "/root/.bash_history": "generalize", "/var/lib/chrony/drift": "1",
	}
	for name, text := range back {
		write(t, r, name, text, 0o600)
	}
	p := apply(t, r, o, run)
	if !slices.ContainsFunc(p.Actions, func(a generalize.Action) bool { return a.Kind == generalize.Later }) {
		t.Fatalf("nothing is done at shutdown: %v", p.Actions)
	}
	unit, err := r.ReadFile("/run/systemd/system/azguest-generalize.service")
	if err != nil || !strings.Contains(string(unit), "ExecStop=/usr/sbin/azguest generalize --at-shutdown\n") {
		t.Errorf("the unit: %v\n%s", err, unit)
	}
	for _, last := range []string{"systemd-random-seed.service", "systemd-journal-flush.service", "NetworkManager.service", "auditd.service", "user.slice", "systemd-update-utmp.service"} {
		if !strings.Contains(string(unit), " "+last) {
			t.Errorf("the unit is not stopped after %s", last)
		}
	}
	called := run.Commands()
	if !slices.Contains(called, "systemctl start azguest-generalize.service") {
		t.Errorf("called %v", called)
	}
	for name, text := range back {
		write(t, r, name, text, 0o600)
	}
	write(t, r, "/etc/hostname", "next\n", 0o644)
	if err := generalize.AtShutdown(t.Context(), system(r, run), o); err != nil {
		t.Fatal(err)
	}
	for name := range back {
		if b, err := r.ReadFile(name); err == nil && len(b) > 0 {
			t.Errorf("%s came back", name)
		}
	}
	if b, err := r.ReadFile("/etc/hostname"); err != nil || string(b) != "next\n" {
		t.Errorf("the second run has changed more: %q %v", b, err)
	}
	// Without systemd it is said.
	r = clean(t)
	write(t, r, "/var/lib/seedrng/seed", "s", 0o600)
	if p := generalize.Plan(r, o); len(p.Warnings) < 2 || !strings.Contains(p.Warnings[1], "without systemd") {
		t.Errorf("without systemd: %v", p.Warnings)
	}
}

// TestIdentityM2GeneratorsStayMasked: guides tell to mask the generator of
// interface names with a link; removing it brings the fault back.
func TestIdentityM2GeneratorsStayMasked(t *testing.T) {
	t.Parallel()
	r := clean(t)
	write(t, r, "/etc/udev/rules.d/70-persistent-net.rules", "x", 0o644)
	masks := []string{"/etc/udev/rules.d/75-persistent-net-generator.rules", "/etc/udev/rules.d/80-net-setup-link.rules", "/etc/systemd/network/99-default.link"}
	for _, m := range masks {
		write(t, r, m+".x", "", 0o644)
		if err := os.Symlink("/dev/null", r.Path(m)); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, r, opts(), answering())
	for _, m := range masks {
		if target, err := r.Readlink(m); err != nil || target != "/dev/null" {
			t.Errorf("%s: %q %v", m, target, err)
		}
	}
	if r.Exists("/etc/udev/rules.d/70-persistent-net.rules") {
		t.Error("the generated rules stay")
	}
}

// TestIdentityM3CloudInitsNetwork: what cloud-init has generated goes if it
// makes it again, and stays, reported, if nobody would: then a clone would have
// no network at all.
func TestIdentityM3CloudInitsNetwork(t *testing.T) {
	t.Parallel()
	const netplan = "/etc/netplan/50-cloud-init.yaml"
	for name, tc := range map[string]struct {
		files texts
		stays bool
	}{
		"installed":        {texts{"/usr/bin/cloud-init": ""}, false},
		"not installed":    {nil, true},
		"disabled":         {texts{"/usr/bin/cloud-init": "", "/etc/cloud/cloud-init.disabled": ""}, true},
		"network disabled": {texts{"/usr/bin/cloud-init": "", "/etc/cloud/cloud.cfg.d/9.cfg": "network: {config: disabled}\n"}, true},
		"in two lines":     {texts{"/usr/bin/cloud-init": "", "/etc/cloud/cloud.cfg.d/9.cfg": "network:\n  config: disabled\n"}, true},
	} {
		r := clean(t)
		write(t, r, netplan, "network: {ethernets: {eth0: {match: {macaddress: '00:0d:3a:01:02:03'}}}}\n", 0o600)
		write(t, r, "/var/lib/cloud/instance/x", "", 0o600)
		for n, text := range tc.files {
			write(t, r, n, text, 0o644)
		}
		run := answering()
		apply(t, r, opts(), run)
		if r.Exists(netplan) != tc.stays {
			t.Errorf("%s: stays: %v, want %v", name, !tc.stays, tc.stays)
		}
		if got := codes(t, r); (got["network-mac"] != "") != tc.stays {
			t.Errorf("%s: verify: %v", name, got)
		}
	}
	// An old cloud-init does not know --configs.
	r, run := clean(t), answering()
	write(t, r, "/usr/bin/cloud-init", "", 0o755)
	write(t, r, "/var/lib/cloud/instance/x", "", 0o600)
	run.Answers["cloud-init clean --logs --configs all"] = hosttest.Answer{Code: 2}
	apply(t, r, opts(), run)
	if n := len(run.Commands()); n != 2 || run.Commands()[1] != "cloud-init clean --logs" {
		t.Errorf("called %v", run.Commands())
	}
}

// TestIdentityM4HomesElsewhere: a home need not be in /home.
func TestIdentityM4HomesElsewhere(t *testing.T) {
	t.Parallel()
	r := clean(t)
	for _, home := range []string{"/data/remote", "/home/gone", "/root"} {
		write(t, r, home+"/.zsh_history", "x", 0o600)
		write(t, r, home+"/.azure/msal_token_cache.json", "{}", 0o600)
	}
	write(t, r, "/data/other/.zsh_history", "x", 0o600) // nobody's home
	apply(t, r, opts(), answering())
	got := codes(t, r)
	if got["history"] != "" || !r.Exists("/data/other/.zsh_history") {
		t.Errorf("histories: %v", got)
	}
	for _, home := range []string{"/data/remote", "/home/gone", "/root"} {
		if !strings.Contains(got["cloud-login"], home+"/") {
			t.Errorf("verify does not name the login in %s: %v", home, got)
		}
	}
}

// TestIdentityM5IgnitionsResult: with the result of another machine in the
// image nobody would provision a clone.
func TestIdentityM5IgnitionsResult(t *testing.T) {
	t.Parallel()
	r := clean(t)
	write(t, r, "/etc/.ignition-result.json", "{}", 0o600)
	write(t, r, "/etc/systemd/system/multi-user.target.wants/afterburn-checkin.service", "", 0o644)
	m := provisioning.NewMachine(system(r, answering()), provisioning.Options{}, provisioning.Identity{ID: "x"})
	if got := m.FindOwner("auto"); got.Owner != provisioning.OwnerIgnition {
		t.Errorf("before: %v", got)
	}
	if codes(t, r)["ignition-result"] == "" {
		t.Error("verify does not name it")
	}
	apply(t, r, opts(), answering())
	if got := m.FindOwner("auto"); got.Owner != provisioning.OwnerSelf {
		t.Errorf("afterwards: %v", got)
	}
}

// TestIdentityM6TokensAreNamed: passwords and tokens are not PEM.
func TestIdentityM6TokensAreNamed(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{
		"/root/.netrc": "source-login", "/root/.docker/config.json": "container-login", "/home/anna/.pgpass": "service-login", "/etc/krb5.keytab": "keytab",
		"/etc/docker/key.json": "docker-id", "/var/lib/rabbitmq/.erlang.cookie": "erlang-cookie", "/home/anna/.azure/msal_token_cache.bin": "cloud-login",
	} {
		r := clean(t)
		write(t, r, name, "token", 0o600)
		found, err := generalize.Verify(r, opts(), generalize.Immutable)
		if err != nil || !slices.ContainsFunc(found, func(f generalize.Finding) bool { return f.Code == code && f.Path == name && f.Fatal }) {
			t.Errorf("%s is not a %s: %v %v", name, code, found, err)
		}
	}
}

// TestIdentityM7M8NothingOfNobody: what an image may have is no finding.
func TestIdentityM7M8NothingOfNobody(t *testing.T) {
	t.Parallel()
	r := clean(t)
	write(t, r, "/etc/machine-id", "uninitialized\n", 0o444)
	write(t, r, "/etc/hostname", "", 0o644)
	write(t, r, "/var/lib/dbus/x", "", 0o644)
	write(t, r, "/etc/iscsi/initiatorname.iscsi", "GenerateName=yes\n", 0o600)
	write(t, r, "/etc/resolv.conf", "# nothing yet\n", 0o644)
	if err := os.Symlink("/etc/machine-id", r.Path("/var/lib/dbus/machine-id")); err != nil {
		t.Fatal(err)
	}
	if p := generalize.Plan(r, opts()); len(p.Actions)+len(p.Kept) > 0 {
		t.Errorf("%v %v", p.Actions, p.Kept)
	}
	// The machine ID is emptied, never absent, and keeps its mode.
	write(t, r, "/etc/machine-id-new", strings.Repeat("a", 32)+"\n", 0o444)
	if err := r.Rename("/etc/machine-id-new", "/etc/machine-id"); err != nil {
		t.Fatal(err)
	}
	apply(t, r, opts(), answering())
	if fi, err := r.Lstat("/etc/machine-id"); err != nil || fi.Size() != 0 || fi.Mode().Perm() != 0o444 {
		t.Errorf("%v %v", fi, err)
	}
}

// TestIdentityM9DeletionFails: an account that can't be deleted is found again.
func TestIdentityM9DeletionFails(t *testing.T) {
	t.Parallel()
	r := used(t)
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"userdel": {Code: 8}}}
	p := generalize.Plan(r, opts())
	if err := generalize.Apply(t.Context(), system(r, run), opts(), p.Actions, nil); err == nil {
		t.Error("no error")
	}
	again := generalize.Plan(r, opts())
	if !slices.ContainsFunc(again.Actions, func(a generalize.Action) bool { return a.Kind == generalize.DelUser && a.Path == "azureuser" }) {
		t.Errorf("the second plan: %v", again.Actions)
	}
}

// TestIdentityM10AnyHardwareAddress: the build machine is not known to verify,
// so every address is a finding, read-only and whoever owns the files.
func TestIdentityM10AnyHardwareAddress(t *testing.T) {
	t.Parallel()
	r := clean(t)
	files := texts{
		"/etc/netplan/00-installer-config.yaml": "match: {macaddress: 52:54:00:12:34:56}\n", "/etc/sysconfig/network/ifcfg-eth0": "LLADDR='52:54:00:12:34:56'\n",
		"/etc/NetworkManager/system-connections/a": "[ethernet]\ncloned-mac-address=52:54:00:12:34:56\n", "/etc/iftab": "eth0 mac 52:54:00:12:34:56\n",
	}
	for name, text := range files {
		write(t, r, name, text, 0o600)
		if os.Geteuid() == 0 {
			if err := os.Lchown(r.Path(name), 100_000, 100_000); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := codes(t, r)["network-mac"]
	for name := range files {
		if !strings.Contains(got, name+" ") {
			t.Errorf("%s is not a finding: %s", name, got)
		}
	}
}

// TestIdentityStaysInTheRoot: no link of an image leads out of it, neither for
// verify nor for generalize.
func TestIdentityStaysInTheRoot(t *testing.T) {
	t.Parallel()
	r, outside := clean(t), t.TempDir()
	names := []string{"random-seed", "ssh_host_rsa_key", "hostnqn", "machine-id", ".bash_history", "authorized_keys", "x.keytab"}
	for _, n := range names {
		if err := os.WriteFile(outside+"/"+n, []byte("of another machine\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"/var/lib/systemd", "/etc/ssh", "/etc/nvme", "/home/evil", "/var/lib/waagent", "/etc/dropbear"} {
		write(t, r, dir+"-parent/x", "", 0o600)
		if err := errors.Join(os.MkdirAll(r.Path(dir+"/.."), 0o755), os.Symlink(outside, r.Path(dir))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Remove(r.Path("/etc/machine-id")), os.Symlink(outside+"/machine-id", r.Path("/etc/machine-id"))); err != nil {
		t.Fatal(err)
	}
	apply(t, r, opts(), answering())
	if got := codes(t, r); len(got) > 0 {
		t.Errorf("found %v", got)
	}
	for _, n := range names {
		if b, err := os.ReadFile(outside + "/" + n); err != nil || len(b) == 0 {
			t.Errorf("%s outside of the image: %q %v", n, b, err)
		}
	}
}

// TestIdentityOwnersStay: a log that is emptied still belongs to its daemon,
// which is not root.
func TestIdentityOwnersStay(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := clean(t)
	write(t, r, "/var/log/syslog", "x\n", 0o640)
	if err := errors.Join(os.Chown(r.Path("/var/log/syslog"), 104, 4), os.Chown(r.Path("/var/log"), 0, 104), os.Chmod(r.Path("/var/log"), 0o775)); err != nil {
		t.Fatal(err)
	}
	apply(t, r, opts(), answering())
	var st unix.Stat_t
	if err := unix.Lstat(r.Path("/var/log/syslog"), &st); err != nil || st.Size != 0 || st.Uid != 104 || st.Gid != 4 || st.Mode&0o777 != 0o640 {
		t.Errorf("%+v %v", st, err)
	}
}

// TestIdentityHostKeysElsewhere: what sshd names is a host key, wherever it is
// (IN4), and something else is not.
func TestIdentityHostKeysElsewhere(t *testing.T) {
	t.Parallel()
	r := clean(t)
	write(t, r, "/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nHostKey /data/keys/host\nHostCertificate /data/keys/host-cert.pub\nHostKey /data/keys/agent.pub\nHostKey /etc/services\n", 0o600)
	write(t, r, "/etc/ssh/sshd_config.d/1.conf", "HostKey \"/data/keys/of include\"\n", 0o600)
	for name, text := range (texts{"/data/keys/host": private, "/data/keys/host.pub": "p", "/data/keys/host-cert.pub": "c", "/data/keys/of include": private, "/data/keys/agent.pub": "p", "/etc/services": "s", "/data/keys/other": private}) {
		write(t, r, name, text, 0o600)
	}
	p := apply(t, r, opts(), answering())
	list, err := r.ReadDir("/data/keys")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range list {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != "agent.pub other" || !r.Exists("/etc/services") {
		t.Errorf("left: %s", got)
	}
	if len(p.Kept) != 1 || p.Kept[0].Path != "/data/keys/agent.pub" {
		t.Errorf("kept: %v", p.Kept)
	}
}

// TestIdentitySubscriptionTools: the tool of the owner is run before its files
// are removed; one that fails is followed by the next.
func TestIdentitySubscriptionTools(t *testing.T) {
	t.Parallel()
	r, run := clean(t), answering()
	for _, tool := range []string{"/usr/sbin/subscription-manager", "/usr/sbin/registercloudguest", "/usr/bin/SUSEConnect"} {
		write(t, r, tool, "", 0o755)
	}
	if p := generalize.Plan(r, opts()); len(p.Actions) > 0 {
		t.Errorf("without a registration: %v", p.Actions)
	}
	write(t, r, "/etc/pki/consumer/cert.pem", "x", 0o600)
	write(t, r, "/etc/zypp/credentials.d/SCCcredentials", "x", 0o600)
	run.Answers["registercloudguest"] = hosttest.Answer{Code: 1}
	apply(t, r, opts(), run)
	called := run.Commands()
	if got := strings.Join(called, ", "); got != "subscription-manager clean, registercloudguest --clean, SUSEConnect --cleanup" {
		t.Errorf("called %s", got)
	}
	if r.Exists("/etc/pki/consumer/cert.pem") || r.Exists("/etc/zypp/credentials.d/SCCcredentials") {
		t.Error("left")
	}
}

// TestIdentityM1TheAgentWritesUntilItIsStopped: what is written after the plan
// was made is removed, too.
func TestIdentityM1TheAgentWritesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	r, o, run := clean(t), opts(), answering()
	o.Service = "azguest.service"
	write(t, r, "/run/systemd/system/x", "", 0o644)
	write(t, r, "/var/lib/waagent/provisioned", "id", 0o600)
	run.Answers["systemctl stop azguest.service"] = hosttest.Answer{Do: func(host.Cmd) error {
		write(t, r, "/etc/ssh/ssh_host_rsa_key", "x", 0o600)
		write(t, r, "/var/lib/waagent/Protocol", "x", 0o600)
		return nil
	}}
	if err := generalize.Deprovision(t.Context(), system(r, run), o, generalize.Mode{Force: true}, nil, &strings.Builder{}); err != nil {
		t.Fatal(err)
	}
	if got := codes(t, r); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// TestIdentityKeysAreKeys: the lines around a key are no key, and a key is one
// wherever it stands.
func TestIdentityKeysAreKeys(t *testing.T) {
	t.Parallel()
	const body = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\nQyNTUxOQAAACA="
	for _, tc := range []struct {
		name, text string
		key        bool
	}{
		{"key", "-----BEGIN OPENSSH PRIVATE KEY-----\n" + body + "\n-----END OPENSSH PRIVATE KEY-----\n", true},
		{"after a certificate", "-----BEGIN CERTIFICATE-----\n" + body + "\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\n", true},
		{"encrypted", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AA\n\n" + body + "\n-----END RSA PRIVATE KEY-----\n", true},
		{"indented, in YAML", "key: |\n  -----BEGIN PRIVATE KEY-----\n  " + strings.ReplaceAll(body, "\n", "\n  ") + "\n  -----END PRIVATE KEY-----\n", true},
		{"in JSON", `{"private_key": "-----BEGIN PRIVATE KEY-----\n` + strings.ReplaceAll(body, "\n", `\n`) + `\n-----END PRIVATE KEY-----\n"}`, true},
		{"CRLF", "-----BEGIN PRIVATE KEY-----\r\n" + strings.ReplaceAll(body, "\n", "\r\n") + "\r\n-----END PRIVATE KEY-----\r\n", true},
		{"the markers of a Python program", "BEGIN = b'-----BEGIN PRIVATE KEY-----'\nEND = b'-----END PRIVATE KEY-----'\n", false},
		{"the code of a Python program", "def strip(pem):\n    pem = pem.replace(\"-----BEGIN PRIVATE KEY-----\", \"\")\n    return pem.replace(\"-----END PRIVATE KEY-----\", \"\")\n", false},
		{"two strings of a program", `found = "-----BEGIN PRIVATE KEY-----" in text and "-----END PRIVATE KEY-----" in text` + "\n", false},
		{"two strings with a word in between", `if "-----BEGIN PRIVATE KEY-----" or "-----END PRIVATE KEY-----":` + "\n", false},
		{"in one line", "KEY=-----BEGIN PRIVATE KEY----- " + strings.ReplaceAll(body, "\n", " ") + " -----END PRIVATE KEY-----\n", true},
		{"a guide", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n", false},
		{"a template", "-----BEGIN PRIVATE KEY-----\n{{ key }}\n-----END PRIVATE KEY-----\n", false},
		{"a public key", "-----BEGIN PUBLIC KEY-----\n" + body + "\n-----END PUBLIC KEY-----\n", false},
		{"nothing in between", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", false},
		{"a program", "\x00-----BEGIN PRIVATE KEY-----\n" + body + "\n-----END PRIVATE KEY-----\n", false},
	} {
		r := clean(t)
		write(t, r, "/opt/app/file", tc.text, 0o600)
		found, err := generalize.Verify(r, opts(), generalize.Immutable)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(found, func(f generalize.Finding) bool { return f.Code == "private-key" && f.Path == "/opt/app/file" }); got != tc.key {
			t.Errorf("%s: a private key: %v, want %v", tc.name, got, tc.key)
		}
	}
}

// TestIdentityKeysAnywhere: administrators put keys beside the configuration of
// a service; what comes with a program stays unnamed.
func TestIdentityKeysAnywhere(t *testing.T) {
	t.Parallel()
	r := clean(t)
	for name, want := range map[string]bool{
		"/etc/nginx/ssl/server.key": true, "/etc/app.d/deep/er/token.pem": true, "/etc/ssl/private/app.key": true, "/usr/local/etc/haproxy/all.pem": true, "/var/www/.secret": true, "/srv/x": true,
		"/usr/local/go/src/crypto/tls/testdata/example-key.pem": false, "/usr/share/doc/x/key.pem": false,
	} {
		write(t, r, name, "-----BEGIN PRIVATE KEY-----\n"+strings.Repeat("MIIE", 20)+"\n-----END PRIVATE KEY-----\n", 0o600)
		found, err := generalize.Verify(r, opts(), generalize.Immutable)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.ContainsFunc(found, func(f generalize.Finding) bool { return f.Fatal && f.Path == name }); got != want {
			t.Errorf("%s: named %v, want %v", name, got, want)
		}
	}
}

package provisioning_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/peak"
)

// newer returns a key of a type that the library does not know.
func newer() string {
	b := append([]byte{0, 0, 0, 20}, "ssh-mldsa-65@openssh"...)
	b = append(b, 0, 0, 0, 4, 1, 2, 3, 4)
	return "ssh-mldsa-65@openssh " + base64.StdEncoding.EncodeToString(b)
}

func ecdsaLine(t *testing.T, c elliptic.Curve) (string, any) {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssh.NewPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(p))), k
}

func TestParseKeys(t *testing.T) {
	t.Parallel()
	bare := strings.TrimSuffix(edKey, " user@host")
	body := strings.Fields(edKey)[1]
	p256, key := ecdsaLine(t, elliptic.P256())
	p521, _ := ecdsaLine(t, elliptic.P521())
	der, err := x509.MarshalPKIXPublicKey(key.(*ecdsa.PrivateKey).Public())
	if err != nil {
		t.Fatal(err)
	}
	pubPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	sk := "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIEg2ZzGqCqLB7GMJwxE1i9aTvtrpJmkYYKgbl1CSo5JKAAAABHNzaDo="
	for _, tc := range []struct {
		name, in string
		want     []string
		bad      bool
	}{
		{"plain", edKey, []string{edKey}, false},
		{"newline at the end", edKey + "\r\n", []string{edKey}, false},
		{"blanks around", "  \t" + edKey + " \n", []string{edKey}, false},
		{"BOM", "\ufeff" + edKey, []string{edKey}, false},
		{"no comment", bare, []string{bare}, false},
		{"comment with blanks", bare + " a b  c", []string{bare + " a b  c"}, false},
		{"CRLF inside the body", "ssh-ed25519 " + body[:20] + "\r\n" + body[20:40] + "\r\n" + body[40:] + " c", []string{bare + " c"}, false},
		{"LF inside the body", "ssh-ed25519 " + body[:30] + "\n" + body[30:], []string{bare}, false},
		{"without padding", strings.TrimRight(p256, "="), []string{p256}, false},
		{"p256", p256, []string{p256}, false},
		{"p521", p521, []string{p521}, false},
		{"security key", sk, []string{sk}, false},
		{"unknown type", newer(), []string{newer()}, false},
		{"two keys", edKey + "\n" + p256, []string{edKey, p256}, false},
		{"two keys, a comment and an empty line between", edKey + "\n\n# x\n" + p256, []string{edKey, p256}, false},
		{"options", `no-pty,command="echo \"a b\" # x" ` + edKey, []string{`no-pty,command="echo \"a b\" # x" ` + edKey}, false},
		{"options and a second key with options", "restrict " + edKey + "\nfrom=\"10.0.0.0/8\" " + p256, []string{"restrict " + edKey, `from="10.0.0.0/8" ` + p256}, false},
		{"cert-authority", "cert-authority " + bare, []string{"cert-authority " + bare}, false},
		{"PEM public key", pubPEM, []string{p256}, false},
		{"SSH2", "---- BEGIN SSH2 PUBLIC KEY ----\r\nComment: \"a, \\\r\nb\"\r\n" + body[:30] + "\r\n" + body[30:] + "\r\n---- END SSH2 PUBLIC KEY ----", []string{bare}, false},
		{"one good, one bad", edKey + "\nssh-rsa AAAA", []string{edKey}, true},
		{"empty", "", nil, true},
		{"garbage", "hello world", nil, true},
		{"type only", "ssh-rsa", nil, true},
		{"truncated body", "ssh-ed25519 " + body[:40], nil, true},
		{"type and body differ", "ssh-rsa " + body, nil, true},
		{"private key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", nil, true},
		{"binary", "\x00\x01\x02", nil, true},
		{"huge", "ssh-rsa " + strings.Repeat("A", 1<<20), nil, true},
	} {
		got, err := provisioning.ParseKeys(tc.in)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if (err != nil) != tc.bad {
			t.Errorf("%s: error %v, want one: %v", tc.name, err, tc.bad)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(edKey)
	f.Add("restrict,command=\"x\" " + edKey)
	f.Add("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----")
	f.Add("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
	f.Add(newer())
	f.Fuzz(peak.Target(func(t *testing.T, s string) {
		keys, _ := provisioning.ParseKeys(s)
		for _, k := range keys {
			if strings.ContainsAny(k, "\r\n") {
				t.Errorf("a key of several lines: %q", k)
			}
			again, err := provisioning.ParseKeys(k)
			if err != nil || len(again) != 1 || again[0] != k {
				t.Errorf("%q is read again as %q, %v", k, again, err)
			}
		}
	}))
}

// provisioned makes a machine whose user exists, and returns it with the step
// that adds the keys and the user's home.
func provisioned(t *testing.T, layout string, keys ...provisioning.Key) (*machine, provisioning.Step, string) {
	t.Helper()
	m := newMachine(t, layout)
	in := input()
	in.Keys = keys
	var step provisioning.Step
	for _, s := range plan(t, m, in, options()) {
		switch s.ID() {
		case provisioning.StepUser:
			if err := m.root.MkdirAll("/var/lib/waagent/azguest", 0o700); err != nil {
				t.Fatal(err)
			}
			if err := s.Apply(t.Context(), m.prov()); err != nil {
				t.Fatal(err)
			}
		case provisioning.StepKeys:
			step = s
		}
	}
	return m, step, "/home/azureuser"
}

func TestKeysGoWhereSSHDLooks(t *testing.T) {
	t.Parallel()
	bare := strings.TrimSuffix(edKey, " user@host")
	for _, tc := range []struct {
		name, conf, path string
		want             string
	}{
		{"usual", "", "$HOME/azureuser/.ssh/authorized_keys", "/home/azureuser/.ssh/authorized_keys"},
		{"absolute", "", "/home/azureuser/.ssh/authorized_keys", "/home/azureuser/.ssh/authorized_keys"},
		{"none given", "", "", "/home/azureuser/.ssh/authorized_keys"},
		{"somebody who is not there", "", "/home/other/.ssh/authorized_keys", "/home/azureuser/.ssh/authorized_keys"},
		{"escaping", "", "$HOME/azureuser/../../etc/passwd", "/home/azureuser/.ssh/authorized_keys"},
		{"relative", "", ".ssh/authorized_keys", "/home/azureuser/.ssh/authorized_keys"},
		{"token %h", "AuthorizedKeysFile %h/keys/mine\n", "", "/home/azureuser/keys/mine"},
		{"token %u", "AuthorizedKeysFile /etc/ssh/keys/%u\n", "", "/etc/ssh/keys/azureuser"},
		{"relative to home", "AuthorizedKeysFile .ssh/other .ssh/authorized_keys2\n", "", "/home/azureuser/.ssh/other"},
		{"second of two", "AuthorizedKeysFile .ssh/other .ssh/authorized_keys\n", "", "/home/azureuser/.ssh/authorized_keys"},
		{"none", "AuthorizedKeysFile none\n", "", "/home/azureuser/.ssh/authorized_keys"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m, step, _ := provisioned(t, "debian", provisioning.Key{Path: tc.path, Value: bare})
			if os.Getuid() != 0 && strings.HasPrefix(tc.want, "/etc") {
				t.Skip("needs root")
			}
			m.write("/etc/ssh/sshd_config", tc.conf, 0o644)
			err := step.Apply(t.Context(), m.prov())
			// Without a key file no key works, so there must be a warning.
			if _, warned := errors.AsType[*provisioning.Warning](err); err != nil && !warned || warned != (tc.name == "none") {
				t.Fatal(err)
			}
			if got := m.read(tc.want); got != bare+"\n" {
				t.Errorf("%s has %q", tc.want, got)
			}
		})
	}
}

// TestKeysAreMergedAndNotAddedTwice: a key that the file restricts is put in
// front of that line, because sshd takes the first line of a key.
func TestKeysAreMergedAndNotAddedTwice(t *testing.T) {
	t.Parallel()
	p256, _ := ecdsaLine(t, elliptic.P256())
	m, step, home := provisioned(t, "debian", provisioning.Key{Value: edKey}, provisioning.Key{Value: edKey + "-other-comment"}, provisioning.Key{Value: p256})
	file := home + "/.ssh/authorized_keys"
	m.write(file, "# mine\ngarbage line\nrestrict "+strings.TrimSuffix(edKey, " user@host"), 0o644)
	for _, p := range []string{home + "/.ssh", file} {
		if err := os.Chown(m.root.Path(p), max(1000, os.Getuid()), os.Getgid()); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := step.Apply(t.Context(), m.prov()); err != nil {
			t.Fatal(err)
		}
		want := "# mine\ngarbage line\n" + edKey + "\nrestrict " + strings.TrimSuffix(edKey, " user@host") + "\n" + p256 + "\n"
		if diff := cmp.Diff(want, m.read(file)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for p, want := range map[string]os.FileMode{home + "/.ssh": 0o700, file: 0o600} {
			if fi, err := os.Stat(m.root.Path(p)); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%s: %v %v, want %v", p, fi.Mode(), err, want)
			}
		}
	}
}

// TestPlantedLinksAreNotFollowed: the keys are installed all the same.
func TestPlantedLinksAreNotFollowed(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, to have another user own the links")
	}
	secret := "root:secret\n"
	for _, tc := range []struct {
		name  string
		plant func(m *machine, home string) error
	}{
		{"the file is a symlink", func(m *machine, home string) error {
			if err := mkUserDir(m, home+"/.ssh"); err != nil {
				return err
			}
			return userLink(m, "/etc/victim", home+"/.ssh/authorized_keys")
		}},
		{"the file is a hard link", func(m *machine, home string) error {
			if err := mkUserDir(m, home+"/.ssh"); err != nil {
				return err
			}
			return os.Link(m.root.Path("/etc/victim"), m.root.Path(home+"/.ssh/authorized_keys"))
		}},
		{"the file is a FIFO", func(m *machine, home string) error {
			if err := mkUserDir(m, home+"/.ssh"); err != nil {
				return err
			}
			return mkfifo(m.root.Path(home + "/.ssh/authorized_keys"))
		}},
		{"the directory is a symlink", func(m *machine, home string) error {
			return userLink(m, m.root.Path("/etc/victims"), home+"/.ssh")
		}},
		{"the directory is a file", func(m *machine, home string) error {
			m.write(home+"/.ssh", "x", 0o644)
			return nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m, step, home := provisioned(t, "debian", provisioning.Key{Value: edKey})
			m.write("/etc/victim", secret, 0o600)
			m.write("/etc/victims/.keep", "", 0o600)
			if err := tc.plant(m, home); err != nil {
				t.Fatal(err)
			}
			if err := step.Apply(t.Context(), m.prov()); err != nil {
				t.Error(err)
			}
			if got := m.read("/etc/victim"); got != secret {
				t.Errorf("the victim is now %q", got)
			}
			if m.root.Exists("/etc/victims/authorized_keys") {
				t.Error("written through the link")
			}
			if got := m.read(home + "/.ssh/authorized_keys"); got != edKey+"\n" {
				t.Errorf("authorized_keys %q", got)
			}
		})
	}
}

func mkUserDir(m *machine, name string) error {
	if err := os.MkdirAll(m.root.Path(name), 0o700); err != nil {
		return err
	}
	return os.Chown(m.root.Path(name), 1000, 0)
}

func userLink(m *machine, target, name string) error {
	if err := os.Symlink(target, m.root.Path(name)); err != nil {
		return err
	}
	return os.Lchown(m.root.Path(name), 1000, 0)
}

func TestHomesBehindALinkOfRoots(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	m, step, _ := provisioned(t, "debian", provisioning.Key{Path: "$HOME/azureuser/.ssh/authorized_keys", Value: edKey})
	if err := os.MkdirAll(m.root.Path("/var"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(m.root.Path("/home"), m.root.Path("/var/home")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("var/home", m.root.Path("/home")); err != nil {
		t.Fatal(err)
	}
	if err := step.Apply(t.Context(), m.prov()); err != nil {
		t.Fatal(err)
	}
	if got := m.read("/var/home/azureuser/.ssh/authorized_keys"); got != edKey+"\n" {
		t.Errorf("authorized_keys %q", got)
	}
}

func TestKeysOfCertificatesAndPairs(t *testing.T) {
	t.Parallel()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, priv.Public(), priv)
	if err != nil {
		t.Fatal(err)
	}
	pk8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := ssh.NewPublicKey(priv.Public())
	if err != nil {
		t.Fatal(err)
	}
	want := string(ssh.MarshalAuthorizedKey(sp))
	const fp = "0A1B2C3D4E5F60718293A4B5C6D7E8F901234567"
	m := newMachine(t, "debian")
	m.write("/var/lib/waagent/"+fp+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o600)
	m.write("/var/lib/waagent/"+fp+".prv", "Bag Attributes\n"+string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pk8})), 0o600)
	in := input()
	in.Keys = []provisioning.Key{{Fingerprint: strings.ToLower(fp), Path: "$HOME/azureuser/.ssh/authorized_keys"}}
	in.KeyPairs = []provisioning.KeyPair{{Fingerprint: fp, Path: "$HOME/azureuser/.ssh/id_ed25519"}, {Fingerprint: fp, Path: "/etc/evil"}}
	if diff := cmp.Diff([]string{fp}, in.NeedsCertificates()); diff != "" {
		t.Errorf("NeedsCertificates (-want +got):\n%s", diff)
	}
	res, err := apply(t, m, plan(t, m, in, options()), options(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Warnings) != 1 || res.Warnings[0].Code() != provisioning.CodeKeyPair {
		t.Errorf("warnings %v", res.Warnings)
	}
	if got := m.read("/home/azureuser/.ssh/authorized_keys"); got != want {
		t.Errorf("authorized_keys %q, want %q", got, want)
	}
	if got := m.read("/home/azureuser/.ssh/id_ed25519.pub"); got != want {
		t.Errorf("public half %q, want %q", got, want)
	}
	for name, perm := range map[string]os.FileMode{"id_ed25519": 0o600, "id_ed25519.pub": 0o644} {
		if fi, err := os.Stat(filepath.Join(m.root.Path("/home/azureuser/.ssh"), name)); err != nil || fi.Mode().Perm() != perm {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
	if m.root.Exists("/etc/evil") {
		t.Error("a key pair was written outside of any home directory")
	}
}

func TestAKeyThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	bad := provisioning.Key{Value: "ssh-rsa AAAAB3NzaC1yc2E bad"}
	good := provisioning.Key{Value: edKey}
	for _, tc := range []struct {
		name     string
		keys     []provisioning.Key
		password bool
		fails    bool
	}{
		{"alone", []provisioning.Key{bad}, false, true},
		{"beside a good one", []provisioning.Key{bad, good}, false, false},
		{"with a password", []provisioning.Key{bad}, true, false},
		{"certificate that never came", []provisioning.Key{{Fingerprint: "AB"}}, false, true},
		{"neither value nor fingerprint", []provisioning.Key{{Path: "x"}}, false, true},
	} {
		m := newMachine(t, "debian")
		in := input()
		in.Keys = tc.keys
		if !tc.password {
			in.Password = provisioning.Input{}.Password
		}
		res, err := apply(t, m, plan(t, m, in, options()), options(), nil)
		if (err != nil) != tc.fails {
			t.Errorf("%s: error %v, want one: %v", tc.name, err, tc.fails)
		}
		if err != nil && provisioning.CodeOf(err) != provisioning.CodeKeys {
			t.Errorf("%s: code %s", tc.name, provisioning.CodeOf(err))
		}
		if err == nil && len(res.Warnings) == 0 {
			t.Errorf("%s: no warning", tc.name)
		}
	}
}

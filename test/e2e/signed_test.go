package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/bundles"
	"github.com/azguest/azguest/test/fabric"
)

// A publisher has a certificate authority, a signing certificate, and packages
// signed with it, made with the commands in README.md.
type publisher struct {
	t   testing.TB
	dir string
}

func newPublisher(t testing.TB) publisher {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip(err)
	}
	p := publisher{t, t.TempDir()}
	p.openssl("req", "-x509", "-newkey", "rsa:3072", "-noenc", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Contoso Root", "-days", "3650")
	p.openssl("req", "-x509", "-newkey", "rsa:3072", "-noenc", "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "sign.key", "-out", "sign.pem", "-subj", "/CN=Contoso Packages", "-days", "365")
	return p
}

func (p publisher) openssl(args ...string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "openssl", args...)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("openssl %q: %v: %s", args, err, out)
	}
}

func (p publisher) file(name string) []byte {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// sign signs a package, with additional options.
func (p publisher) sign(zip []byte, more ...string) []byte {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, "package.zip"), zip, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.openssl(append([]string{"cms", "-sign", "-binary", "-in", "package.zip", "-signer", "sign.pem", "-inkey", "sign.key", "-outform", "DER", "-out", "package.sig"}, more...)...)
	return p.file("package.sig")
}

// TestSignedExtensions: with openssl and the files that README.md names, only
// packages that their publisher has signed are run. Every kind of manipulation
// is rejected before anything is unpacked, with the reason in the control plane
// and in the audit log.
func TestSignedExtensions(t *testing.T) {
	t.Parallel()
	p, stranger := newPublisher(t), newPublisher(t)
	as := func(name, version string, info map[string]any) []byte {
		b := bundles.Samples()[0] // Hello
		b.Name, b.Version = name, version
		b.Flags = map[string]any{"signingInfo": info}
		zip, err := b.Zip()
		if err != nil {
			t.Fatal(err)
		}
		return zip
	}
	proper := func(typ string) []byte {
		return as("Contoso."+typ, "1.0.0", map[string]any{"publisher": "Contoso", "type": typ, "version": "1.0.0"})
	}
	flip := func(b []byte, i int) []byte { b = bytes.Clone(b); b[i] ^= 1; return b }
	cases := []struct {
		typ            string
		zip, signature []byte
		refused        string // "" if it runs
	}{
		{"Good", proper("Good"), p.sign(proper("Good")), ""},
		{"Placeholder", proper("Placeholder"), p.sign(proper("Placeholder"), "-econtent_type", "2.123.456.7.8.9", "-md", "sha384"), ""},
		{"KeyID", proper("KeyID"), p.sign(proper("KeyID"), "-keyid", "-nosmimecap"), ""},
		{"Unsigned", proper("Unsigned"), nil, "the package is not signed"},
		{"Changed", flip(proper("Changed"), 40), p.sign(proper("Changed")), "signature"},
		{"Appended", append(proper("Appended"), 0), p.sign(proper("Appended")), "signature"},
		{"Signature", proper("Signature"), flip(p.sign(proper("Signature")), len(p.sign(proper("Signature")))-1), "signature"},
		{"Rubbish", proper("Rubbish"), []byte("no signature"), "signature"},
		{"Stranger", proper("Stranger"), stranger.sign(proper("Stranger")), "authority"},
		{"Attached", proper("Attached"), p.sign(proper("Attached"), "-nodetach"), ""},
		{"Other", proper("Good"), p.sign(proper("Good")), "signed as Contoso.Good"},
		{"Older", as("Contoso.Older", "0.9.0", map[string]any{"publisher": "Contoso", "type": "Older", "version": "0.9.0"}), nil, "signed as version 0.9.0"},
		{"NoInfo", as("Contoso.NoInfo", "1.0.0", nil), nil, "signingInfo"},
	}
	o := blank()
	c := newAgentCloud(t, o)
	for i := range cases {
		k := &cases[i]
		if k.signature == nil && k.typ != "Unsigned" {
			k.signature = p.sign(k.zip)
		}
		add := func() error { return c.Fabric.AddPackage("Contoso."+k.typ, "1.0.0", k.zip) }
		if k.signature != nil {
			add = func() error { return c.Fabric.AddSigned("Contoso."+k.typ, "1.0.0", k.zip, k.signature) }
		}
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	c.Sh(t, "mkdir -p /etc/azguest/trust.d")
	if err := c.WriteFile("/etc/azguest/trust.d/contoso.pem", p.file("ca.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Sh(t, `mkdir -p /etc/waagent.conf.d
echo 'Extensions.PolicyMode=enforce' >/etc/waagent.conf.d/policy.conf
echo '{"policyVersion": "0.1.0", "extensionPolicies": {"signatureRequired": true}}' >/etc/waagent_policy.json
agentctl config check`)
	c.StartAgent(t)
	c.WaitReady(t)
	ops := map[string]string{}
	for _, k := range cases {
		ops[k.typ] = c.put(t, extension{name: k.typ, publisher: "Contoso", kind: k.typ, version: "1.0"})
	}
	for _, k := range cases {
		got := c.follow(t, ops[k.typ])
		unpacked := c.Sh(t, "ls /var/lib/waagent/Contoso."+k.typ+"-1.0.0/HandlerManifest.json 2>/dev/null || :")
		audit := c.Sh(t, `grep -F '"Contoso.`+k.typ+`"' /var/log/azure/azguest-audit.log || :`)
		t.Logf("%s: %s", k.typ, got)
		if k.refused == "" {
			if got != "" || unpacked == "" || !strings.Contains(audit, `"signer":"Contoso Packages"`) {
				t.Errorf("%s: %s %q\n%s", k.typ, got, unpacked, audit)
			}
			continue
		}
		if !strings.Contains(got, "AZ-POL-SIGNATURE") || !strings.Contains(got, k.refused) {
			t.Errorf("%s: the control plane says %q, want AZ-POL-SIGNATURE and %q", k.typ, got, k.refused)
		}
		if unpacked != "" {
			t.Errorf("%s was unpacked", k.typ)
		}
		if !strings.Contains(audit, `"what":"deny"`) || !strings.Contains(audit, "AZ-POL-SIGNATURE") {
			t.Errorf("%s: audit log: %q", k.typ, audit)
		}
	}
	// The reason is shown to users.
	r, _ := c.Run(t.Context(), "agentctl", "status")
	t.Logf("%s", r.Stdout)
	if !strings.Contains(r.Stdout, "AZ-POL-SIGNATURE") {
		t.Error("agentctl status does not name the code")
	}
	r, _ = c.Run(t.Context(), "agentctl", "policy")
	t.Logf("%s", r.Stdout)
	r, _ = c.Run(t.Context(), "agentctl", "policy", "explain", "Contoso.Unsigned", "-o", "json")
	var answer struct {
		Mode      string
		Signature bool `json:"signature_required"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil || answer.Mode != "enforce" || !answer.Signature {
		t.Errorf("policy explain: %v %s%s", err, r.Stdout, r.Stderr)
	}

	// An extension that the policy does not list is neither installed nor
	// removed, and the control plane shows the reason.
	c.Sh(t, `echo '{"policyVersion": "0.1.0", "extensionPolicies": {"allowListedExtensionsOnly": true, "extensions": {"Contoso.KeyID": {"signatureRequired": true}}}}' >/etc/waagent_policy.json`)
	got := c.follow(t, c.put(t, extension{name: "Good", publisher: "Contoso", kind: "Good", version: "1.0", settings: map[string]any{"a": 1}}))
	if !strings.Contains(got, "not specified as an allowed extension") || !strings.Contains(got, "/etc/waagent_policy.json") {
		t.Errorf("not listed: %q", got)
	}
	removal := c.arm(t, http.MethodDelete, vmPath+"/extensions/Good", nil, nil).Get("Azure-AsyncOperation")
	await(t, "the refusal to remove it", func() bool {
		return strings.Contains(c.view(t), "failed to uninstall extension 'Contoso.Good' because it is not specified as an allowed extension")
	})
	if got := c.follow(t, c.put(t, extension{name: "KeyID", publisher: "Contoso", kind: "KeyID", version: "1.0", settings: map[string]any{"a": 2}})); got != "" {
		t.Errorf("the listed one: %s", got)
	}
	audit := c.Sh(t, "cat /var/log/azure/azguest-audit.log")
	if !strings.Contains(audit, "not specified as an allowed extension") {
		t.Errorf("audit log: %s", audit)
	}
	// Once it is allowed again, the next goal state removes it.
	c.Sh(t, "rm /etc/waagent_policy.json")
	c.VM.Configure(func(*fabric.Config) {})
	if got := c.follow(t, removal); got != "" {
		t.Errorf("removal: %s", got)
	}
}

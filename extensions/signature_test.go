package extensions

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/update/updatetest"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/cms"
)

// signedPackage returns a package whose manifest has this signingInfo.
func signedPackage(t testing.TB, publisher, typ, version string) []byte {
	info := ""
	if publisher != "" {
		info = fmt.Sprintf(`,"signingInfo":{"publisher":%q,"type":%q,"version":%q}`, publisher, typ, version)
	}
	return pkg{script: simple, files: map[string]string{handler.ManifestName: `[{"name":"x","version":1.0` + info + `,"handlerManifest":{"installCommand":"run.sh install","enableCommand":"run.sh enable","disableCommand":"run.sh disable","updateCommand":"run.sh update","uninstallCommand":"run.sh uninstall","rebootAfterInstall":false}}]`}}.build(t)
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

func flipLast(b []byte) []byte { return flip(b, len(b)-1) }

// TestSignatureMatrix: a package without a proper signature is never unpacked if
// the policy requires signatures, and runs as usual if not.
func TestSignatureMatrix(t *testing.T) {
	t.Parallel()
	ca, other := updatetest.NewAuthority(), updatetest.NewAuthority()
	good := signedPackage(t, "Pub", "Type", "1.0.0")
	encode := base64.StdEncoding.EncodeToString
	for name, tc := range map[string]struct {
		zip       []byte
		signature string
		ok        bool // runs although a signature is required
		marker    bool
		runs      bool // without a policy
	}{
		"good":          {good, encode(ca.Sign(good, nil)), true, true, true},
		"other case":    {signedPackage(t, "PUB", "type", "1.0.0"), "", true, true, true},
		"expired":       {good, encode(ca.Sign(good, func(c *x509.Certificate) { c.NotAfter = c.NotBefore.AddDate(0, 0, 1) })), true, true, true},
		"other purpose": {good, encode(ca.Sign(good, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), true, true, true},

		"unsigned":             {good, "-", false, false, true},
		"rubbish":              {good, "aGVsbG8=", false, false, true},
		"no base64":            {good, "%%%", false, false, true},
		"bit of the signature": {good, encode(flipLast(ca.Sign(good, nil))), false, false, true},
		"bit of the package":   {flip(good, 40), encode(ca.Sign(good, nil)), false, false, false},
		"appended":             {append(bytes.Clone(good), 0), encode(ca.Sign(good, nil)), false, false, true},
		"other signer":         {good, encode(other.Sign(good, nil)), false, false, true},
		"swapped package":      {signedPackage(t, "Pub", "Other", "1.0.0"), "", false, false, true},
		"older package":        {signedPackage(t, "Pub", "Type", "0.9.0"), "", false, false, true},
		"no signingInfo":       {signedPackage(t, "", "", ""), "", false, false, true},
	} {
		for _, mode := range []string{policy.Enforce, policy.Audit, policy.Off} {
			t.Run(name+" "+mode, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.repo.publish(t, pkg{name: "Pub.Type", version: "1.0.0", zip: tc.zip})
				w.cfg.Policy.Mode = mode
				writeFile(t, w.root.Path("/etc/waagent_policy.json"), `{"policyVersion":"0.1.0","extensionPolicies":{"extensions":{"pub.TYPE":{"signatureRequired":true}}}}`)
				w.cfg.Verify = func(_ context.Context, file, signature string) (string, error) {
					f, err := os.Open(file)
					if err != nil {
						return "", err
					}
					defer f.Close()
					s, err := cms.ParseSignature(signature)
					if err == nil {
						err = s.Verify(f, ca.Pool())
					}
					if err != nil {
						return "", err
					}
					return s.Signer().Subject.CommonName, nil
				}
				w.start()
				h := ext("Pub.Type", "1.0.0", 0)
				switch tc.signature {
				case "":
					h.Signature = encode(ca.Sign(tc.zip, nil))
				case "-":
				default:
					h.Signature = tc.signature
				}
				s := w.processed(h)
				calls := w.calls()
				if mode == policy.Enforce && !tc.ok {
					if len(calls) > 0 || exists(w.base("Pub.Type-1.0.0")+"/run.sh") {
						t.Errorf("it was unpacked: calls %q", calls)
					}
					if m := message(s, 0); !strings.Contains(m, "AZ-POL-SIGNATURE") {
						t.Errorf("message %q", m)
					}
					return
				}
				if tc.runs != (len(calls) == 2) {
					t.Errorf("calls %q; %s %s", calls, show(s), message(s, 0))
				}
				if got := exists(w.base("Pub.Type-1.0.0") + "/package_validated"); got != tc.marker {
					t.Errorf("package_validated: %v, want %v", got, tc.marker)
				}
			})
		}
	}
}

// TestSignatureRequiredLater: a policy that requires signatures after a package
// was installed stops it only if it was never verified.
func TestSignatureRequiredLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "Pub.Type", version: "1.0.0", script: simple}, pkg{name: "Pub.Signed", version: "1.0.0", script: simple})
	w.cfg.Policy.Mode = policy.Enforce
	w.cfg.Verify = func(context.Context, string, string) (string, error) { return "Contoso", nil }
	w.start()
	signed := func() protocol.Handler {
		h := ext("Pub.Signed", "1.0.0", w.inc)
		h.Signature = "x"
		return h
	}
	w.offer(ext("Pub.Type", "1.0.0", 0), signed())
	writeFile(t, w.root.Path("/etc/waagent_policy.json"), `{"policyVersion":"0.1.0","extensionPolicies":{"signatureRequired":true}}`)
	w.clearCalls()
	s := w.processed(ext("Pub.Type", "1.0.0", 1), signed())
	if got := w.calls(); len(got) != 1 || got[0] != "1.0.0 enable 1" {
		t.Errorf("calls %q, want the signed one's enable only", got)
	}
	if m := message(s, 0); !strings.Contains(m, "AZ-POL-SIGNATURE") {
		t.Errorf("message %q", m)
	}
}

// TestNoTrustedAuthorities: without trusted authorities, signatures cause no
// warnings.
func TestNoTrustedAuthorities(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "Pub.Type", version: "1.0.0", script: simple})
	w.cfg.Verify = func(context.Context, string, string) (string, error) {
		return "", errors.Join(ErrNoTrust)
	}
	w.start()
	h := ext("Pub.Type", "1.0.0", 0)
	h.Signature = "x"
	w.offer(h)
	w.evs.mu.Lock()
	defer w.evs.mu.Unlock()
	for _, e := range w.evs.all {
		if e.Op == "PackageSignatureResult" {
			t.Errorf("an event about it: %+v", e)
		}
	}
}

package cms

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fixture reads somebody else's document; the tests that need it are skipped
// where it is not at hand.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fixtureKey(t testing.TB, cert, key string) Key {
	t.Helper()
	cb, _ := pem.Decode(fixture(t, cert))
	kb, _ := pem.Decode(fixture(t, key))
	c, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return Key{RSA: k.(*rsa.PrivateKey), Cert: c}
}

var dataElement = regexp.MustCompile(`(?s)<Data>(.*?)</Data>`)

func fixtureData(t testing.TB, name string) []byte {
	t.Helper()
	m := dataElement.FindSubmatch(fixture(t, name))
	if m == nil {
		t.Fatalf("%s has no data", name)
	}
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(m[1])), ""))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestPlatformCertificates opens what the real platform sent.
func TestPlatformCertificates(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ doc, cert, key string }{
		{"waagent/wire/certs.xml", "waagent/wire/trans_cert", "waagent/wire/trans_prv"},
		{"waagent/hibernate/goal_state_1/Certificates.xml", "waagent/hibernate/TransportCert.pem", "waagent/hibernate/TransportPrivate.pem"},
		{"waagent/hibernate/goal_state_2/Certificates.xml", "waagent/hibernate/TransportCert.pem", "waagent/hibernate/TransportPrivate.pem"},
	} {
		der := fixtureData(t, tc.doc)
		k := fixtureKey(t, tc.cert, tc.key)
		for _, key := range []Key{k, {RSA: k.RSA}} {
			plain, err := Decrypt(der, key)
			if err != nil {
				t.Fatalf("%s: %v", tc.doc, err)
			}
			pfx, err := ParsePFX(plain, "")
			if err != nil {
				t.Fatalf("%s: %v", tc.doc, err)
			}
			if !pfx.Verified || len(pfx.Notes) > 0 {
				t.Errorf("%s: verified %v, notes %q", tc.doc, pfx.Verified, pfx.Notes)
			}
			for _, p := range pfx.Pairs {
				t.Logf("%s: %s %q key %v", tc.doc, p.Thumbprint, p.Name, p.Key != nil)
			}
		}
	}
}

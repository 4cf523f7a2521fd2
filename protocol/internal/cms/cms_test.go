package cms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/azguest/azguest/protocol/internal/cms/cmstest"
	"github.com/azguest/azguest/test/peak"
)

// fixture reads a recorded document; tests that need one are skipped where it
// is not at hand.
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

func transportPair(t testing.TB) Key {
	t.Helper()
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(7), NotAfter: time.Now().Add(time.Hour), SubjectKeyId: PublicKeyID(&priv.PublicKey)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return Key{RSA: priv, Cert: c}
}

func TestEveryEnvelope(t *testing.T) {
	t.Parallel()
	k, other := transportPair(t), transportPair(t)
	text := []byte(strings.Repeat("content", 1000))
	for _, c := range []string{"aes128", "aes192", "aes256", "3des", "gcm"} {
		for _, o := range []cmstest.Options{
			{Cipher: c},
			{Cipher: c, PKCS1: true},
			{Cipher: c, SHA256: true},
			{Cipher: c, Issuer: true},
			{Cipher: c, Indefinite: true},
		} {
			name := fmt.Sprintf("%+v", o)
			sealed := cmstest.Seal(text, k.Cert, o)
			for _, keys := range [][]Key{{k}, {{RSA: k.RSA}}, {other, k}} {
				got, err := Decrypt(sealed, keys...)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := Decrypt(sealed, other); !errors.Is(err, ErrNotForUs) {
				t.Errorf("%s: with a wrong key: %v, want ErrNotForUs", name, err)
			}
			if _, err := Decrypt(sealed[:len(sealed)/2], k); err == nil {
				t.Errorf("%s: half of it opened", name)
			}
		}
	}
}

func TestEveryPFX(t *testing.T) {
	t.Parallel()
	k := transportPair(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(8), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &ec.PublicKey, ec)
	if err != nil {
		t.Fatal(err)
	}
	ecCert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for name, enc := range map[string]*pkcs12.Encoder{
		"3DES": pkcs12.LegacyDES, "RC2": pkcs12.LegacyRC2, "PBES2": pkcs12.Modern2023, "PBMAC1": pkcs12.Modern2026, "no password": pkcs12.Passwordless,
	} {
		for kind, pair := range map[string]struct {
			key  any
			cert *x509.Certificate
		}{"RSA": {k.RSA, k.Cert}, "EC": {ec, ecCert}} {
			extra := k.Cert
			if kind == "RSA" {
				extra = ecCert // comes without a key
			}
			b, err := enc.Encode(pair.key, pair.cert, []*x509.Certificate{extra}, "")
			if err != nil {
				t.Fatal(err)
			}
			pfx, err := ParsePFX(b, "")
			if err != nil {
				t.Errorf("%s %s: %v", name, kind, err)
				continue
			}
			if len(pfx.Pairs) != 2 || pfx.Pairs[0].Key == nil || pfx.Pairs[1].Key != nil {
				t.Errorf("%s %s: %d pairs, notes %q", name, kind, len(pfx.Pairs), pfx.Notes)
			}
			if strings.Contains(string(pfx.Pairs[0].KeyPEM()), "RSA PRIVATE") {
				t.Errorf("%s %s: key is not PKCS#8", name, kind)
			}
		}
	}
}

func TestMACIsNotFatal(t *testing.T) {
	t.Parallel()
	k := transportPair(t)
	b, err := pkcs12.LegacyDES.Encode(k.RSA, k.Cert, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	good, err := ParsePFX(b, "")
	if err != nil || !good.Verified {
		t.Fatalf("unchanged: %v, verified %v", err, good.Verified)
	}
	b[len(b)-20] ^= 1 // in the MAC's salt or digest, at the end
	bad, err := ParsePFX(b, "")
	if err != nil || bad.Verified || len(bad.Pairs) != 1 || bad.Pairs[0].Key == nil {
		t.Errorf("wrong mac: %v, %+v", err, bad)
	}
}

func TestDetachedSignature(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl makes the signature and is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	content := []byte("a package")
	if err := os.WriteFile(filepath.Join(dir, "c"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "x.pem", "-subj", "/CN=signer", "-days", "1")
	run("cms", "-sign", "-binary", "-in", "c", "-signer", "x.pem", "-inkey", "k", "-md", "sha384", "-outform", "DER", "-out", "s1")
	run("cms", "-sign", "-binary", "-in", "c", "-signer", "x.pem", "-inkey", "k", "-md", "sha256", "-keyid", "-noattr", "-outform", "DER", "-out", "s2")
	run("cms", "-sign", "-binary", "-in", "c", "-signer", "x.pem", "-inkey", "k", "-keyopt", "rsa_padding_mode:pss", "-outform", "DER", "-out", "s3")
	pool := x509.NewCertPool()
	xb, _ := os.ReadFile(filepath.Join(dir, "x.pem"))
	pool.AppendCertsFromPEM(xb)
	for _, name := range []string{"s1", "s2", "s3"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseSignature(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.Verify(bytes.NewReader(content), pool); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Verify(strings.NewReader("another package"), pool); err == nil {
			t.Errorf("%s: verified changed content", name)
		}
		if err := s.Verify(bytes.NewReader(content), x509.NewCertPool()); err == nil {
			t.Errorf("%s: verified without a root", name)
		}
	}
}

func FuzzDecrypt(f *testing.F) {
	k := transportPair(f)
	f.Add(cmstest.Seal([]byte("x"), k.Cert, cmstest.Options{}))
	f.Add(cmstest.Seal([]byte("x"), k.Cert, cmstest.Options{Cipher: "gcm", Indefinite: true}))
	f.Add(cmstest.Seal([]byte("x"), k.Cert, cmstest.Options{SHA256: true, Issuer: true}))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) { _, _ = Decrypt(b, k) }))
}

func FuzzPFX(f *testing.F) {
	// An elliptic key: checking an RSA key takes the fuzzer's time.
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(8), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &k.PublicKey, k)
	if err != nil {
		f.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range []*pkcs12.Encoder{pkcs12.LegacyDES.WithIterations(1), pkcs12.LegacyRC2.WithIterations(1), pkcs12.Modern2023.WithIterations(1), pkcs12.Passwordless} {
		b, err := e.Encode(k, cert, nil, "")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) {
		if len(b) > 16<<10 {
			return
		}
		_, _ = parsePFX(b, "", 100)
	}))
}

func FuzzSignature(f *testing.F) {
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) {
		if s, err := ParseSignature(b); err == nil {
			_ = s.Verify(bytes.NewReader(nil), x509.NewCertPool())
		}
	}))
}

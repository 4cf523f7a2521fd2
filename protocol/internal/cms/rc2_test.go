package cms

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestRC2 has the vectors of RFC 2268, section 5.
func TestRC2(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		key, plain, secret string
		bits               int
	}{
		{"0000000000000000", "0000000000000000", "ebb773f993278eff", 63},
		{"ffffffffffffffff", "ffffffffffffffff", "278b27e42e2f0d49", 64},
		{"3000000000000000", "1000000000000001", "30649edf9be7d2c2", 64},
		{"88", "0000000000000000", "61a8a244adacccf0", 64},
		{"88bca90e90875a", "0000000000000000", "6ccf4308974c267f", 64},
		{"88bca90e90875a7f0f79c384627bafb2", "0000000000000000", "1a807d272bbe5db1", 64},
		{"88bca90e90875a7f0f79c384627bafb2", "0000000000000000", "2269552ab0f85ca6", 128},
		{"88bca90e90875a7f0f79c384627bafb216f80a6f85920584c42fceb0be255daf1e", "0000000000000000", "5b78d3a43dfff1f1", 129},
	} {
		from := func(s string) []byte {
			b, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		c, got := newRC2(from(tc.key), tc.bits), make([]byte, rc2Block)
		if c.Encrypt(got, from(tc.plain)); !bytes.Equal(got, from(tc.secret)) {
			t.Errorf("%s, %d bits: encrypted to %x, want %s", tc.key, tc.bits, got, tc.secret)
		}
		if c.Decrypt(got, got); !bytes.Equal(got, from(tc.plain)) {
			t.Errorf("%s, %d bits: decrypted to %x, want %s", tc.key, tc.bits, got, tc.plain)
		}
	}
}

// TestPFXOfOpenSSL: the old ciphers as OpenSSL writes them; TestEveryPFX has
// them from a library.
func TestPFXOfOpenSSL(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl makes the files and is not installed")
	}
	dir := t.TempDir()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(9), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	in := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8})...)
	if err := os.WriteFile(filepath.Join(dir, "in.pem"), in, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, pbe := range []string{"PBE-SHA1-RC2-40", "PBE-SHA1-RC2-128", "PBE-SHA1-3DES", "PBE-SHA1-2DES"} {
		cmd := exec.CommandContext(t.Context(), "openssl", "pkcs12", "-export", "-legacy", "-in", "in.pem", "-out", "out.pfx", "-passout", "pass:", "-certpbe", pbe, "-keypbe", pbe)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Logf("%s: openssl does not have it: %v\n%s", pbe, err, out)
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, "out.pfx"))
		if err != nil {
			t.Fatal(err)
		}
		pfx, err := ParsePFX(b, "")
		if err != nil || len(pfx.Pairs) != 1 || !bytes.Equal(pfx.Pairs[0].Cert, cert) || !bytes.Equal(pfx.Pairs[0].Key, p8) || !pfx.Verified || len(pfx.Notes) > 0 {
			t.Errorf("%s: %v, %+v", pbe, err, pfx)
		}
	}
}

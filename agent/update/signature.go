package update

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/azguest/azguest/protocol/cms"
)

// MaxSignature is the size of a signature, with its certificates, in bytes.
const MaxSignature = 256 << 10

// Trust says whose packages are accepted.
type Trust struct {
	Roots *x509.CertPool // root certificates; nil trusts nobody
	// Unsigned accepts packages without a signature. A signature that is
	// present must still be valid.
	Unsigned bool
	Now      time.Time // for the dates of the signer's certificate
}

// maxRoots is the largest size of a file of root certificates, in bytes: that
// of all public ones has a quarter of a megabyte.
const maxRoots = 4 << 20

// LoadRoots reads root certificates from a PEM file. Without the file it
// returns nil, so that nothing is trusted.
func LoadRoots(path string) (*x509.CertPool, error) {
	b, err := files.ReadBounded(path, maxRoots)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read trust roots: %w", err)
	}
	pool, n := x509.NewCertPool(), 0
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read trust roots %s: %w", path, err)
		}
		pool.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("read trust roots %s: no certificate in it", path)
	}
	return pool, nil
}

// Check checks, before the package is downloaded, whether its signature could
// be accepted.
func (t Trust) Check(signature []byte) error {
	switch {
	case len(signature) == 0 && t.Unsigned:
		return nil
	case len(signature) == 0:
		return unsigned("package has no signature, and AutoUpdate.RequireSignature is set")
	case t.Roots == nil:
		return unsigned("no certificate is trusted to sign this agent (AutoUpdate.TrustRoots)")
	}
	_, err := t.signer(signature)
	return err
}

// Verify checks a detached signature over content. It returns the name of
// the signer, "" for an unsigned package that is accepted.
func (t Trust) Verify(content io.Reader, signature []byte) (signer string, err error) {
	if err := t.Check(signature); err != nil || len(signature) == 0 {
		return "", err
	}
	s, err := t.signer(signature)
	if err != nil {
		return "", err
	}
	// This checks the chain once more, and the content.
	if err := s.Verify(content, t.Roots); err != nil {
		return "", unsigned("%w", err)
	}
	return s.Signer().Subject.CommonName, nil
}

// signer checks everything about a signature but the content. Unlike for
// extensions (protocol/SPEC.md §8.3), the dates of the certificate count: new
// versions of the agent are signed with valid certificates.
func (t Trust) signer(signature []byte) (cms.Signature, error) {
	s, err := cms.ParseSignature(encode(signature))
	if err != nil {
		return s, unsigned("%w", err)
	}
	if err := s.Chain(t.Roots); err != nil {
		return s, unsigned("%w", err)
	}
	c := s.Signer()
	switch {
	case !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning):
		return s, unsigned("the certificate of %q is not for signing code", c.Subject.CommonName)
	case t.Now.After(c.NotAfter):
		return s, unsigned("the certificate of %q expired on %s", c.Subject.CommonName, c.NotAfter.UTC().Format(time.DateOnly))
	case t.Now.Before(c.NotBefore):
		return s, unsigned("the certificate of %q is not valid before %s; check the clock", c.Subject.CommonName, c.NotBefore.UTC().Format(time.DateOnly))
	}
	return s, nil
}

// encode converts DER, PEM or base64 to base64.
func encode(sig []byte) string {
	if b, _ := pem.Decode(sig); b != nil {
		return base64.StdEncoding.EncodeToString(b.Bytes)
	}
	if len(sig) > 0 && sig[0] == 0x30 {
		return base64.StdEncoding.EncodeToString(sig)
	}
	return string(bytes.TrimSpace(bytes.TrimPrefix(sig, []byte("\ufeff"))))
}

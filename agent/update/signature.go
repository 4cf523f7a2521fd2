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

// Trust is whose packages are run.
type Trust struct {
	Roots *x509.CertPool // authorities; nil trusts nobody
	// Unsigned accepts packages without a signature. One that is there must
	// still be right.
	Unsigned bool
	Now      time.Time // for the dates of the signer's certificate
}

// maxRoots is how large a file of authorities may be: that of all public ones
// has a quarter of a megabyte.
const maxRoots = 4 << 20

// LoadRoots reads authorities from a PEM file. Without the file there are
// none, which is no error here: nothing will be trusted.
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

// Check says before anything is downloaded whether a signature could
// convince.
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
	// This checks the chain once more; what counts are the bytes.
	if err := s.Verify(content, t.Roots); err != nil {
		return "", unsigned("%w", err)
	}
	return s.Signer().Subject.CommonName, nil
}

// signer checks everything about a signature but the content. Other than for
// extensions (protocol/SPEC.md §8.3) the dates count: new versions of the agent
// are signed with valid certificates.
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

// encode brings DER, PEM or base64 to base64.
func encode(sig []byte) string {
	if b, _ := pem.Decode(sig); b != nil {
		return base64.StdEncoding.EncodeToString(b.Bytes)
	}
	if len(sig) > 0 && sig[0] == 0x30 {
		return base64.StdEncoding.EncodeToString(sig)
	}
	return string(bytes.TrimSpace(bytes.TrimPrefix(sig, []byte("\ufeff"))))
}

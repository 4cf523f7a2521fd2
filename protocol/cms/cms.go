// Package cms gives the rest of the agent access to package
// protocol/internal/cms: it opens protected settings, for agentctl, and
// verifies signatures of packages. It adds no cryptography of its own.
package cms

import (
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // thumbprints are SHA-1
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol/internal/cms"
)

// DecryptSettings opens protected settings (base64 of CMS EnvelopedData) with
// a certificate and key in PEM, as stored in the library directory.
func DecryptSettings(protected secret.Secret, certPEM, keyPEM []byte) (secret.Secret, error) {
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(protected.Reveal()), ""))
	if err != nil {
		return secret.Secret{}, errors.New("open protected settings: not base64")
	}
	key, err := parseKey(certPEM, keyPEM)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("open protected settings: %w", err)
	}
	out, err := cms.Decrypt(der, key)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("open protected settings: %w", err)
	}
	return secret.New(string(out)), nil
}

func parseKey(certPEM, keyPEM []byte) (cms.Key, error) {
	k := cms.Key{}
	for rest := certPEM; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if c, err := x509.ParseCertificate(b.Bytes); err == nil {
			k.Cert = c
			break
		}
	}
	for rest := keyPEM; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return k, errors.New("not an RSA key")
		}
		if p, err := x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
			if r, ok := p.(*rsa.PrivateKey); ok {
				k.RSA = r
				return k, nil
			}
		}
		if r, err := x509.ParsePKCS1PrivateKey(b.Bytes); err == nil {
			k.RSA = r
			return k, nil
		}
	}
}

// A Signature is the signature of a package; Verify checks it.
type Signature struct{ s *cms.Signature }

// ParseSignature reads encodedSignature (base64 of detached SignedData).
func ParseSignature(encoded string) (Signature, error) {
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(encoded), ""))
	if err != nil {
		return Signature{}, errors.New("parse signature: not base64")
	}
	s, err := cms.ParseSignature(der)
	return Signature{s}, err
}

// Verify checks the signature over content and the chain up to one of roots;
// the signer's dates are not checked (protocol/SPEC.md §8.3).
func (s Signature) Verify(content io.Reader, roots *x509.CertPool) error {
	return s.s.Verify(content, roots)
}

// Signer is the certificate of the signer; whether it is the expected one is
// for the caller to check.
func (s Signature) Signer() *x509.Certificate { return s.s.Signer }

// Chain verifies only that the signer's chain leads to one of roots.
func (s Signature) Chain(roots *x509.CertPool) error { return s.s.VerifyChain(roots) }

// Thumbprint is the upper-case hex SHA-1 of a certificate, its name in the
// library directory.
func Thumbprint(der []byte) string {
	sum := sha1.Sum(der) //nolint:gosec // see import
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // thumbprints are SHA-1
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// An Identity is a certificate that the platform sends to a virtual machine,
// usually with its key; CRP's own (CN=CRP) comes without.
type Identity struct {
	Certificate  *x509.Certificate
	Key          crypto.PrivateKey
	FriendlyName string
}

// Thumbprint returns the thumbprint of the certificate.
func (i *Identity) Thumbprint() string { return Thumbprint(i.Certificate.Raw) }

// Thumbprint is the platform's identifier of a certificate: SHA-1 of its DER
// form, in upper-case hex.
func Thumbprint(der []byte) string {
	sum := sha1.Sum(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// NewIdentity makes a self-signed certificate with an RSA or an EC key.
func NewIdentity(commonName string, ec bool) (*Identity, error) {
	return newIdentity(pkix.Name{CommonName: commonName}, ec)
}

func newIdentity(subject pkix.Name, ec bool) (*Identity, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: now.Add(-24 * time.Hour).UTC(), NotAfter: now.AddDate(3, 0, 0).UTC(),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageDigitalSignature,
	}
	var key, pub any
	if ec {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make ec key: %w", err)
		}
		template.KeyUsage = x509.KeyUsageDigitalSignature
		key, pub = k, &k.PublicKey
	} else {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, fmt.Errorf("make rsa key: %w", err)
		}
		key, pub = k, &k.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &Identity{Certificate: parsed, Key: key}, nil
}

// NewTenant makes a certificate to which protected settings are encrypted. It
// resembles CRP's: issuer DC=Windows Azure CRP Certificate Generator.
func NewTenant() (*Identity, error) {
	id, err := newIdentity(pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{
		Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, Value: "Windows Azure CRP Certificate Generator",
	}}}, false)
	if err != nil {
		return nil, err
	}
	id.FriendlyName = "TenantEncryptionCert"
	return id, nil
}

// Import reads a certificate and, if present, its key from PEM.
func Import(text string) (*Identity, error) {
	id := &Identity{}
	for rest := []byte(text); ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("read certificate: %w", err)
			}
			id.Certificate = cert
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("read private key: %w", err)
			}
			id.Key = key
		}
	}
	if id.Certificate == nil {
		return nil, errors.New("read certificate: no CERTIFICATE block in the text")
	}
	return id, nil
}

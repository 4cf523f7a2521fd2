package fabric

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // thumbprints are SHA-1
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"
)

// authority signs the certificates of the https listeners. It is made when
// first needed, since most tests never speak TLS.
type authority struct {
	mu   sync.Mutex // guards the fields below
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	leaf map[string]*tls.Certificate
}

func (a *authority) ready() error {
	if a.cert != nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key of authority: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Fabric emulator authority"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("make authority: %w", err)
	}
	a.key, a.cert, a.leaf = key, cert, map[string]*tls.Certificate{}
	return nil
}

func (a *authority) pool() *x509.CertPool {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := x509.NewCertPool()
	if a.ready() == nil {
		p.AddCert(a.cert)
	}
	return p
}

func (a *authority) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		name := h.ServerName
		if name == "" && h.Conn != nil && h.Conn.LocalAddr() != nil {
			name, _, _ = net.SplitHostPort(h.Conn.LocalAddr().String())
		}
		return a.issue(or(name, "localhost"))
	}}
}

func (a *authority) issue(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ready(); err != nil {
		return nil, err
	}
	if c := a.leaf[name]; c != nil {
		return c, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of %s: %w", name, err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(a.leaf)) + 2), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("make certificate of %s: %w", name, err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
	a.leaf[name] = c
	return c, nil
}

// CACertificate is the authority of the https listeners, as PEM.
func (f *Fabric) CACertificate() ([]byte, error) {
	f.ca.mu.Lock()
	defer f.ca.mu.Unlock()
	if err := f.ca.ready(); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.cert.Raw}), nil
}

// An identity is a certificate with its key, as the platform hands them to a VM.
type identity struct {
	pfxEntry
	parsed *x509.Certificate
}

func (i *identity) thumbprint() string { return Thumbprint(i.cert) }

// Thumbprint is how the platform names a certificate: SHA-1 of its DER form,
// upper-case hex.
func Thumbprint(der []byte) string {
	sum := sha1.Sum(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

// newIdentity makes a self-signed certificate. Tenant certificates look like
// CRP's: issuer DC=Windows Azure CRP Certificate Generator.
func newIdentity(subject pkix.Name, friendlyName string, ec, keyless bool) (*identity, error) {
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
	id := &identity{pfxEntry: pfxEntry{cert: der, key: key, friendlyName: friendlyName}, parsed: parsed}
	if keyless {
		id.key = nil
	}
	return id, nil
}

// newTenant makes the certificate protected settings are encrypted to.
func newTenant() (*identity, error) {
	return newIdentity(pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{
		Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, Value: "Windows Azure CRP Certificate Generator",
	}}}, "TenantEncryptionCert", false, false)
}

// importIdentity reads a certificate and, if present, its key from PEM.
func importIdentity(text string) (*identity, error) {
	id := &identity{}
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
			id.cert, id.parsed = block.Bytes, cert
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("read private key: %w", err)
			}
			id.key = key
		}
	}
	if id.parsed == nil {
		return nil, errors.New("read certificate: no CERTIFICATE block in the text")
	}
	return id, nil
}

func subjectCN(name string) pkix.Name { return pkix.Name{CommonName: name} }

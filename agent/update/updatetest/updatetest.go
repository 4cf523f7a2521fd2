// Package updatetest makes packages of the agent and their signatures, for
// tests.
package updatetest

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// An Authority issues certificates for signers.
type Authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewAuthority makes a self-signed authority.
func NewAuthority() *Authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Update test authority"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return &Authority{key, must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key))))}
}

// PEM returns the certificate of the authority.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Pool returns a pool that trusts the authority.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Sign signs content, detached, with a new certificate; change, if not nil, may
// make the certificate invalid.
func (a *Authority) Sign(content []byte, change func(*x509.Certificate)) []byte {
	key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	t := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Update test signer"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if change != nil {
		change(t)
	}
	cert := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key))))

	data := asn1.ObjectIdentifier{2, 123, 456, 7, 8, 9} // as the platform's (protocol/SPEC.md §8.3)
	sum := sha512.Sum384(content)
	attrs := slices.Concat(
		attribute(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}, der(data)),
		attribute(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}, der(sum[:])),
	)
	toSign := sha512.Sum384(wrap(asn1.ClassUniversal, asn1.TagSet, attrs))
	sig := must(ecdsa.SignASN1(rand.Reader, key, toSign[:]))

	sha384 := wrap(asn1.ClassUniversal, asn1.TagSequence, der(asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}))
	ecdsa384 := wrap(asn1.ClassUniversal, asn1.TagSequence, der(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}))
	info := wrap(asn1.ClassUniversal, asn1.TagSequence,
		der(1),
		wrap(asn1.ClassUniversal, asn1.TagSequence, cert.RawIssuer, der(cert.SerialNumber)),
		sha384,
		wrap(asn1.ClassContextSpecific, 0, attrs),
		ecdsa384,
		der(sig),
	)
	signed := wrap(asn1.ClassUniversal, asn1.TagSequence,
		der(3),
		wrap(asn1.ClassUniversal, asn1.TagSet, sha384),
		wrap(asn1.ClassUniversal, asn1.TagSequence, der(data)),
		wrap(asn1.ClassContextSpecific, 0, cert.Raw),
		wrap(asn1.ClassUniversal, asn1.TagSet, info),
	)
	return wrap(asn1.ClassUniversal, asn1.TagSequence,
		der(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}),
		wrap(asn1.ClassContextSpecific, 0, signed),
	)
}

func attribute(id asn1.ObjectIdentifier, value []byte) []byte {
	return wrap(asn1.ClassUniversal, asn1.TagSequence, der(id), wrap(asn1.ClassUniversal, asn1.TagSet, value))
}

func wrap(class, tag int, parts ...[]byte) []byte {
	return der(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: slices.Concat(parts...)})
}

func der(v any) []byte { return must(asn1.Marshal(v)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // a mistake in the test itself
	}
	return v
}

// A File is one entry of a package.
type File struct {
	Name string
	Data []byte
}

// Manifest returns the HandlerManifest.json of a package of this agent.
func Manifest(version string) File {
	return File{"HandlerManifest.json", fmt.Appendf(nil, `[{"name":"azguest","version":1.0,"handlerManifest":{
 "installCommand":"","uninstallCommand":"","updateCommand":"","disableCommand":"","enableCommand":"bin/azguest run",
 "rebootAfterInstall":false,"reportHeartbeat":false},
 "signingInfo":{"type":"azguest","publisher":"Azguest","version":"%s"}}]`, version)}
}

// Zip packs files.
func Zip(files ...File) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.Name, Method: zip.Deflate}
		h.SetMode(0o755)
		must(must(w.CreateHeader(h)).Write(f.Data))
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Python returns a package of the classic agent.
func Python(version string) []byte {
	return Zip(
		File{"HandlerManifest.json", fmt.Appendf(nil, `[{"name":"WALinuxAgent","version":1.0,"handlerManifest":{
 "installCommand":"","uninstallCommand":"","updateCommand":"","disableCommand":"",
 "enableCommand":"python -u bin/WALinuxAgent-%s-py3.9.egg -run-exthandlers","rebootAfterInstall":false,"reportHeartbeat":false}}]`, version)},
		File{"bin/WALinuxAgent-" + version + "-py3.9.egg", []byte("PK not really\n")},
	)
}

package cms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"

	"github.com/azguest/azguest/agent/bound"
)

const (
	oidContentType   = "1.2.840.113549.1.9.3"
	oidMessageDigest = "1.2.840.113549.1.9.4"
	oidRSAPSS        = "1.2.840.113549.1.1.10"
)

// A Signature is detached SignedData with one signer (protocol/SPEC.md §8.3).
type Signature struct {
	Signer *x509.Certificate
	Others []*x509.Certificate // the other certificates in the document
	Hash   crypto.Hash

	attrs  []byte // signed attributes as a SET, nil without
	digest []byte // messageDigest of the attributes
	sig    []byte
	alg    string
	pss    bool
}

type signerInfo struct {
	Version   int
	SID       asn1.RawValue
	Digest    pkix.AlgorithmIdentifier
	Attrs     asn1.RawValue `asn1:"optional,tag:0"`
	SigAlg    pkix.AlgorithmIdentifier
	Signature []byte
	Unsigned  asn1.RawValue `asn1:"optional,tag:1"`
}

// ParseSignature reads SignedData. The content type may be anything, the
// platform uses a placeholder, as long as the signed attributes agree.
func ParseSignature(in []byte) (*Signature, error) {
	s, err := parseSignature(in)
	if err != nil {
		return nil, fmt.Errorf("parse signature: %w", err)
	}
	return s, nil
}

func parseSignature(in []byte) (*Signature, error) {
	der, err := normalize(in)
	if err != nil {
		return nil, err
	}
	var ci contentInfo
	if _, err := asn1.Unmarshal(der, &ci); err != nil {
		return nil, err
	}
	if ci.Type.String() != oidSignedData {
		return nil, fmt.Errorf("content type %s is not a signature", bound.Clip(ci.Type.String()))
	}
	parts, err := sequence(ci.Content.Bytes)
	if err != nil {
		return nil, err
	}
	// version, digest algorithms, content, [0] certificates, [1] lists, signers
	if len(parts) < 4 {
		return nil, errBER
	}
	var content contentInfo
	if _, err := asn1.Unmarshal(parts[2].FullBytes, &content); err != nil {
		return nil, err
	}
	s := &Signature{}
	var infos []asn1.RawValue
	for _, p := range parts[3:] {
		switch {
		case p.Class == asn1.ClassContextSpecific && p.Tag == 0:
			if err := s.readCertificates(p.Bytes); err != nil {
				return nil, err
			}
		case p.Class == asn1.ClassUniversal && p.Tag == asn1.TagSet:
			if infos, err = elements(p.Bytes); err != nil {
				return nil, err
			}
		}
	}
	if len(infos) != 1 {
		return nil, fmt.Errorf("%d signers, want 1", len(infos))
	}
	var si signerInfo
	if _, err := asn1.Unmarshal(infos[0].FullBytes, &si); err != nil {
		return nil, err
	}
	if err := s.findSigner(si.SID); err != nil {
		return nil, err
	}
	if s.Hash = digest(si.Digest.Algorithm); s.Hash == 0 {
		return nil, fmt.Errorf("unknown digest %s", bound.Clip(si.Digest.Algorithm.String()))
	}
	s.sig, s.alg = si.Signature, si.SigAlg.Algorithm.String()
	s.pss = s.alg == oidRSAPSS
	return s, s.readAttributes(si.Attrs, content.Type)
}

// readCertificates takes the certificates in the document. One that can't be
// read is left out.
func (s *Signature) readCertificates(set []byte) error {
	list, err := elements(set)
	if err != nil {
		return err
	}
	if len(list) > maxCertificates {
		return fmt.Errorf("more than %d certificates", maxCertificates)
	}
	for _, c := range list {
		if len(c.FullBytes) > maxCertificate {
			continue
		}
		if x, err := x509.ParseCertificate(c.FullBytes); err == nil {
			s.Others = append(s.Others, x)
		}
	}
	return nil
}

// findSigner moves the signer's certificate out of Others.
func (s *Signature) findSigner(sid asn1.RawValue) error {
	for i, c := range s.Others {
		if matches(sid, c) {
			s.Signer = c
			s.Others = append(s.Others[:i:i], s.Others[i+1:]...)
			return nil
		}
	}
	return errors.New("certificate of the signer is not included")
}

func (s *Signature) readAttributes(raw asn1.RawValue, content asn1.ObjectIdentifier) error {
	if len(raw.FullBytes) == 0 {
		return nil
	}
	s.attrs = append([]byte{0x31}, raw.FullBytes[1:]...)
	list, err := elements(raw.Bytes)
	if err != nil {
		return err
	}
	var typ asn1.ObjectIdentifier
	for _, v := range list {
		var a attribute
		if _, err := asn1.Unmarshal(v.FullBytes, &a); err != nil {
			return err
		}
		switch a.ID.String() {
		case oidContentType:
			if _, err := asn1.Unmarshal(a.Value.Bytes, &typ); err != nil {
				return err
			}
		case oidMessageDigest:
			if _, err := asn1.Unmarshal(a.Value.Bytes, &s.digest); err != nil {
				return err
			}
		}
	}
	if !typ.Equal(content) || s.digest == nil {
		return errors.New("signed attributes do not match the content")
	}
	return nil
}

// Verify checks the signature over content, and that the signer's chain
// leads to one of roots. The dates of the certificates are not checked
// against the clock (packages outlive their signer's certificate), only that
// the chain was valid when the signer's certificate began.
func (s *Signature) Verify(content io.Reader, roots *x509.CertPool) error {
	if err := s.VerifyContent(content); err != nil {
		return err
	}
	return s.VerifyChain(roots)
}

// VerifyChain is the second half of Verify.
func (s *Signature) VerifyChain(roots *x509.CertPool) error {
	if roots == nil { // would mean those of the system, for any publisher
		return errors.New("verify signer: no roots")
	}
	pool := x509.NewCertPool()
	for _, c := range s.Others {
		pool.AddCert(c)
	}
	_, err := s.Signer.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: pool, CurrentTime: s.Signer.NotBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("verify signer: %w", err)
	}
	return nil
}

// VerifyContent is the first half of Verify.
func (s *Signature) VerifyContent(content io.Reader) error {
	h := s.Hash.New()
	if _, err := io.Copy(h, content); err != nil {
		return fmt.Errorf("verify signature: %w", err)
	}
	sum := h.Sum(nil)
	if s.attrs != nil {
		if !bytes.Equal(sum, s.digest) {
			return errors.New("verify signature: content was changed")
		}
		h := s.Hash.New()
		h.Write(s.attrs)
		sum = h.Sum(nil)
	}
	if err := s.check(sum); err != nil {
		return fmt.Errorf("verify signature: %w", err)
	}
	return nil
}

func (s *Signature) check(sum []byte) error {
	switch pub := s.Signer.PublicKey.(type) {
	case *rsa.PublicKey:
		if s.pss {
			return rsa.VerifyPSS(pub, s.Hash, sum, s.sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: s.Hash})
		}
		return rsa.VerifyPKCS1v15(pub, s.Hash, sum, s.sig)
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(pub, sum, s.sig) {
			return errors.New("wrong")
		}
		return nil
	}
	return errors.New("unknown key type of the signer")
}

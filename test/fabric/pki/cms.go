package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the platform's documents are encrypted so
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the platform's documents are identified so
	"crypto/x509"
	"encoding/asn1"
	"fmt"
)

// Ciphers as a client names them in x-ms-cipher-name, and the one CRP uses for
// virtual machines opted in to FIPS 140-3 (protocol/SPEC.md §5.4).
const (
	CipherAES128 = "AES128_CBC"
	Cipher3DES   = "DES_EDE3_CBC"
	CipherAES256 = "AES256_CBC"
)

// RecipientForm is how an envelope identifies the certificate of its recipient.
type RecipientForm int

// The two forms.
const (
	BySubjectKeyID RecipientForm = iota // the WireServer's
	ByIssuerSerial                      // CRP's, for protected settings
)

// Encrypt encrypts content for cert as CMS EnvelopedData (DER).
//
// With AES128_CBC the content key is encrypted with RSAES-OAEP with empty
// parameters, otherwise with PKCS#1 v1.5, as the WireServer does
// (protocol/SPEC.md §5.2).
func Encrypt(content []byte, cert *x509.Certificate, cipherName string, form RecipientForm) ([]byte, error) {
	pub, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("encrypt to certificate: public key is %T, only rsa can receive an envelope", cert.PublicKey)
	}
	key, algorithm, b, err := contentKey(cipherName)
	if err != nil {
		return nil, err
	}
	iv, encrypted, err := encryptCBC(b, content)
	if err != nil {
		return nil, err
	}
	transport, wrapped, err := wrapKey(key, pub, cipherName)
	if err != nil {
		return nil, err
	}
	version, recipientVersion := int64(2), int64(2)
	if form == ByIssuerSerial {
		version, recipientVersion = 0, 0
	}
	recipient, err := recipientID(cert, form)
	if err != nil {
		return nil, err
	}
	enveloped := derSeq(
		derInt(version),
		derSet(derSeq(derInt(recipientVersion), recipient, transport, derOctets(wrapped))),
		derSeq(
			derOID(1, 2, 840, 113549, 1, 7, 1),
			derSeq(algorithm, derOctets(iv)),
			tlv(contextTag(0, false), encrypted),
		),
	)
	return derSeq(derOID(1, 2, 840, 113549, 1, 7, 3), tlv(contextTag(0, true), enveloped)), nil
}

// contentKey makes a random key for the named cipher.
func contentKey(cipherName string) (key, algorithm []byte, b cipher.Block, err error) {
	var (
		size  int
		block func([]byte) (cipher.Block, error)
	)
	switch cipherName {
	case CipherAES128:
		size, algorithm, block = 16, derOID(2, 16, 840, 1, 101, 3, 4, 1, 2), aes.NewCipher
	case CipherAES256:
		size, algorithm, block = 32, derOID(2, 16, 840, 1, 101, 3, 4, 1, 42), aes.NewCipher
	case Cipher3DES:
		size, algorithm, block = 24, derOID(1, 2, 840, 113549, 3, 7), des.NewTripleDESCipher
	default:
		return nil, nil, nil, fmt.Errorf("encrypt to certificate: unknown cipher %q", cipherName)
	}
	key = make([]byte, size)
	if _, err := rand.Read(key); err != nil {
		return nil, nil, nil, fmt.Errorf("make content key: %w", err)
	}
	if b, err = block(key); err != nil {
		return nil, nil, nil, fmt.Errorf("make content cipher: %w", err)
	}
	return key, algorithm, b, nil
}

// wrapKey encrypts the content key with the key transport that belongs to the
// cipher.
func wrapKey(key []byte, pub *rsa.PublicKey, cipherName string) (transport, wrapped []byte, err error) {
	if cipherName == CipherAES128 {
		transport = derSeq(derOID(1, 2, 840, 113549, 1, 1, 7), derSeq())
		wrapped, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, key, nil)
	} else {
		transport = derSeq(derOID(1, 2, 840, 113549, 1, 1, 1), derNull())
		wrapped, err = rsa.EncryptPKCS1v15(rand.Reader, pub, key) //nolint:staticcheck // what the platform sends
	}
	if err != nil {
		return nil, nil, fmt.Errorf("wrap content key: %w", err)
	}
	return transport, wrapped, nil
}

func recipientID(cert *x509.Certificate, form RecipientForm) ([]byte, error) {
	if form == ByIssuerSerial {
		return derSeq(cert.RawIssuer, derBig(cert.SerialNumber)), nil
	}
	id := cert.SubjectKeyId
	if len(id) == 0 {
		var err error
		if id, err = PublicKeyID(cert); err != nil {
			return nil, err
		}
	}
	return tlv(contextTag(0, false), id), nil
}

// PublicKeyID returns the SHA-1 of the public key's bits, which must be the
// subject key identifier of a transport certificate.
func PublicKeyID(cert *x509.Certificate) ([]byte, error) {
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info); err != nil {
		return nil, fmt.Errorf("read public key of certificate: %w", err)
	}
	sum := sha1.Sum(info.Key.Bytes)
	return sum[:], nil
}

// encryptCBC pads as in PKCS#7 and returns the random initialization vector.
func encryptCBC(b cipher.Block, content []byte) (iv, out []byte, err error) {
	iv = make([]byte, b.BlockSize())
	if _, err := rand.Read(iv); err != nil {
		return nil, nil, fmt.Errorf("make initialization vector: %w", err)
	}
	return iv, cbc(b, iv, content), nil
}

func cbc(b cipher.Block, iv, content []byte) []byte {
	n := b.BlockSize() - len(content)%b.BlockSize()
	out := make([]byte, len(content)+n)
	copy(out, content)
	for i := len(content); i < len(out); i++ {
		out[i] = byte(n)
	}
	cipher.NewCBCEncrypter(b, iv).CryptBlocks(out, out)
	return out
}

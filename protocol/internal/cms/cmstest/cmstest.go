// Package cmstest makes envelopes for tests, in the forms that the platform
// and other writers use.
package cmstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the platform uses it
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the platform uses it
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"hash"
	"math/big"
)

// Options choose the form; the zero value is what the platform sends for
// AES128_CBC.
type Options struct {
	PKCS1  bool   // key transport of PKCS#1 v1.5
	SHA256 bool   // OAEP with SHA-256
	Cipher string // aes128 (default), aes192, aes256, 3des, gcm
	Issuer bool   // name the recipient by issuer and serial number
	// Indefinite writes the outer layers and the content as streaming
	// writers do: without lengths, content in pieces.
	Indefinite bool
}

// Seal encrypts content to the certificate.
func Seal(content []byte, to *x509.Certificate, o Options) []byte {
	size := map[string]int{"": 16, "aes128": 16, "aes192": 24, "aes256": 32, "3des": 24, "gcm": 32}[o.Cipher]
	key := random(size)
	pub := to.PublicKey.(*rsa.PublicKey)

	var rid any
	version := 2
	if o.Issuer {
		version = 0
		rid = struct {
			Issuer asn1.RawValue
			Serial *big.Int
		}{asn1.RawValue{FullBytes: to.RawIssuer}, to.SerialNumber}
	} else {
		rid = asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, Bytes: to.SubjectKeyId}
	}
	alg := pkix.AlgorithmIdentifier{Algorithm: oid(1, 2, 840, 113549, 1, 1, 7), Parameters: asn1.RawValue{FullBytes: []byte{0x30, 0}}}
	var wrapped []byte
	var err error
	switch {
	case o.PKCS1:
		alg = pkix.AlgorithmIdentifier{Algorithm: oid(1, 2, 840, 113549, 1, 1, 1), Parameters: asn1.NullRawValue}
		wrapped, err = rsa.EncryptPKCS1v15(rand.Reader, pub, key) //nolint:staticcheck // the platform uses it
	case o.SHA256:
		h := must(asn1.Marshal(pkix.AlgorithmIdentifier{Algorithm: oid(2, 16, 840, 1, 101, 3, 4, 2, 1), Parameters: asn1.NullRawValue}))
		mgf := must(asn1.Marshal(pkix.AlgorithmIdentifier{Algorithm: oid(1, 2, 840, 113549, 1, 1, 8), Parameters: asn1.RawValue{FullBytes: h}}))
		body := append(tlv(0xa0, h), tlv(0xa1, mgf)...)
		alg.Parameters = asn1.RawValue{FullBytes: tlv(0x30, body)}
		wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, key, nil)
	default:
		wrapped, err = rsa.EncryptOAEP(hash.Hash(sha1.New()), rand.Reader, pub, key, nil) //nolint:gosec // see import
	}
	if err != nil {
		panic(err)
	}
	recipient := must(asn1.Marshal(struct {
		Version int
		RID     any
		Alg     pkix.AlgorithmIdentifier
		Key     []byte
	}{version, rid, alg, wrapped}))
	text, calg, mac := encrypt(content, key, o.Cipher)
	data := tlv(0x80, text)
	if o.Indefinite {
		half := len(text) / 2
		data = append([]byte{0xa0, 0x80}, tlv(0x04, text[:half])...)
		data = append(data, tlv(0x04, text[half:])...)
		data = append(data, 0, 0)
	}
	enc := concat(must(asn1.Marshal(oid(1, 2, 840, 113549, 1, 7, 1))), must(asn1.Marshal(calg)), data)
	typ := oid(1, 2, 840, 113549, 1, 7, 3)
	body := concat(must(asn1.Marshal(2)), tlv(0x31, recipient), tlv(0x30, enc))
	if mac != nil {
		typ = oid(1, 2, 840, 113549, 1, 9, 16, 1, 23)
		body = concat(must(asn1.Marshal(0)), tlv(0x31, recipient), tlv(0x30, enc), tlv(0x04, mac))
	}
	if o.Indefinite {
		in := append(append([]byte{0x30, 0x80}, body...), 0, 0)
		out := concat([]byte{0x30, 0x80}, must(asn1.Marshal(typ)), []byte{0xa0, 0x80}, in)
		return append(out, 0, 0, 0, 0)
	}
	return tlv(0x30, concat(must(asn1.Marshal(typ)), tlv(0xa0, tlv(0x30, body))))
}

func encrypt(content, key []byte, name string) (text []byte, alg pkix.AlgorithmIdentifier, mac []byte) {
	if name == "gcm" {
		nonce := random(12)
		aead := must(cipher.NewGCM(must(aes.NewCipher(key))))
		sealed := aead.Seal(nil, nonce, content, nil)
		params := must(asn1.Marshal(struct {
			Nonce []byte
			Tag   int
		}{nonce, 16}))
		n := len(sealed) - 16
		return sealed[:n], pkix.AlgorithmIdentifier{Algorithm: oid(2, 16, 840, 1, 101, 3, 4, 1, 46), Parameters: asn1.RawValue{FullBytes: params}}, sealed[n:]
	}
	var block cipher.Block
	var id asn1.ObjectIdentifier
	switch name {
	case "3des":
		block, id = must(des.NewTripleDESCipher(key)), oid(1, 2, 840, 113549, 3, 7) //nolint:gosec // see import
	case "aes192":
		block, id = must(aes.NewCipher(key)), oid(2, 16, 840, 1, 101, 3, 4, 1, 22)
	case "aes256":
		block, id = must(aes.NewCipher(key)), oid(2, 16, 840, 1, 101, 3, 4, 1, 42)
	default:
		block, id = must(aes.NewCipher(key)), oid(2, 16, 840, 1, 101, 3, 4, 1, 2)
	}
	n := block.BlockSize() - len(content)%block.BlockSize()
	padded := append(bytes.Clone(content), bytes.Repeat([]byte{byte(n)}, n)...)
	iv := random(block.BlockSize())
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	return padded, pkix.AlgorithmIdentifier{Algorithm: id, Parameters: asn1.RawValue{FullBytes: tlv(0x04, iv)}}, nil
}

func oid(n ...int) asn1.ObjectIdentifier { return n }

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func tlv(tag byte, content []byte) []byte {
	n := len(content)
	switch {
	case n < 0x80:
		return append([]byte{tag, byte(n)}, content...)
	case n < 1<<16:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, content...)
	}
	return append([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, content...)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("cmstest: %v", err))
	}
	return v
}

package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the platform's PFX is encrypted so
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the platform's PFX is authenticated so
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"hash"
	"math/big"
)

const pfxIterations = 2000 // as in the WireServer's PFX (protocol/SPEC.md §5.3)

// EncodePFX makes a PKCS#12 file with the empty password, which is encoded as
// two NUL bytes. With fips it uses PBES2 with AES-256-CBC and a SHA-256 MAC
// instead of 3DES and SHA-1. Certificates are in the given order, keys in
// reverse order, so that a reader cannot pair them by position.
func EncodePFX(entries []*Identity, fips bool) ([]byte, error) {
	var keyBags, certBags [][]byte
	for _, e := range entries {
		attributes := pfxAttributes(e)
		certBags = append(certBags, derSeq(
			derOID(1, 2, 840, 113549, 1, 12, 10, 1, 3),
			tlv(contextTag(0, true), derSeq(
				derOID(1, 2, 840, 113549, 1, 9, 22, 1),
				tlv(contextTag(0, true), derOctets(e.Certificate.Raw)),
			)),
			attributes,
		))
		if e.Key == nil {
			continue
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(e.Key)
		if err != nil {
			return nil, fmt.Errorf("encode private key: %w", err)
		}
		algorithm, encrypted, err := pfxEncrypt(pkcs8, fips)
		if err != nil {
			return nil, err
		}
		keyBags = append([][]byte{derSeq(
			derOID(1, 2, 840, 113549, 1, 12, 10, 1, 2),
			tlv(contextTag(0, true), derSeq(algorithm, derOctets(encrypted))),
			attributes,
		)}, keyBags...)
	}

	algorithm, encrypted, err := pfxEncrypt(derSeq(certBags...), fips)
	if err != nil {
		return nil, err
	}
	data := derOID(1, 2, 840, 113549, 1, 7, 1)
	safe := derSeq(
		derSeq(data, tlv(contextTag(0, true), derOctets(derSeq(keyBags...)))),
		derSeq(derOID(1, 2, 840, 113549, 1, 7, 6), tlv(contextTag(0, true), derSeq(
			derInt(0),
			derSeq(data, algorithm, tlv(contextTag(0, false), encrypted)),
		))),
	)

	mac, err := pfxMAC(safe, fips)
	if err != nil {
		return nil, err
	}
	return derSeq(derInt(3), derSeq(data, tlv(contextTag(0, true), derOctets(safe))), mac), nil
}

func pfxMAC(safe []byte, fips bool) ([]byte, error) {
	newHash, digest, size := sha1.New, derOID(1, 3, 14, 3, 2, 26), 20
	if fips {
		newHash, digest, size = sha256.New, derOID(2, 16, 840, 1, 101, 3, 4, 2, 1), 32
	}
	salt := make([]byte, 20)
	if _, err := rand.Read(salt); err != nil {
		return nil, fmt.Errorf("make salt: %w", err)
	}
	mac := hmac.New(newHash, pkcs12KDF(newHash, 3, salt, pfxIterations, size))
	mac.Write(safe)
	return derSeq(derSeq(derSeq(digest, derNull()), derOctets(mac.Sum(nil))), derOctets(salt), derInt(pfxIterations)), nil
}

func pfxAttributes(e *Identity) []byte {
	id := sha1.Sum(e.Certificate.Raw)
	attributes := [][]byte{derSeq(
		derOID(1, 2, 840, 113549, 1, 9, 21), // localKeyID: links key and certificate
		derSet(derOctets(id[:])),
	)}
	if e.FriendlyName != "" {
		attributes = append(attributes, derSeq(
			derOID(1, 2, 840, 113549, 1, 9, 20),
			derSet(derBMP(e.FriendlyName)),
		))
	}
	return derSet(attributes...)
}

func pfxEncrypt(plain []byte, fips bool) (algorithm, encrypted []byte, err error) {
	if fips {
		salt := make([]byte, 16)
		if _, err := rand.Read(salt); err != nil {
			return nil, nil, fmt.Errorf("make salt: %w", err)
		}
		// OpenSSL and Windows both encode the empty PBES2 password as zero
		// bytes.
		key, err := pbkdf2.Key(sha256.New, "", salt, pfxIterations, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("derive key: %w", err)
		}
		b, err := aes.NewCipher(key)
		if err != nil {
			return nil, nil, fmt.Errorf("make cipher: %w", err)
		}
		iv, out, err := encryptCBC(b, plain)
		if err != nil {
			return nil, nil, err
		}
		return derSeq(derOID(1, 2, 840, 113549, 1, 5, 13), derSeq(
			derSeq(derOID(1, 2, 840, 113549, 1, 5, 12), derSeq(
				derOctets(salt), derInt(pfxIterations),
				derSeq(derOID(1, 2, 840, 113549, 2, 9), derNull()),
			)),
			derSeq(derOID(2, 16, 840, 1, 101, 3, 4, 1, 42), derOctets(iv)),
		)), out, nil
	}

	salt := make([]byte, 20)
	if _, err := rand.Read(salt); err != nil {
		return nil, nil, fmt.Errorf("make salt: %w", err)
	}
	b, err := des.NewTripleDESCipher(pkcs12KDF(sha1.New, 1, salt, pfxIterations, 24))
	if err != nil {
		return nil, nil, fmt.Errorf("make cipher: %w", err)
	}
	iv := pkcs12KDF(sha1.New, 2, salt, pfxIterations, 8)
	return derSeq(derOID(1, 2, 840, 113549, 1, 12, 1, 3), derSeq(derOctets(salt), derInt(pfxIterations))),
		cbc(cipher.Block(b), iv, plain), nil
}

// pkcs12KDF is the key derivation of RFC 7292 appendix B.2 for the password of
// two NUL bytes. purpose is 1 for a key, 2 for an initialization vector, 3 for
// a MAC key. Both hashes used here have 64-byte blocks.
func pkcs12KDF(newHash func() hash.Hash, purpose byte, salt []byte, iterations, size int) []byte {
	const block = 64
	fill := func(b []byte) []byte {
		n := (len(b) + block - 1) / block * block
		out := make([]byte, n)
		for i := range out {
			out[i] = b[i%len(b)]
		}
		return out
	}
	diversifier := fill([]byte{purpose})
	state := append(fill(salt), fill([]byte{0, 0})...)

	var out []byte
	for len(out) < size {
		h := newHash()
		h.Write(diversifier)
		h.Write(state)
		a := h.Sum(nil)
		for range iterations - 1 {
			h := newHash()
			h.Write(a)
			a = h.Sum(nil)
		}
		out = append(out, a...)

		b := new(big.Int).SetBytes(fill(a)[:block])
		b.Add(b, big.NewInt(1))
		mod := new(big.Int).Lsh(big.NewInt(1), block*8)
		for i := 0; i < len(state); i += block {
			v := new(big.Int).SetBytes(state[i : i+block])
			v.Add(v, b).Mod(v, mod)
			v.FillBytes(state[i : i+block])
		}
	}
	return out[:size]
}

package cms

import (
	"bytes"
	"crypto"
	"crypto/des" //nolint:gosec // the platform's PFX uses it, protocol/SPEC.md §5.3
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/azguest/azguest/agent/bound"
)

// bmp is the password in the form that key derivation needs: UTF-16 with a
// terminating zero.
func bmp(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = append(out, byte(u>>8), byte(u))
	}
	return append(out, 0, 0)
}

func fromBMP(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u = append(u, uint16(b[i])<<8|uint16(b[i+1]))
	}
	return strings.TrimRight(string(utf16.Decode(u)), "\x00")
}

// verify checks the MAC, and puts the encoding of the password with which it
// is right first.
func (r *reader) verify(mac, content []byte) bool {
	if len(mac) == 0 {
		return false
	}
	var m struct {
		Digest struct {
			Alg    pkix.AlgorithmIdentifier
			Digest []byte
		}
		Salt       []byte
		Iterations int `asn1:"optional,default:1"`
	}
	if _, err := asn1.Unmarshal(mac, &m); err != nil {
		r.note("mac: %v", err)
		return false
	}
	h := digest(m.Digest.Alg.Algorithm)
	if h == 0 {
		r.note("mac type %s is not checked", m.Digest.Alg.Algorithm)
		return false
	}
	for i, pw := range r.passwords {
		if err := r.afford(m.Iterations); err != nil {
			r.note("mac: %v", err)
			return false
		}
		k := kdf(h, 3, pw, m.Salt, m.Iterations, h.Size())
		w := hmac.New(h.New, k)
		w.Write(content)
		if hmac.Equal(w.Sum(nil), m.Digest.Digest) {
			r.passwords[0], r.passwords[i] = r.passwords[i], r.passwords[0]
			return true
		}
	}
	r.note("mac is wrong")
	return false
}

// decrypt opens password-based encryption; it tries each encoding of the
// password.
func (r *reader) decrypt(alg pkix.AlgorithmIdentifier, text []byte) ([]byte, error) {
	var last error
	for _, pw := range r.passwords {
		out, err := r.decryptPBE(alg, text, pw)
		if err == nil {
			// A wrong key passes the padding check once in 256 times.
			var v asn1.RawValue
			if _, err = asn1.Unmarshal(out, &v); err == nil {
				return out, nil
			}
		}
		last = err
	}
	return nil, last
}

func (r *reader) decryptPBE(alg pkix.AlgorithmIdentifier, text, pw []byte) ([]byte, error) {
	id := alg.Algorithm.String()
	if id == oidPBES2 {
		return r.decryptPBES2(alg.Parameters.FullBytes, text)
	}
	size := map[string]int{oidPBE3DES: 24, oidPBE2DES: 16, oidPBE128RC2: 16, oidPBE40RC2: 5}[id]
	if size == 0 {
		return nil, fmt.Errorf("unknown password-based encryption %s", bound.Clip(id))
	}
	var p struct {
		Salt       []byte
		Iterations int
	}
	if _, err := asn1.Unmarshal(alg.Parameters.FullBytes, &p); err != nil {
		return nil, err
	}
	if err := r.afford(p.Iterations); err != nil {
		return nil, err
	}
	k := kdf(crypto.SHA1, 1, pw, p.Salt, p.Iterations, size)
	iv := kdf(crypto.SHA1, 2, pw, p.Salt, p.Iterations, 8)
	if id == oidPBE128RC2 || id == oidPBE40RC2 {
		return cbc(newRC2(k, 8*size), iv, text)
	}
	if id == oidPBE2DES {
		k = append(k, k[:8]...)
	}
	block, err := des.NewTripleDESCipher(k) //nolint:gosec // see import
	if err != nil {
		return nil, err
	}
	return cbc(block, iv, text)
}

func (r *reader) decryptPBES2(params, text []byte) ([]byte, error) {
	var p struct {
		KDF, Enc pkix.AlgorithmIdentifier
	}
	if _, err := asn1.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	if p.KDF.Algorithm.String() != oidPBKDF2 {
		return nil, fmt.Errorf("unknown key derivation %s", bound.Clip(p.KDF.Algorithm.String()))
	}
	var k struct {
		Salt       []byte
		Iterations int
		Length     int                      `asn1:"optional"`
		PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(p.KDF.Parameters.FullBytes, &k); err != nil {
		return nil, err
	}
	if err := r.afford(k.Iterations); err != nil {
		return nil, err
	}
	h := crypto.SHA1
	if k.PRF.Algorithm != nil {
		if h = digest(k.PRF.Algorithm); h == 0 {
			return nil, fmt.Errorf("unknown key derivation function %s", k.PRF.Algorithm)
		}
	}
	var n int
	switch enc := p.Enc.Algorithm.String(); enc {
	case oidDES3, oidAES192CBC:
		n = 24
	case oidAES128CBC:
		n = 16
	case oidAES256CBC:
		n = 32
	default:
		return nil, fmt.Errorf("unknown cipher %s", bound.Clip(enc))
	}
	dk, err := pbkdf2.Key(h.New, r.plain, k.Salt, k.Iterations, n)
	if err != nil {
		return nil, err
	}
	return decryptCBC(p.Enc.Algorithm.String(), p.Enc.Parameters.FullBytes, dk, text)
}

// kdf is the key derivation of RFC 7292 appendix B; id is 1 for a key, 2 for
// an initialisation vector, 3 for a MAC.
func kdf(h crypto.Hash, id byte, password, salt []byte, iterations, size int) []byte {
	v := h.New().BlockSize()
	fill := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		n := (len(b) + v - 1) / v * v
		out := make([]byte, n)
		for i := range out {
			out[i] = b[i%len(b)]
		}
		return out
	}
	d := bytes.Repeat([]byte{id}, v)
	in := append(fill(salt), fill(password)...)
	var out []byte
	for {
		w := h.New()
		w.Write(d)
		w.Write(in)
		a := w.Sum(nil)
		for range iterations - 1 {
			a = sum(h, a)
		}
		if out = append(out, a...); len(out) >= size {
			return out[:size]
		}
		// Each block of the input is increased by the hash, repeated, plus 1.
		b := fill(a)[:v]
		for j := 0; j < len(in); j += v {
			carry := 1
			for k := v - 1; k >= 0; k-- {
				carry += int(in[j+k]) + int(b[k])
				in[j+k] = byte(carry)
				carry >>= 8
			}
		}
	}
}

func sum(h crypto.Hash, b []byte) []byte {
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}

package cms

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the platform encrypts with it, protocol/SPEC.md §5.2
	"crypto/rsa"
	"crypto/sha1"     //nolint:gosec // key identifiers are SHA-1, protocol/SPEC.md §5.1
	_ "crypto/sha256" // makes the hashes available by number
	_ "crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/azguest/azguest/agent/bound"
)

// OIDs by name; dotted text is what errors show.
const (
	oidData          = "1.2.840.113549.1.7.1"
	oidSignedData    = "1.2.840.113549.1.7.2"
	oidEnveloped     = "1.2.840.113549.1.7.3"
	oidEncryptedData = "1.2.840.113549.1.7.6"
	oidAuthEnveloped = "1.2.840.113549.1.9.16.1.23"

	oidRSA   = "1.2.840.113549.1.1.1"
	oidOAEP  = "1.2.840.113549.1.1.7"
	oidMGF1  = "1.2.840.113549.1.1.8"
	oidPSpec = "1.2.840.113549.1.1.9"

	oidDES3      = "1.2.840.113549.3.7"
	oidAES128CBC = "2.16.840.1.101.3.4.1.2"
	oidAES128GCM = "2.16.840.1.101.3.4.1.6"
	oidAES192CBC = "2.16.840.1.101.3.4.1.22"
	oidAES192GCM = "2.16.840.1.101.3.4.1.26"
	oidAES256CBC = "2.16.840.1.101.3.4.1.42"
	oidAES256GCM = "2.16.840.1.101.3.4.1.46"

	oidSHA1   = "1.3.14.3.2.26"
	oidSHA256 = "2.16.840.1.101.3.4.2.1"
	oidSHA384 = "2.16.840.1.101.3.4.2.2"
	oidSHA512 = "2.16.840.1.101.3.4.2.3"
	oidSHA224 = "2.16.840.1.101.3.4.2.4"
)

// ErrNotForUs means that no recipient could be opened with the given keys.
var ErrNotForUs = errors.New("not encrypted for any of the agent's keys")

// A Key opens envelopes. The certificate is optional: it only decides which
// recipient is tried first, as the platform's way of naming recipients is
// not documented (protocol/SPEC.md §5.1).
type Key struct {
	RSA  *rsa.PrivateKey
	Cert *x509.Certificate
}

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0,optional"`
}

type recipient struct {
	Version int
	RID     asn1.RawValue
	Alg     pkix.AlgorithmIdentifier
	Key     []byte
}

type encrypted struct {
	Type    asn1.ObjectIdentifier
	Alg     pkix.AlgorithmIdentifier
	Content asn1.RawValue `asn1:"optional"`
}

type envelope struct {
	recipients []recipient
	enc        encrypted
	mac        []byte
	authAttrs  []byte // DER with the tag of a SET
}

// Decrypt opens EnvelopedData or AuthEnvelopedData and returns the content.
func Decrypt(in []byte, keys ...Key) ([]byte, error) {
	env, err := parseEnvelope(in)
	if err != nil {
		return nil, fmt.Errorf("parse envelope: %w", err)
	}
	var last error
	for _, named := range []bool{true, false} {
		for _, r := range env.recipients {
			for _, k := range keys {
				if k.RSA == nil || named != matches(r.RID, k.Cert) {
					continue
				}
				cek, err := unwrap(r, k.RSA)
				if err != nil {
					last = err
					continue
				}
				out, err := env.open(cek)
				if err == nil {
					return out, nil
				}
				last = err
			}
		}
	}
	if last == nil {
		return nil, ErrNotForUs
	}
	return nil, fmt.Errorf("%w: %w", ErrNotForUs, last)
}

func parseEnvelope(in []byte) (*envelope, error) {
	der, err := normalize(in)
	if err != nil {
		return nil, err
	}
	var ci contentInfo
	if _, err := asn1.Unmarshal(der, &ci); err != nil {
		return nil, err
	}
	typ := ci.Type.String()
	if typ != oidEnveloped && typ != oidAuthEnveloped {
		return nil, fmt.Errorf("content type %s is not an envelope", bound.Clip(typ))
	}
	parts, err := sequence(ci.Content.Bytes)
	if err != nil {
		return nil, err
	}
	env := &envelope{}
	// version, [0] originator, SET of recipients, SEQUENCE of content, …
	for i, p := range parts {
		switch {
		case p.Class == asn1.ClassUniversal && p.Tag == asn1.TagSet && env.recipients == nil:
			if err := env.readRecipients(p.Bytes); err != nil {
				return nil, err
			}
		case p.Class == asn1.ClassUniversal && p.Tag == asn1.TagSequence:
			if _, err := asn1.Unmarshal(p.FullBytes, &env.enc); err != nil {
				return nil, fmt.Errorf("encrypted content: %w", err)
			}
		case typ == oidAuthEnveloped && p.Class == asn1.ClassContextSpecific && p.Tag == 1:
			env.authAttrs = append([]byte{0x31}, p.FullBytes[1:]...)
		case typ == oidAuthEnveloped && p.Class == asn1.ClassUniversal && p.Tag == asn1.TagOctetString && i > 0:
			env.mac = p.Bytes
		}
	}
	if len(env.recipients) == 0 {
		return nil, errors.New("no recipient with a transported key")
	}
	if env.enc.Alg.Algorithm == nil {
		return nil, errors.New("no encrypted content")
	}
	return env, nil
}

// readRecipients keeps the recipients whose key is transported (encrypted with
// RSA); other kinds can't be used with an RSA key.
func (env *envelope) readRecipients(set []byte) error {
	list, err := elements(set)
	if err != nil {
		return err
	}
	for _, v := range list {
		if v.Class != asn1.ClassUniversal || v.Tag != asn1.TagSequence {
			continue
		}
		if len(env.recipients) == maxRecipients {
			return fmt.Errorf("more than %d recipients", maxRecipients)
		}
		var r recipient
		if _, err := asn1.Unmarshal(v.FullBytes, &r); err == nil {
			env.recipients = append(env.recipients, r)
		}
	}
	return nil
}

// sequence returns the elements of the SEQUENCE in b.
func sequence(b []byte) ([]asn1.RawValue, error) {
	var seq asn1.RawValue
	if _, err := asn1.Unmarshal(b, &seq); err != nil {
		return nil, err
	}
	if seq.Tag != asn1.TagSequence || seq.Class != asn1.ClassUniversal {
		return nil, errBER
	}
	return elements(seq.Bytes)
}

func elements(b []byte) ([]asn1.RawValue, error) {
	var out []asn1.RawValue
	for len(b) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(b, &v)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		b = rest
	}
	return out, nil
}

// matches reports whether the recipient names the certificate.
func matches(rid asn1.RawValue, c *x509.Certificate) bool {
	if c == nil {
		return false
	}
	if rid.Class == asn1.ClassContextSpecific && rid.Tag == 0 {
		return bytes.Equal(rid.Bytes, c.SubjectKeyId) || bytes.Equal(rid.Bytes, KeyID(c))
	}
	var is struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	if _, err := asn1.Unmarshal(rid.FullBytes, &is); err != nil {
		return false
	}
	return bytes.Equal(is.Issuer.FullBytes, c.RawIssuer) && is.Serial.Cmp(c.SerialNumber) == 0
}

// KeyID is the SHA-1 of the public key's bit string, by which the platform
// names recipients.
func KeyID(c *x509.Certificate) []byte {
	var spki struct {
		Alg pkix.AlgorithmIdentifier
		Key asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		return nil
	}
	sum := sha1.Sum(spki.Key.RightAlign()) //nolint:gosec // see import
	return sum[:]
}

// PublicKeyID is KeyID for a key that has no certificate yet.
func PublicKeyID(k *rsa.PublicKey) []byte {
	sum := sha1.Sum(x509.MarshalPKCS1PublicKey(k)) //nolint:gosec // see import
	return sum[:]
}

// unwrap decrypts the content key.
func unwrap(r recipient, key *rsa.PrivateKey) ([]byte, error) {
	switch alg := r.Alg.Algorithm.String(); alg {
	case oidRSA:
		// The platform requires it. A padding oracle attack needs many answers
		// to chosen messages, which an attacker does not get here.
		return key.Decrypt(nil, r.Key, &rsa.PKCS1v15DecryptOptions{}) //nolint:staticcheck // deprecated for new protocols; this one is the platform's
	case oidOAEP:
		opt, err := oaep(r.Alg.Parameters.FullBytes)
		if err != nil {
			return nil, err
		}
		return key.Decrypt(nil, r.Key, opt)
	default:
		return nil, fmt.Errorf("unknown key transport %s", bound.Clip(alg))
	}
}

// oaep reads RSAES-OAEP-params; every part has the default of RFC 4055:
// SHA-1, MGF1 with SHA-1, empty label.
func oaep(params []byte) (*rsa.OAEPOptions, error) {
	opt := &rsa.OAEPOptions{Hash: crypto.SHA1, MGFHash: crypto.SHA1}
	if len(params) == 0 || params[0] == asn1.TagNull {
		return opt, nil
	}
	parts, err := sequence(params)
	if err != nil {
		return nil, fmt.Errorf("OAEP parameters: %w", err)
	}
	for _, p := range parts {
		var alg pkix.AlgorithmIdentifier
		if _, err := asn1.Unmarshal(p.Bytes, &alg); err != nil {
			return nil, fmt.Errorf("OAEP parameters: %w", err)
		}
		switch p.Tag {
		case 0:
			opt.Hash = digest(alg.Algorithm)
		case 1:
			var h pkix.AlgorithmIdentifier
			if _, err := asn1.Unmarshal(alg.Parameters.FullBytes, &h); err != nil || alg.Algorithm.String() != oidMGF1 {
				return nil, errors.New("OAEP parameters: unknown mask generation function")
			}
			opt.MGFHash = digest(h.Algorithm)
		case 2:
			var label []byte
			if _, err := asn1.Unmarshal(alg.Parameters.FullBytes, &label); err != nil || alg.Algorithm.String() != oidPSpec {
				return nil, errors.New("OAEP parameters: unknown label source")
			}
			opt.Label = label
		}
	}
	if opt.Hash == 0 || opt.MGFHash == 0 {
		return nil, errors.New("OAEP parameters: unknown hash")
	}
	return opt, nil
}

// digest returns the hash for its own OID or that of its HMAC; 0 if it is
// unknown.
func digest(oid asn1.ObjectIdentifier) crypto.Hash {
	switch oid.String() {
	case oidSHA1, oidHMACSHA1:
		return crypto.SHA1
	case oidSHA224, oidHMACSHA224:
		return crypto.SHA224
	case oidSHA256, oidHMACSHA256:
		return crypto.SHA256
	case oidSHA384, oidHMACSHA384:
		return crypto.SHA384
	case oidSHA512, oidHMACSHA512:
		return crypto.SHA512
	}
	return 0
}

// open decrypts the content with the content key.
func (env *envelope) open(cek []byte) ([]byte, error) {
	text := env.enc.Content.Bytes
	if env.enc.Content.IsCompound { // [0] IMPLICIT OCTET STRING in pieces
		pieces, err := elements(text)
		if err != nil {
			return nil, err
		}
		text = nil
		for _, p := range pieces {
			text = append(text, p.Bytes...)
		}
	}
	alg := env.enc.Alg.Algorithm.String()
	switch alg {
	case oidAES128GCM, oidAES192GCM, oidAES256GCM:
		return env.openGCM(cek, append(bytes.Clone(text), env.mac...))
	}
	return decryptCBC(alg, env.enc.Alg.Parameters.FullBytes, cek, text)
}

func (env *envelope) openGCM(cek, text []byte) ([]byte, error) {
	var p struct {
		Nonce []byte
		Tag   int `asn1:"optional,default:12"`
	}
	if _, err := asn1.Unmarshal(env.enc.Alg.Parameters.FullBytes, &p); err != nil {
		return nil, fmt.Errorf("GCM parameters: %w", err)
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	var aead cipher.AEAD
	switch {
	case p.Tag == 16 && len(p.Nonce) == 12:
		aead, err = cipher.NewGCM(block)
	case p.Tag == 16 && len(p.Nonce) > 0:
		aead, err = cipher.NewGCMWithNonceSize(block, len(p.Nonce))
	case len(p.Nonce) == 12 && p.Tag >= 12 && p.Tag < 16:
		aead, err = cipher.NewGCMWithTagSize(block, p.Tag)
	default:
		err = errors.New("GCM parameters are not usable")
	}
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, p.Nonce, text, env.authAttrs)
}

// decryptCBC decrypts and removes the padding.
func decryptCBC(alg string, params, key, text []byte) ([]byte, error) {
	var iv []byte
	if _, err := asn1.Unmarshal(params, &iv); err != nil {
		return nil, fmt.Errorf("initialisation vector: %w", err)
	}
	var block cipher.Block
	var err error
	switch alg {
	case oidDES3:
		block, err = des.NewTripleDESCipher(key) //nolint:gosec // see import
	case oidAES128CBC, oidAES192CBC, oidAES256CBC:
		block, err = aes.NewCipher(key)
	default:
		return nil, fmt.Errorf("unknown cipher %s", bound.Clip(alg))
	}
	if err != nil {
		return nil, err
	}
	return cbc(block, iv, text)
}

func cbc(block cipher.Block, iv, text []byte) ([]byte, error) {
	size := block.BlockSize()
	if len(iv) != size || len(text) == 0 || len(text)%size != 0 {
		return nil, errors.New("invalid length of encrypted content")
	}
	out := make([]byte, len(text))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(out, text)
	n := int(out[len(out)-1])
	if n == 0 || n > size {
		return nil, errors.New("invalid padding")
	}
	for _, b := range out[len(out)-n:] {
		if int(b) != n {
			return nil, errors.New("invalid padding")
		}
	}
	return out[:len(out)-n], nil
}

package cms

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/sha1" //nolint:gosec // thumbprints and the PKCS#12 KDF are SHA-1
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/bound"
)

const (
	oidKeyBag      = "1.2.840.113549.1.12.10.1.1"
	oidShroudedBag = "1.2.840.113549.1.12.10.1.2"
	oidCertBag     = "1.2.840.113549.1.12.10.1.3"
	oidNestedBag   = "1.2.840.113549.1.12.10.1.6"
	oidX509Cert    = "1.2.840.113549.1.9.22.1"
	oidFriendly    = "1.2.840.113549.1.9.20"
	oidLocalKey    = "1.2.840.113549.1.9.21"
	oidPBE3DES     = "1.2.840.113549.1.12.1.3"
	oidPBE2DES     = "1.2.840.113549.1.12.1.4"
	oidPBE128RC2   = "1.2.840.113549.1.12.1.5"
	oidPBE40RC2    = "1.2.840.113549.1.12.1.6"
	oidPBES2       = "1.2.840.113549.1.5.13"
	oidPBKDF2      = "1.2.840.113549.1.5.12"
	oidHMACSHA1    = "1.2.840.113549.2.7"
	oidHMACSHA224  = "1.2.840.113549.2.8"
	oidHMACSHA256  = "1.2.840.113549.2.9"
	oidHMACSHA384  = "1.2.840.113549.2.10"
	oidHMACSHA512  = "1.2.840.113549.2.11"

	// One packet may cost this many rounds of key derivation in all, less
	// than a second; the platform uses 2000 for each bag.
	maxIterations = 1 << 20
	maxBags       = 512
)

// A Pair is a certificate from a PFX, with its key if there was one.
type Pair struct {
	Thumbprint string // SHA-1 of the DER, upper-case hex
	Name       string // friendly name
	Cert       []byte // DER
	Key        []byte // PKCS#8 DER, nil without one
}

// CertPEM is the certificate as PEM.
func (p Pair) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Cert})
}

// KeyPEM is the key as PEM, or nil.
func (p Pair) KeyPEM() []byte {
	if p.Key == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p.Key})
}

// A PFX is the content of a packet. Notes say what could not be used; the rest
// can be used nevertheless (protocol/SPEC.md §5.3).
type PFX struct {
	Pairs []Pair
	// Verified: there was a MAC and it is right. A MAC that is wrong or of
	// an unknown kind is a note: the platform's own channel has no better
	// protection, and some systems may not compute it (FIPS).
	Verified bool
	Notes    []string
}

type bag struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue `asn1:"explicit,tag:0"`
	Attrs []attribute   `asn1:"set,optional"`
}

type attribute struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

type key struct {
	der, local []byte
	pub        crypto.PublicKey // nil if Go can't parse it
}

type cert struct {
	der, local []byte
	name       string
}

// reader collects what a packet holds.
type reader struct {
	passwords [][]byte // encodings to try, first the one that worked
	plain     string
	keys      []key
	certs     []cert
	notes     []string
	bags      int
	rounds    int // of key derivation that are left
}

// afford counts the rounds of a key derivation against the limit.
func (r *reader) afford(iterations int) error {
	if iterations < 1 || iterations > r.rounds {
		return fmt.Errorf("%d iterations", iterations)
	}
	r.rounds -= iterations
	return nil
}

// ParsePFX opens a PKCS#12 packet. The platform's password is empty, which
// in the key derivation is two zero bytes (protocol/SPEC.md §5.3); no bytes at
// all is tried too.
func ParsePFX(in []byte, password string) (*PFX, error) { return parsePFX(in, password, maxIterations) }

func parsePFX(in []byte, password string, rounds int) (*PFX, error) {
	der, err := normalize(in)
	if err != nil {
		return nil, fmt.Errorf("parse pfx: %w", err)
	}
	var doc struct {
		Version int
		Safe    contentInfo
		MAC     asn1.RawValue `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &doc); err != nil {
		return nil, fmt.Errorf("parse pfx: %w", err)
	}
	r := &reader{plain: password, rounds: rounds, passwords: [][]byte{bmp(password)}}
	if password == "" {
		r.passwords = append(r.passwords, nil)
	}
	var safe []byte
	if _, err := asn1.Unmarshal(doc.Safe.Content.Bytes, &safe); err != nil {
		return nil, fmt.Errorf("parse pfx: authenticated safe: %w", err)
	}
	out := &PFX{Verified: r.verify(doc.MAC.FullBytes, safe)}
	if safe, err = normalize(safe); err != nil {
		return nil, fmt.Errorf("parse pfx: authenticated safe: %w", err)
	}
	parts, err := sequence(safe)
	if err != nil {
		return nil, fmt.Errorf("parse pfx: authenticated safe: %w", err)
	}
	for i, p := range parts {
		if err := r.safe(p.FullBytes); err != nil {
			r.note("part %d: %v", i, err)
		}
	}
	if len(r.certs) == 0 {
		return nil, fmt.Errorf("parse pfx: nothing readable: %s", strings.Join(r.notes, "; "))
	}
	out.Pairs = r.pairs()
	out.Notes = r.notes
	return out, nil
}

func (r *reader) note(format string, a ...any) {
	if len(r.notes) < 32 {
		r.notes = append(r.notes, bound.Clip(fmt.Sprintf(format, a...)))
	}
}

// safe reads one ContentInfo: plain bags or encrypted ones.
func (r *reader) safe(b []byte) error {
	var ci contentInfo
	if _, err := asn1.Unmarshal(b, &ci); err != nil {
		return err
	}
	switch t := ci.Type.String(); t {
	case oidData:
		var plain []byte
		if _, err := asn1.Unmarshal(ci.Content.Bytes, &plain); err != nil {
			return err
		}
		return r.contents(plain, 0)
	case oidEncryptedData:
		var ed struct {
			Version int
			Enc     encrypted
		}
		if _, err := asn1.Unmarshal(ci.Content.Bytes, &ed); err != nil {
			return err
		}
		env := envelope{enc: ed.Enc}
		text := env.enc.Content.Bytes
		if env.enc.Content.IsCompound {
			pieces, err := elements(text)
			if err != nil {
				return err
			}
			text = nil
			for _, p := range pieces {
				text = append(text, p.Bytes...)
			}
		}
		plain, err := r.decrypt(ed.Enc.Alg, text)
		if err != nil {
			return err
		}
		return r.contents(plain, 0)
	default:
		return fmt.Errorf("unknown content type %s", bound.Clip(t))
	}
}

// contents reads SafeContents; a bag that can't be read is a note.
func (r *reader) contents(b []byte, depth int) error {
	if depth > 4 {
		return errors.New("bags nested too deeply")
	}
	b, err := normalize(b)
	if err != nil {
		return err
	}
	list, err := sequence(b)
	if err != nil {
		return err
	}
	for i, v := range list {
		if r.bags++; r.bags > maxBags {
			return errors.New("too many bags")
		}
		var bg bag
		if _, err := asn1.Unmarshal(v.FullBytes, &bg); err != nil {
			r.note("bag %d: %v", i, err)
			continue
		}
		if err := r.bag(bg, depth); err != nil {
			r.note("bag %d: %v", i, err)
		}
	}
	return nil
}

func (r *reader) bag(b bag, depth int) error {
	name, local := attributes(b.Attrs)
	switch id := b.ID.String(); id {
	case oidKeyBag:
		r.addKey(b.Value.Bytes, local)
	case oidShroudedBag:
		var e struct {
			Alg  pkix.AlgorithmIdentifier
			Data []byte
		}
		if _, err := asn1.Unmarshal(b.Value.Bytes, &e); err != nil {
			return err
		}
		plain, err := r.decrypt(e.Alg, e.Data)
		if err != nil {
			return err
		}
		r.addKey(plain, local)
	case oidCertBag:
		var c struct {
			Type asn1.ObjectIdentifier
			Data []byte `asn1:"explicit,tag:0"`
		}
		if _, err := asn1.Unmarshal(b.Value.Bytes, &c); err != nil {
			return err
		}
		if c.Type.String() != oidX509Cert {
			return fmt.Errorf("unknown certificate type %s", c.Type)
		}
		if err := tooLarge("certificate", len(c.Data), maxCertificate); err != nil {
			return err
		}
		r.certs = append(r.certs, cert{der: c.Data, local: local, name: name})
	case oidNestedBag:
		return r.contents(b.Value.Bytes, depth+1)
	default:
		return fmt.Errorf("unknown bag type %s", id)
	}
	return nil
}

func (r *reader) addKey(p8, local []byte) {
	var v asn1.RawValue
	if rest, err := asn1.Unmarshal(p8, &v); err != nil || v.Tag != asn1.TagSequence {
		r.note("key is not PKCS#8")
		return
	} else if len(rest) > 0 {
		p8 = p8[:len(p8)-len(rest)]
	}
	if err := tooLarge("key", len(p8), maxKey); err != nil || len(r.keys) == maxKeys {
		r.note("key skipped: %v", cmp.Or(err, fmt.Errorf("more than %d", maxKeys)))
		return
	}
	k := key{der: p8, local: local}
	if priv, err := x509.ParsePKCS8PrivateKey(p8); err == nil {
		if p, ok := priv.(interface{ Public() crypto.PublicKey }); ok {
			k.pub = p.Public()
		}
	}
	r.keys = append(r.keys, k)
}

func attributes(attrs []attribute) (name string, local []byte) {
	for _, a := range attrs {
		vals, err := elements(a.Value.Bytes)
		if err != nil || len(vals) == 0 {
			continue
		}
		switch a.ID.String() {
		case oidFriendly:
			name = fromBMP(vals[0].Bytes)
		case oidLocalKey:
			local = vals[0].Bytes
		}
	}
	return name, local
}

// pairs joins keys and certificates by public key, and where Go can't read
// one of them by the packet's own link.
func (r *reader) pairs() []Pair {
	used := make([]bool, len(r.keys))
	var out []Pair
	for _, c := range r.certs {
		sum := sha1.Sum(c.der) //nolint:gosec // see import
		p := Pair{Thumbprint: strings.ToUpper(hex.EncodeToString(sum[:])), Name: c.name, Cert: c.der}
		x, err := x509.ParseCertificate(c.der)
		if err != nil {
			r.note("certificate %s: %v", p.Thumbprint, err)
		}
		for i, k := range r.keys {
			match := false
			switch {
			case x != nil && x.PublicKey != nil && k.pub != nil:
				pub, ok := k.pub.(interface{ Equal(crypto.PublicKey) bool })
				match = ok && pub.Equal(x.PublicKey)
			case len(k.local) > 0:
				match = bytes.Equal(k.local, c.local)
			}
			if match {
				p.Key, used[i] = k.der, true
				break
			}
		}
		if i := slices.IndexFunc(out, func(o Pair) bool { return o.Thumbprint == p.Thumbprint }); i >= 0 {
			if out[i].Key == nil {
				out[i] = p
			}
			continue
		}
		out = append(out, p)
	}
	for i, u := range used {
		if !u {
			r.note("key %d has no matching certificate", i)
		}
	}
	return out
}

package pki

import (
	"encoding/asn1"
	"math/big"
	"unicode/utf16"
)

// The platform's envelopes use features of ASN.1 that encoding/asn1 can hardly
// marshal (implicit primitive content, CHOICEs, raw names), so they are
// assembled from tag-length-value pieces.

const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagBMPString   = 0x1e
	tagSequence    = 0x30
	tagSet         = 0x31
)

// contextTag returns the tag of a context-specific element; constructed says
// whether it holds other elements.
func contextTag(n byte, constructed bool) byte {
	if constructed {
		return 0xa0 | n
	}
	return 0x80 | n
}

// tlv encodes one DER element whose content is the parts joined.
func tlv(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := []byte{tag}
	if n < 0x80 {
		out = append(out, byte(n))
	} else {
		var size []byte
		for v := n; v > 0; v >>= 8 {
			size = append([]byte{byte(v)}, size...)
		}
		out = append(out, 0x80|byte(len(size)))
		out = append(out, size...)
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func derSeq(parts ...[]byte) []byte { return tlv(tagSequence, parts...) }
func derSet(parts ...[]byte) []byte { return tlv(tagSet, parts...) }
func derOctets(b []byte) []byte     { return tlv(tagOctetString, b) }
func derNull() []byte               { return []byte{tagNull, 0} }

func derInt(n int64) []byte { return derBig(big.NewInt(n)) }

func derBig(n *big.Int) []byte {
	b, err := asn1.Marshal(n)
	if err != nil {
		panic("fabric: encode integer: " + err.Error()) // cannot happen for a non-nil integer
	}
	return b
}

func derOID(id ...int) []byte {
	b, err := asn1.Marshal(asn1.ObjectIdentifier(id))
	if err != nil {
		panic("fabric: encode object identifier: " + err.Error()) // the identifiers are constants
	}
	return b
}

func derBMP(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u>>8), byte(u))
	}
	return tlv(tagBMPString, b)
}

package cms

import (
	"bytes"
	"encoding/asn1"
	"testing"

	"github.com/azguest/azguest/test/peak"
)

// der is a DER element around its content.
func der(tag byte, content ...[]byte) []byte {
	b, err := asn1.Marshal(asn1.RawValue{FullBytes: wrap([]byte{tag}, bytes.Join(content, nil))})
	if err != nil {
		panic(err)
	}
	return b
}

func oidOf(id ...int) []byte {
	b, err := asn1.Marshal(asn1.ObjectIdentifier(id))
	if err != nil {
		panic(err)
	}
	return b
}

// TestSEC4CMSMemory: envelopes, packets and signatures of the size limit, with
// as many parts as are accepted, and with more.
func TestSEC4CMSMemory(t *testing.T) {
	const size = maxInput - 1000
	n := limits.Nodes - 100
	enveloped, signed, data := oidOf(1, 2, 840, 113549, 1, 7, 3), oidOf(1, 2, 840, 113549, 1, 7, 2), oidOf(1, 2, 840, 113549, 1, 7, 1)
	one := []byte{2, 1, 0}
	contents := func(typ, content []byte) []byte { return der(0x30, typ, der(0xa0, content)) }
	// envelope returns one with these recipients.
	envelope := func(recipients []byte) []byte {
		return contents(enveloped, der(0x30, one, der(0x31, recipients), der(0x30, data)))
	}
	// packet returns one with these SafeContents.
	packet := func(bags []byte) []byte {
		return der(0x30, []byte{2, 1, 3}, contents(data, der(0x04, der(0x30, contents(data, der(0x04, der(0x30, bags)))))))
	}
	bag := func(id []byte, value ...[]byte) []byte { return der(0x30, id, der(0xa0, value...)) }
	certBag := oidOf(1, 2, 840, 113549, 1, 12, 10, 1, 3)
	x509Cert := oidOf(1, 2, 840, 113549, 1, 9, 22, 1)
	zeros := func(n int) []byte { return make([]byte, n) }
	long := func(n int) []byte { return der(0x06, bytes.Repeat([]byte{0x7f}, n)) }
	deep := func(levels, n int) []byte {
		b := der(0x04, zeros(n))
		for range levels {
			b = der(0x30, b)
		}
		return b
	}
	readers := map[string]func(b []byte) error{
		"envelope":  func(b []byte) error { _, err := Decrypt(b); return err },
		"packet":    func(b []byte) error { _, err := ParsePFX(b, ""); return err },
		"signature": func(b []byte) error { _, err := ParseSignature(b); return err },
	}
	var cases []peak.Case
	add := func(reader, name string, make func() []byte) {
		cases = append(cases, peak.Case{Name: reader + ": " + name, Doc: make, Read: readers[reader]})
	}
	for r := range readers {
		add(r, "nothing but empty elements", func() []byte { return der(0x30, bytes.Repeat([]byte{5, 0}, size/2)) })
		add(r, "deep", func() []byte { return deep(30, size-200) })
		add(r, "deeper", func() []byte { return bytes.Repeat([]byte{0x30, 0x80}, size/2) })
		add(r, "a text in pieces", func() []byte {
			return append(append([]byte{0x24, 0x80}, bytes.Repeat(der(0x04, zeros(300)), min(n, size/304))...), 0, 0)
		})
		add(r, "a long name", func() []byte { return contents(long(size-100), zeros(2)) })
	}
	recipient := der(0x30, one, der(0x80, zeros(20)), der(0x30, oidOf(1, 2, 840, 113549, 1, 1, 1)), der(0x04, zeros(10)))
	add("envelope", "recipients", func() []byte { return envelope(bytes.Repeat(recipient, n/7)) })
	add("envelope", "empty recipients", func() []byte { return envelope(bytes.Repeat([]byte{0x30, 0}, n)) })
	add("packet", "empty bags", func() []byte { return packet(bytes.Repeat([]byte{0x30, 0}, size/2)) })
	add("packet", "bags", func() []byte { return packet(bytes.Repeat(bag(oidOf(1, 2, 3), one), n/5)) })
	add("packet", "attributes of a bag", func() []byte {
		return packet(der(0x30, certBag, der(0xa0, one), der(0x31, bytes.Repeat(der(0x30, oidOf(1, 2, 3), der(0x31, one)), n/5))))
	})
	add("packet", "names of bags", func() []byte { return packet(bytes.Repeat(bag(long(100<<10), one), size/(101<<10))) })
	add("packet", "one large certificate", func() []byte {
		return packet(bag(certBag, der(0x30, x509Cert, der(0xa0, der(0x04, der(0x30, bytes.Repeat([]byte{0x30, 0}, size/2-200)))))))
	})
	add("packet", "certificates", func() []byte {
		return packet(bytes.Repeat(bag(certBag, der(0x30, x509Cert, der(0xa0, der(0x04, der(0x30, zeros(60<<10)))))), size/(61<<10)))
	})
	add("packet", "one large key", func() []byte {
		return packet(bag(oidOf(1, 2, 840, 113549, 1, 12, 10, 1, 1), der(0x30, bytes.Repeat([]byte{0x30, 0}, size/2-200))))
	})
	add("signature", "certificates", func() []byte {
		return contents(signed, der(0x30, one, der(0x31), der(0x30, data), der(0xa0, bytes.Repeat([]byte{0x30, 0}, n))))
	})
	add("signature", "signers", func() []byte {
		return contents(signed, der(0x30, one, der(0x31), der(0x30, data), der(0x31, bytes.Repeat([]byte{0x30, 0}, n))))
	})
	peak.Run(t, cases)
}

package cms

import (
	"errors"
	"fmt"

	"github.com/azguest/azguest/agent/bound"
)

// limits of one BER document. The content of its octet strings, encrypted or
// not, is checked against the same limits when it is parsed.
var limits = bound.Limits{Bytes: maxInput, Nodes: 20_000, Depth: maxDepth}

const (
	maxInput = 2 << 20
	maxDepth = 32

	// Bounds for the work that a document can cause. An RSA key of 16384 bits
	// has 9 KiB, and checking it takes a tenth of a second.
	maxRecipients   = 64
	maxCertificate  = 64 << 10
	maxCertificates = 512
	maxKey          = 10 << 10
	maxKeys         = 128
)

// tooLarge returns an error if a part is too large. Such a part is left out,
// with a note.
func tooLarge(what string, n, most int) error {
	if n > most {
		return fmt.Errorf("%s of %d bytes, more than %d", what, n, most)
	}
	return nil
}

var errBER = errors.New("malformed BER")

// normalize turns BER into DER as far as encoding/asn1 needs it: definite,
// minimal lengths, and octet strings in one piece. DER is returned unchanged.
func normalize(in []byte) ([]byte, error) {
	if err := limits.DER(in); err != nil {
		return nil, err
	}
	out, rest, err := element(in, 0)
	if err != nil {
		return nil, err
	}
	for _, b := range rest {
		if b != 0 { // padding of page blobs and sloppy writers
			return nil, fmt.Errorf("%d bytes after the end: %w", len(rest), errBER)
		}
	}
	return out, nil
}

// header reads tag and length. n < 0 is the indefinite length.
func header(in []byte) (tag []byte, constructed bool, n int, rest []byte, err error) {
	if len(in) < 2 {
		return nil, false, 0, nil, errBER
	}
	i := 1
	if in[0]&0x1f == 0x1f {
		for i < len(in) && in[i]&0x80 != 0 {
			i++
		}
		if i++; i > 5 || i >= len(in) {
			return nil, false, 0, nil, errBER
		}
	}
	tag, constructed = in[:i], in[0]&0x20 != 0
	l := in[i]
	i++
	switch {
	case l < 0x80:
		n = int(l)
	case l == 0x80:
		if !constructed {
			return nil, false, 0, nil, errBER
		}
		return tag, true, -1, in[i:], nil
	default:
		k := int(l & 0x7f)
		if k > 8 || i+k > len(in) {
			return nil, false, 0, nil, errBER
		}
		for ; k > 0; k-- {
			if n > maxInput {
				return nil, false, 0, nil, errBER
			}
			n = n<<8 | int(in[i])
			i++
		}
	}
	if n > len(in)-i {
		return nil, false, 0, nil, errBER
	}
	return tag, constructed, n, in[i:], nil
}

func element(in []byte, depth int) (out, rest []byte, err error) {
	if depth > maxDepth {
		return nil, nil, fmt.Errorf("nested too deeply: %w", errBER)
	}
	tag, constructed, n, body, err := header(in)
	if err != nil {
		return nil, nil, err
	}
	if !constructed {
		return wrap(tag, body[:n]), body[n:], nil
	}
	// An octet string in pieces becomes one; other types are kept.
	octets := len(tag) == 1 && tag[0] == 0x24
	var content []byte
	if n >= 0 {
		rest, body = body[n:], body[:n]
	}
	for n < 0 || len(body) > 0 {
		if n < 0 && len(body) >= 2 && body[0] == 0 && body[1] == 0 {
			rest = body[2:]
			break
		}
		var piece []byte
		if piece, body, err = element(body, depth+1); err != nil {
			return nil, nil, err
		}
		if octets {
			ptag, _, pn, pbody, err := header(piece)
			if err != nil || len(ptag) != 1 || ptag[0] != 0x04 {
				return nil, nil, errBER
			}
			piece = pbody[:pn]
		}
		content = append(content, piece...)
	}
	if octets {
		tag = []byte{0x04}
	}
	return wrap(tag, content), rest, nil
}

func wrap(tag, content []byte) []byte {
	out := make([]byte, 0, len(tag)+6+len(content))
	out = append(out, tag...)
	n := len(content)
	switch {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 1<<8:
		out = append(out, 0x81, byte(n))
	case n < 1<<16:
		out = append(out, 0x82, byte(n>>8), byte(n))
	case n < 1<<24:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	default:
		out = append(out, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, content...)
}

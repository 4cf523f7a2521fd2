package web

import (
	"bytes"
	"errors"
	"io"
)

// piece is how much of a body of unknown length is read at a time.
const piece = 64 << 10

// readBody reads a body of at most limit bytes, and never holds much more than
// twice its size: a buffer that grows by doubling would for a moment hold up
// to four times the body, as old and new buffer.
func readBody(r io.Reader, length, limit int64) ([]byte, error) {
	if length > limit {
		return nil, &SizeError{limit}
	}
	if length > 0 { // known, and no more can be read
		b := make([]byte, length)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	var pieces [][]byte
	p := make([]byte, 0, piece)
	for total := int64(0); total <= limit; {
		n, err := r.Read(p[len(p):cap(p)])
		p, total = p[:len(p)+n], total+int64(n)
		if errors.Is(err, io.EOF) && total <= limit {
			return bytes.Join(append(pieces, p), nil), nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if len(p) == cap(p) {
			pieces, p = append(pieces, p), make([]byte, 0, piece)
		}
	}
	return nil, &SizeError{limit}
}

package web

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
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

// decode undoes a compression that nobody asked for: a proxy may add it, and a
// blob can be stored with the header. A body that only claims to be compressed
// stays as it is. Limits hold for the bytes after it; the length, and what a
// range of the answer would be, are no longer known.
func decode(resp *http.Response) {
	switch strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))) {
	case "gzip", "x-gzip":
	default:
		return
	}
	if resp.StatusCode == http.StatusPartialContent {
		return // a part can't be decoded by itself
	}
	raw := bufio.NewReader(resp.Body)
	if magic, err := raw.Peek(2); err != nil || magic[0] != 0x1f || magic[1] != 0x8b {
		resp.Body = body{raw, resp.Body}
		return
	}
	z, err := gzip.NewReader(raw)
	if err != nil {
		z = nil // the error comes with the first read
	}
	resp.Header = resp.Header.Clone()
	for _, name := range []string{"Content-Encoding", "Content-Length", "Accept-Ranges", "Etag"} {
		resp.Header.Del(name)
	}
	resp.ContentLength = -1
	if z == nil {
		resp.Body = body{broken{err}, resp.Body}
		return
	}
	resp.Body = body{z, resp.Body}
}

// body reads from one thing and closes another.
type body struct {
	io.Reader
	io.Closer
}

// broken is a body that can't be read.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

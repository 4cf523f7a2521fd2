package ovf

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A document with long custom data is read without ever being in memory as a
// whole: the custom data is decoded while it is read, and a short text takes its
// place in what is parsed.
const (
	maxDocument = 32 << 20  // bytes, custom data included
	longData    = 256 << 10 // characters; custom data that is longer is carved out
	// maxBesides is how much a document may have besides custom data that was
	// carved out.
	maxBesides = 1 << 20
)

// carved is a document without its long custom data.
type carved struct {
	rest  bytes.Buffer
	data  base64Sink // of the last long custom data
	marks int        // how many were carved out
}

// mark is the text that takes the place of long custom data: base64, like what
// it stands for. Each has another one, so that two contradict each other.
func mark(n int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "azguest: custom data %d of this document", n))
}

var errTooLarge = fmt.Errorf("larger than %d bytes", maxDocument)

// carve reads a document of about size bytes.
func carve(r io.Reader, size int64) (*carved, error) {
	limited := &io.LimitedReader{R: r, N: maxDocument + 1}
	b := bufio.NewReaderSize(limited, 64<<10)
	c := &carved{}
	custom := false // the text belongs to CustomData
	for {
		err := c.text(b, custom, size)
		if err == nil {
			custom, err = c.markup(b, custom)
		}
		if limited.N == 0 {
			return nil, errTooLarge
		}
		if errors.Is(err, io.EOF) {
			return c, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// add adds to what is parsed.
func (c *carved) add(b ...byte) error {
	limit := maxParsed
	if c.marks > 0 {
		limit = maxBesides
	}
	if c.rest.Len()+len(b) > limit {
		return fmt.Errorf("more than %d bytes besides custom data", limit)
	}
	c.rest.Write(b)
	return nil
}

// text reads up to the next "<", which it consumes.
func (c *carved) text(b *bufio.Reader, custom bool, size int64) error {
	start, long := c.rest.Len(), false
	for {
		piece, err := b.ReadSlice('<')
		end := err == nil
		if end {
			piece = piece[:len(piece)-1]
		} else if !errors.Is(err, bufio.ErrBufferFull) && !errors.Is(err, io.EOF) {
			return err
		}
		switch {
		case long:
			c.data.write(piece)
		case custom && c.rest.Len()-start+len(piece) > longData:
			long = true
			c.data = base64Sink{}
			c.data.out.Grow(int(min(size, maxDocument)/4*3 + 3))
			c.data.write(c.rest.Bytes()[start:])
			c.data.write(piece)
			c.rest.Truncate(start)
		default:
			if err := c.add(piece...); err != nil {
				return err
			}
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if long {
			c.data.end()
			if aerr := c.add([]byte(mark(c.marks))...); aerr != nil {
				return aerr
			}
			c.marks++
		}
		if end {
			return c.add('<')
		}
		return err
	}
}

// markup copies what begins after "<", and reports whether the text after it
// belongs to CustomData.
func (c *carved) markup(b *bufio.Reader, custom bool) (bool, error) {
	head, err := b.Peek(8)
	if len(head) == 0 {
		return custom, err
	}
	for begin, end := range map[string]string{"!--": "-->", "![CDATA[": "]]>", "?": "?>"} {
		if bytes.HasPrefix(head, []byte(begin)) {
			return custom, c.until(b, end)
		}
	}
	start := c.rest.Len()
	if err := c.until(b, ">"); err != nil {
		return false, err
	}
	tag := c.rest.Bytes()[start:]
	if bytes.HasSuffix(tag, []byte("/>")) {
		return false, nil
	}
	name := tag
	if i := bytes.IndexAny(tag, " \t\r\n>"); i >= 0 {
		name = tag[:i]
	}
	if i := bytes.IndexByte(name, ':'); i >= 0 {
		name = name[i+1:]
	}
	return tag[0] != '/' && strings.EqualFold(string(name), "CustomData"), nil
}

// until copies up to the end of markup; in a tag, quoted text does not end it.
func (c *carved) until(b *bufio.Reader, end string) error {
	start := c.rest.Len()
	var quote byte
	for {
		ch, err := b.ReadByte()
		if err == nil {
			err = c.add(ch)
		}
		if err != nil {
			return err
		}
		switch {
		case end != ">":
		case quote != 0:
			if ch == quote {
				quote = 0
			}
			continue
		case ch == '"' || ch == '\'':
			quote = ch
		}
		if c.rest.Len()-start >= len(end) && ch == '>' && bytes.HasSuffix(c.rest.Bytes(), []byte(end)) {
			return nil
		}
	}
}

// A base64Sink decodes what is written to it, with the rules of decodeBase64.
type base64Sink struct {
	out   strings.Builder
	group []byte // characters that are not decoded yet
	n     int    // characters written
	err   error
	over  bool // padding was seen
}

func (s *base64Sink) write(b []byte) {
	for _, ch := range b {
		switch ch {
		case ' ', '\t', '\r', '\n':
			continue
		case '-':
			ch = '+'
		case '_':
			ch = '/'
		}
		s.n++
		if ch == '=' {
			s.over = true
			continue
		}
		if s.over && s.err == nil {
			s.err = fmt.Errorf("not base64 at character %d", s.n)
		}
		if s.err != nil {
			return
		}
		if s.group = append(s.group, ch); len(s.group) == 4096 {
			s.flush()
		}
	}
}

func (s *base64Sink) flush() {
	var out [3072]byte
	n, err := base64.RawStdEncoding.Decode(out[:], s.group)
	if err != nil {
		s.err = fmt.Errorf("not base64 before character %d", s.n+1)
		return
	}
	s.out.Write(out[:n])
	s.group = s.group[:0]
}

func (s *base64Sink) end() {
	if s.err == nil {
		s.flush()
	}
}

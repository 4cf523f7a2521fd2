// Package bound limits what reading a document may cost. Each reader has a
// table of Limits, one line for each kind of document, and checks a document
// against it before it builds anything from it.
//
// The size of a document says little about the memory that reading it takes: an
// empty object has two bytes, but becomes a map or a struct of some hundred
// bytes. So, besides bytes and depth, nodes are counted: every value, name,
// element, attribute and text for which a reader may need memory. Counting
// needs no memory. It parses a document like the standard library's decoders;
// where they fail, the count may be wrong, which does not matter.
//
// It is used by every package that reads documents from elsewhere, imports no
// other package of this module and keeps no state.
package bound

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits are the limits of one kind of document. 0 means no limit.
type Limits struct {
	Bytes int64
	// Nodes is the number of values and names of JSON, of elements, attributes,
	// texts, comments and instructions of XML, of elements of DER.
	Nodes int
	Depth int
}

// An Error says which limit a document exceeds.
type Error struct {
	What string // bytes, nodes, levels, …
	Max  int64
}

func (e *Error) Error() string { return fmt.Sprintf("more than %d %s", e.Max, e.What) }

// Size checks the length of a document, in bytes, against the limit.
func (l Limits) Size(n int64) error {
	if l.Bytes > 0 && n > l.Bytes {
		return &Error{"bytes", l.Bytes}
	}
	return nil
}

// counter counts for one document.
type counter struct {
	l            Limits
	nodes, depth int
}

func (c *counter) node() error {
	if c.nodes++; c.l.Nodes > 0 && c.nodes > c.l.Nodes {
		return &Error{"nodes", int64(c.l.Nodes)}
	}
	return nil
}

func (c *counter) open() error {
	if c.depth++; c.l.Depth > 0 && c.depth > c.l.Depth {
		return &Error{"levels", int64(c.l.Depth)}
	}
	return nil
}

// JSON checks a document against the limits. It does not check whether the
// document is valid JSON.
func (l Limits) JSON(doc []byte) error {
	if err := l.Size(int64(len(doc))); err != nil {
		return err
	}
	c := counter{l: l}
	for i := 0; i < len(doc); i++ {
		var err error
		switch doc[i] {
		case '"':
			for i++; i < len(doc) && doc[i] != '"'; i++ {
				if doc[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if err = c.open(); err == nil {
				err = c.node()
			}
		case '}', ']':
			c.depth--
		case ',', ':': // another value follows, or the value of a name
			err = c.node()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// XML checks a document against the limits, and rejects one with a document
// type definition, which none of the documents needs. It does not check whether
// the document is valid XML.
func (l Limits) XML(doc []byte) error {
	if err := l.Size(int64(len(doc))); err != nil {
		return err
	}
	c := counter{l: l}
	for len(doc) > 0 {
		i := bytes.IndexByte(doc, '<')
		if i != 0 { // text up to the next tag or the end
			if err := c.node(); err != nil || i < 0 {
				return err
			}
			doc = doc[i:]
		}
		var err error
		switch {
		case bytes.HasPrefix(doc, []byte("<!--")):
			doc, err = after(doc[4:], "-->"), c.node()
		case bytes.HasPrefix(doc, []byte("<![CDATA[")):
			doc, err = after(doc[9:], "]]>"), c.node()
		case bytes.HasPrefix(doc, []byte("<!")):
			return errDTD
		case bytes.HasPrefix(doc, []byte("<?")):
			doc, err = after(doc[2:], "?>"), c.node()
		case bytes.HasPrefix(doc, []byte("</")):
			c.depth--
			doc = after(doc, ">")
		default:
			doc, err = c.element(doc[1:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errDTD = fmt.Errorf("has a document type definition")

// element counts the parts of a start tag, up to its end.
func (c *counter) element(doc []byte) (rest []byte, err error) {
	if err = c.open(); err == nil {
		err = c.node()
	}
	for i := 0; err == nil && i < len(doc); i++ {
		switch q := doc[i]; q {
		case '"', '\'':
			n := bytes.IndexByte(doc[i+1:], q)
			if n < 0 {
				return nil, nil
			}
			i += 1 + n
		case '=':
			err = c.node()
		case '>':
			if i > 0 && doc[i-1] == '/' {
				c.depth--
			}
			return doc[i+1:], nil
		}
	}
	return nil, err
}

// after returns what follows the next end, nil if there is none.
func after(doc []byte, end string) []byte {
	if i := bytes.Index(doc, []byte(end)); i >= 0 {
		return doc[i+len(end):]
	}
	return nil
}

// DER checks a document in BER or DER against the limits. The content of octet
// strings is not counted: it is a document of its own.
func (l Limits) DER(doc []byte) error {
	if err := l.Size(int64(len(doc))); err != nil {
		return err
	}
	c := counter{l: l}
	c.l.Depth = cmp.Or(l.Depth, 1000) // each level is a call
	_, err := c.elements(doc, false)
	return err
}

// An object identifier is decoded to a list of numbers, eight bytes each, and
// then to text. Real ones have a dozen bytes.
const (
	tagOID = 6
	maxOID = 128
)

// elements counts the elements in doc, up to its end or, if marked is set, up
// to the mark that ends an element without a length. Malformed data ends it,
// too: no reader gets further.
func (c *counter) elements(doc []byte, marked bool) (rest []byte, err error) {
	for len(doc) > 0 {
		if marked && len(doc) > 1 && doc[0] == 0 && doc[1] == 0 {
			return doc[2:], nil
		}
		if err := c.node(); err != nil {
			return nil, err
		}
		doc0 := doc[0]
		constructed := doc0&0x20 != 0
		n, head := derLength(doc)
		if head == 0 || n > len(doc)-head || n < 0 && !constructed {
			return nil, nil
		}
		body := doc[head:]
		if n >= 0 {
			body, doc = body[:n], body[n:]
		}
		if doc0 == tagOID && n > maxOID {
			return nil, &Error{"bytes in an object identifier", maxOID}
		}
		if !constructed {
			continue
		}
		if err := c.open(); err != nil {
			return nil, err
		}
		rest, err := c.elements(body, n < 0)
		if err != nil {
			return nil, err
		}
		if c.depth--; n < 0 {
			doc = rest
		}
	}
	return nil, nil
}

// derLength returns the length of the content of the element at the beginning
// of doc, -1 if it is ended by a mark, and the length of what precedes the
// content. head is 0 if the element is malformed.
func derLength(doc []byte) (n, head int) {
	i := 1
	if doc[0]&0x1f == 0x1f {
		for i < len(doc) && doc[i]&0x80 != 0 {
			i++
		}
		i++
	}
	if i >= len(doc) {
		return 0, 0
	}
	b := doc[i]
	i++
	switch {
	case b < 0x80:
		return int(b), i
	case b == 0x80:
		return -1, i
	}
	for k := int(b & 0x7f); k > 0; k-- {
		if i >= len(doc) || n > 1<<40 {
			return 0, 0
		}
		n = n<<8 | int(doc[i])
		i++
	}
	return n, i
}

// shown is how many bytes of a text from a document an error quotes.
const shown = 80

// Quote returns a text from a document as an error may show it: in quotes, and
// shortened to fit on a line. The document may have megabytes of text, and many
// errors may be made of it.
func Quote(s string) string { return fmt.Sprintf("%q", Clip(s)) }

// Clip returns the beginning of a text from a document.
func Clip(s string) string {
	if len(s) <= shown {
		return s
	}
	n := shown
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n]) + "…"
}

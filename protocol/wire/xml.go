package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/beevik/etree"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/protocol"
)

// bom may precede any text the platform serves (protocol/SPEC.md §2.8).
var bom = []byte{0xef, 0xbb, 0xbf}

// TrimBOM drops a UTF-8 byte order mark.
func TrimBOM(b []byte) []byte { return bytes.TrimPrefix(b, bom) }

// A node is an XML element, or none: all methods work on the zero node, so
// that searching in a missing element finds nothing.
type node struct{ e *etree.Element }

// elements are what the documents consist of, by the name under which they are
// requested. Everything in them is optional, so a page of a portal or an error
// in XML would be taken for one that says "none": no extensions, no
// certificates, no users.
var elements = map[string]string{
	"goalstate": "GoalState", "hostingEnvironmentConfig": "HostingEnvironmentConfig", "sharedConfig": "SharedConfig",
	"extensionsConfig": "Extensions", "certificates": "CertificateFile", "remoteAccess": "RemoteAccess",
}

// parse reads a document and returns its root element.
func parse(name string, b []byte) (node, error) {
	n, err := parseXML(b, limits(name))
	if want, known := elements[name]; err == nil && known && !n.find(want).ok() {
		err = fmt.Errorf("another document (%s has no element %s)", bound.Quote(n.e.Tag), want)
	}
	if err != nil {
		return node{}, &protocol.DocumentError{Doc: name, Err: err}
	}
	return n, nil
}

func parseXML(b []byte, l bound.Limits) (node, error) {
	b = bytes.TrimSpace(bytes.TrimRight(TrimBOM(b), "\x00"))
	if err := l.XML(b); err != nil {
		return node{}, err
	}
	d := etree.NewDocument()
	d.ReadSettings = etree.ReadSettings{MaxDepth: l.Depth, CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil }}
	if err := d.ReadFromBytes(b); err != nil {
		return node{}, err
	}
	if d.Root() == nil {
		return node{}, errors.New("no XML element")
	}
	return node{d.Root()}, nil
}

func (n node) ok() bool { return n.e != nil }

// is compares the local name.
func (n node) is(name string) bool { return n.e != nil && strings.EqualFold(n.e.Tag, name) }

// find returns the first element of that name in document order, n included.
func (n node) find(name string) node {
	if n.e == nil || n.is(name) {
		return n
	}
	for _, c := range n.e.ChildElements() {
		if f := (node{c}).find(name); f.e != nil {
			return f
		}
	}
	return node{}
}

// below is find without n itself.
func (n node) below(name string) node {
	if n.e == nil {
		return node{}
	}
	for _, c := range n.e.ChildElements() {
		if f := (node{c}).find(name); f.e != nil {
			return f
		}
	}
	return node{}
}

// all returns every element of that name below n, in document order, not
// looking inside of those found.
func (n node) all(name string) []node {
	if n.e == nil {
		return nil
	}
	var out []node
	for _, c := range n.e.ChildElements() {
		if (node{c}).is(name) {
			out = append(out, node{c})
			continue
		}
		out = append(out, node{c}.all(name)...)
	}
	return out
}

// child returns the first direct child of that name.
func (n node) child(name string) node {
	if n.e == nil {
		return node{}
	}
	for _, c := range n.e.ChildElements() {
		if (node{c}).is(name) {
			return node{c}
		}
	}
	return node{}
}

// text is all character data directly in the element, trimmed.
func (n node) text() string {
	if n.e == nil {
		return ""
	}
	var one string
	var sb *strings.Builder
	for _, t := range n.e.Child {
		cd, ok := t.(*etree.CharData)
		if !ok {
			continue
		}
		switch {
		case sb != nil:
			sb.WriteString(cd.Data)
		case one == "":
			one = cd.Data
		default:
			sb = &strings.Builder{}
			sb.WriteString(one)
			sb.WriteString(cd.Data)
		}
	}
	if sb != nil {
		one = sb.String()
	}
	return strings.TrimSpace(one)
}

// attr returns an attribute, trimmed; "" when it is not there.
func (n node) attr(name string) string {
	v, _ := n.attrOK(name)
	return v
}

func (n node) attrOK(name string) (string, bool) {
	if n.e == nil {
		return "", false
	}
	for _, a := range n.e.Attr {
		if strings.EqualFold(a.Key, name) {
			return strings.TrimSpace(a.Value), true
		}
	}
	return "", false
}

// esc escapes text for element content and attribute values, and drops
// characters that XML 1.0 can't express.
func esc(s string) string {
	var sb strings.Builder
	for _, r := range s {
		switch {
		case r == '&':
			sb.WriteString("&amp;")
		case r == '<':
			sb.WriteString("&lt;")
		case r == '>':
			sb.WriteString("&gt;")
		case r == '"':
			sb.WriteString("&quot;")
		case r == '\n':
			sb.WriteString("&#10;")
		case r == '\r':
			sb.WriteString("&#13;")
		case r == '\t':
			sb.WriteString("&#9;")
		case r < 0x20, r == 0xfffe, r == 0xffff:
		default:
			sb.WriteRune(r)
		}
	}
	return sb.String()
}

package metadata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// JSON writes n as indented JSON. Characters that control a terminal, which
// occur in strings only, are escaped.
func (n *Node) JSON(w io.Writer) error {
	doc, err := n.MarshalJSON()
	if err != nil {
		return err
	}
	var plain, safe bytes.Buffer
	if err := json.Indent(&plain, doc, "", "  "); err != nil {
		return err
	}
	for _, r := range plain.String() {
		switch {
		case r < 0x7f || !Controls(r):
			safe.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&safe, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&safe, `\u%04x`, r)
		}
	}
	safe.WriteByte('\n')
	_, err = w.Write(safe.Bytes())
	return err
}

// Controls reports whether a character controls a terminal, or is invisible and
// changes how others are shown.
func Controls(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }

// Text writes a leaf as its value and a newline, and other parts as a tree with
// one line for each value. In a tree, a value that is empty or has characters
// that can't be printed is quoted, and user data only measured.
func (n *Node) Text(w io.Writer) error {
	if n.Leaf() {
		_, err := fmt.Fprintln(w, n.Value())
		return err
	}
	return n.tree(w, "")
}

func (n *Node) tree(w io.Writer, indent string) error {
	for i, m := range n.nodes {
		name, value := printable(n.name(i)), ""
		switch {
		case !m.Leaf() && len(m.nodes) > 0:
		case m.kind == object:
			value = " {}"
		case m.kind == list:
			value = " []"
		case isPrivate(n.name(i)) && m.value != "":
			value = fmt.Sprintf(" (%d characters of base64)", len(m.value))
		default:
			value = " " + printable(m.Value())
		}
		if _, err := fmt.Fprintf(w, "%s%s:%s\n", indent, name, value); err != nil {
			return err
		}
		if err := m.tree(w, indent+"  "); err != nil {
			return err
		}
	}
	return nil
}

// printable returns a text as a tree shows it: quoted if it is not plain.
func printable(s string) string {
	plain := s != "" && s[0] != '"' && s == strings.TrimSpace(s)
	for _, r := range s {
		plain = plain && unicode.IsPrint(r)
	}
	if plain {
		return s
	}
	return strconv.Quote(s)
}

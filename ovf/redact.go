package ovf

import (
	"strings"

	"github.com/beevik/etree"
)

// Redacted returns the copy of a document that may stay on disk, mode 0400,
// where VMAccess, cloud-init and WALinuxAgent look for it
// (provisioning/SPEC.md §5.12). The password is replaced by the word REDACTED,
// which cloud-init and Parse understand; an absent or empty one stays as it
// is. Custom data and user data are replaced by a comment, which every reader
// takes as "none"; a word would be decoded as base64. Comments and attributes
// that could hold the same secrets are removed. Prefixes and namespaces stay.
// The error is an *Error.
func Redacted(doc []byte) ([]byte, error) {
	tree, err := parseTree(doc)
	if err != nil {
		return nil, err
	}
	redactTokens(&tree.Element)
	out, err := tree.WriteToBytes()
	if err != nil {
		return nil, &Error{Kind: KindMalformed, Text: "write redacted copy"}
	}
	return out, nil
}

func redactTokens(e *etree.Element) {
	keep := make([]etree.Token, 0, len(e.Child))
	for _, t := range e.Child {
		switch t := t.(type) {
		case *etree.Comment:
			continue
		case *etree.ProcInst:
			if t.Target != "xml" {
				continue
			}
			t.Inst = `version="1.0" encoding="utf-8"` // the text is UTF-8, whatever was declared
		case *etree.Element:
			redactElement(t)
		}
		keep = append(keep, t)
	}
	e.Child = keep
}

func redactElement(e *etree.Element) {
	name := strings.ToLower(e.Tag)
	password := strings.HasSuffix(name, "password") // not …PasswordAuthentication
	data := name == "customdata" || name == "userdata" || name == "dscfg"
	if !password && !data {
		redactTokens(e)
		return
	}
	var text strings.Builder
	empty := true
	for _, t := range e.Child {
		c, isText := t.(*etree.CharData)
		m, isComment := t.(*etree.Comment)
		if isText {
			text.WriteString(c.Data)
		}
		// Child elements may hold secrets and count as content. So does the
		// mark of an earlier redaction, which is then written again.
		mark := isComment && strings.TrimSpace(m.Data) == redacted
		empty = empty && (isText || isComment) && !(mark && data)
	}
	empty = empty && noPassword(text.String())
	attrs := e.Attr[:0]
	for _, a := range e.Attr {
		if a.Space == "xmlns" || a.Space == "" && a.Key == "xmlns" || a.Key == "nil" && a.Space != "" {
			attrs = append(attrs, a)
		}
	}
	e.Attr = attrs
	e.Child = nil
	switch {
	case empty:
	case password:
		e.CreateText(redacted)
	default:
		e.CreateComment(" " + redacted + " ")
	}
}

package ovf

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/beevik/etree"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/host"
)

// Bounds of a document as it is parsed, see carve for long custom data.
const (
	maxParsed = 4 << 20
	maxDepth  = 64
	maxTokens = 50_000
	maxKeys   = 1000
)

// limits are checked before the document is decoded. An element can have any
// number of attributes, and the decoder allocates all of them before it
// returns the element.
var limits = bound.Limits{Bytes: maxParsed, Nodes: maxTokens}

// Values that stand for a removed secret: redacted is written by this agent
// and by cloud-init, redactedLegacy by WALinuxAgent
// (provisioning/SPEC.md §5.4).
const (
	redacted       = "REDACTED"
	redactedLegacy = "*"
)

// Parse reads a provisioning document. Elements are found by their local
// name, in any case, whatever prefix or namespace they have: three spellings
// are in use (provisioning/SPEC.md §5.1). An element that comes twice is an
// error only if it says different things; nil and empty ones count as absent.
// The error is an *Error.
func Parse(doc []byte) (*Environment, error) {
	tree, err := parseTree(doc)
	if err != nil {
		return nil, err
	}
	root := tree.Root()
	if root == nil || !strings.EqualFold(root.Tag, "Environment") {
		return nil, &Error{Kind: KindForeign, Text: "root element is not Environment"}
	}
	prov := section{in: []*etree.Element{root}}.under("ProvisioningSection")
	linux := prov.under("LinuxProvisioningConfigurationSet")
	switch {
	case len(prov.in) == 0:
		return nil, &Error{Kind: KindForeign, Text: "missing configuration for 'ProvisioningSection'"}
	case len(linux.in) == 0 && len(prov.under("WindowsProvisioningConfigurationSet").in) > 0:
		return nil, &Error{Kind: KindUnsupported, Text: "document is for Windows"}
	case len(linux.in) == 0:
		return nil, &Error{Kind: KindForeign, Text: "missing configuration for 'LinuxProvisioningConfigurationSet'"}
	}
	p := &parser{env: &Environment{}}
	p.linux(prov, linux)
	outer := section{in: []*etree.Element{root}}.under("PlatformSettingsSection")
	p.platform(outer, outer.under("PlatformSettings"))
	if p.err != nil {
		return nil, p.err
	}
	return p.env, nil
}

type parser struct {
	env *Environment
	err error // the first contradiction
}

func (p *parser) linux(prov, s section) {
	e := p.env
	e.Version = p.soft(prov, "Version")
	if e.Version != "" && !strings.HasPrefix(e.Version, "1.") {
		p.problem("Version", "not 1.0; the document is read as if it were")
	}
	e.ConfigurationSetType = p.soft(s, "ConfigurationSetType")
	e.HostName = p.hard(s, "HostName")
	e.UserName = p.hard(s, "UserName")
	e.DisableSSHPassword = p.truth(s, "DisableSshPasswordAuthentication", p.hard)

	// AdminPassword: afterburn reads it (provisioning/SPEC.md §5.4).
	switch pw, _ := p.raw(s, "UserPassword", "AdminPassword"); {
	case noPassword(pw):
	case pw == redacted, pw == redactedLegacy:
		e.PasswordRedacted = true
	default:
		e.Password = host.NewSecret(pw)
	}

	ssh := s.under("SSH")
	for _, k := range p.keys(ssh.under("PublicKeys").under("PublicKey"), "PublicKey") {
		v, _ := p.raw(k, "Value")
		key := PublicKey{p.soft(k, "Fingerprint"), p.soft(k, "Path"), strings.TrimSpace(v)}
		if key.Value == "" && key.Fingerprint == "" {
			p.problem("PublicKey", "neither Value nor Fingerprint")
			continue
		}
		e.PublicKeys = append(e.PublicKeys, key)
	}
	for _, k := range p.keys(ssh.under("KeyPairs").under("KeyPair"), "KeyPair") {
		pair := KeyPair{p.soft(k, "Fingerprint"), p.soft(k, "Path")}
		if pair.Fingerprint == "" || pair.Path == "" {
			p.problem("KeyPair", "no Fingerprint or no Path")
			continue
		}
		e.KeyPairs = append(e.KeyPairs, pair)
	}
	p.customData(s)
	if u, _ := p.raw(s, "UserData"); strings.TrimSpace(u) != "" {
		e.UserData = host.NewSecret(strings.TrimSpace(u))
	}
}

func (p *parser) platform(outer, s section) {
	f := &p.env.Platform
	f.Version = p.soft(outer, "Version")
	f.KmsServerHostname = p.soft(s, "KmsServerHostname")
	f.ProvisionGuestAgent = p.truth(s, "ProvisionGuestAgent", p.hard)
	f.ProvisionGuestProxyAgent = p.truth(s, "ProvisionGuestProxyAgent", p.soft)
	f.GuestAgentPackageName = p.soft(s, "GuestAgentPackageName")
	f.RetainWindowsPEPassInUnattend = p.truth(s, "RetainWindowsPEPassInUnattend", p.soft)
	f.RetainOfflineServicingPassInUnattend = p.truth(s, "RetainOfflineServicingPassInUnattend", p.soft)
	f.PreprovisionedVM = p.truth(s, "PreprovisionedVm", p.hard)
	f.PreprovisionedVMType = p.hard(s, "PreprovisionedVMType") // also spelt …VmType
	f.EnableTrustedImageIdentifier = p.truth(s, "EnableTrustedImageIdentifier", p.soft)
}

// noPassword reports whether s is empty, or white space with a line break as
// in an element that was pretty-printed. Blanks without a line break are a
// password.
func noPassword(s string) bool {
	return s == "" || strings.TrimSpace(s) == "" && strings.Contains(s, "\n")
}

// customData decodes the custom data. Bad custom data is a problem and not an
// error, so that the user still gets an account (provisioning/SPEC.md §5.9).
func (p *parser) customData(s section) {
	const name = "CustomData"
	values := s.values(name)
	for _, v := range values {
		if v.mark {
			p.env.CustomDataRedacted = true
		}
	}
	text, n := "", 0
	for _, v := range values {
		if t := strings.Join(strings.Fields(v.text), ""); t != "" && t != text {
			text, n = t, n+1
		}
	}
	switch {
	case n == 0:
		return
	case n > 1:
		p.problem(name, fmt.Sprintf("multiple configuration matches for 'CustomData' (%d)", n))
		return
	case text == redacted:
		p.env.CustomDataRedacted = true
		return
	}
	p.env.CustomDataRedacted = false
	p.env.CustomDataText = host.NewSecret(text)
	data, err := decodeBase64(text)
	if err != nil {
		p.problem(name, err.Error())
		return
	}
	p.env.CustomData = host.NewSecret(string(data))
}

// decodeBase64 takes the usual and the URL alphabet, with and without padding.
// The error does not quote the text.
func decodeBase64(s string) ([]byte, error) {
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(strings.TrimRight(s, "="))
	if at, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return nil, fmt.Errorf("not base64 at character %d of %d", int64(at)+1, len(s))
	}
	return b, err
}

func (p *parser) problem(element, text string) {
	p.env.Problems = append(p.env.Problems, Problem{element, text})
}

func (p *parser) keys(s section, what string) []section {
	if len(s.in) > maxKeys {
		p.problem(what, fmt.Sprintf("%d elements, only the first %d are used", len(s.in), maxKeys))
		s.in = s.in[:maxKeys]
	}
	out := make([]section, len(s.in))
	for i, e := range s.in {
		out[i] = section{in: []*etree.Element{e}}
	}
	return out
}

// raw returns the exact value of the element with one of these names, and the
// number of different values. More than one is an error of the document.
func (p *parser) raw(s section, names ...string) (string, int) {
	value, n := distinct(s, false, names)
	if n > 1 && p.err == nil {
		p.err = &Error{Kind: KindContradicts, Text: fmt.Sprintf("multiple configuration matches for '%s' (%d)", names[0], n)}
	}
	return value, n
}

// hard returns the trimmed value of an element; different values are an error
// of the document.
func (p *parser) hard(s section, name string) string {
	value, n := distinct(s, true, []string{name})
	if n > 1 && p.err == nil {
		p.err = &Error{Kind: KindContradicts, Text: fmt.Sprintf("multiple configuration matches for '%s' (%d)", name, n)}
	}
	return value
}

// soft returns the trimmed value of an element; of different values the first
// is used, with a problem.
func (p *parser) soft(s section, name string) string {
	value, n := distinct(s, true, []string{name})
	if n > 1 {
		p.problem(name, fmt.Sprintf("multiple configuration matches for '%s' (%d), the first is used", name, n))
	}
	return value
}

// truth reads a switch with the words that cloud-init knows. Any other word is
// a problem and gives nil; cloud-init reads it as false.
func (p *parser) truth(s section, name string, get func(section, string) string) *bool {
	yes, no := true, false
	switch strings.ToLower(get(s, name)) {
	case "":
		return nil
	case "true", "1", "on", "yes":
		return &yes
	case "false", "0", "off", "no":
		return &no
	}
	p.problem(name, "neither true nor false")
	return nil
}

// distinct returns the first value that is not empty, and the number of
// different ones.
func distinct(s section, trim bool, names []string) (first string, n int) {
	seen := map[string]bool{}
	for _, name := range names {
		for _, v := range s.values(name) {
			t := v.text
			if trim {
				t = strings.TrimSpace(t)
			}
			if t == "" || seen[t] {
				continue
			}
			if seen[t] = true; len(seen) == 1 {
				first = t
			}
		}
	}
	return first, len(seen)
}

// section holds all elements of one name, which are read as if they were one.
type section struct{ in []*etree.Element }

func (s section) under(name string) section {
	var out section
	for _, e := range s.in {
		for _, c := range e.ChildElements() {
			if strings.EqualFold(c.Tag, name) && !isNil(c) {
				out.in = append(out.in, c)
			}
		}
	}
	return out
}

// value is the text of an element: all of its character data, CDATA included,
// without comments. mark is set if it contains the comment that Redacted puts
// in place of custom data.
type value struct {
	text string
	mark bool
}

func (s section) values(name string) []value {
	els := s.under(name).in
	out := make([]value, len(els))
	for i, e := range els {
		var b strings.Builder
		for _, t := range e.Child {
			switch t := t.(type) {
			case *etree.CharData:
				b.WriteString(t.Data)
			case *etree.Comment:
				out[i].mark = out[i].mark || strings.TrimSpace(t.Data) == redacted
			}
		}
		out[i].text = b.String()
	}
	return out
}

// isNil reports whether the element has xsi:nil, with any prefix.
func isNil(e *etree.Element) bool {
	for _, a := range e.Attr {
		if a.Key == "nil" && a.Space != "" {
			v := strings.TrimSpace(a.Value)
			return v == "true" || v == "1"
		}
	}
	return false
}

// parseTree checks a document token by token before it builds a tree.
func parseTree(doc []byte) (*etree.Document, error) {
	doc, err := guard(doc)
	if err != nil {
		return nil, err
	}
	tree := etree.NewDocument()
	tree.ReadSettings.MaxDepth = maxDepth + 1
	if err := tree.ReadFromBytes(doc); err != nil {
		return nil, syntaxError(err)
	}
	return tree, nil
}

// guard refuses what is not UTF-8, too large, too deep, or has a DOCTYPE, and
// returns the document without its byte order mark and padding.
func guard(doc []byte) ([]byte, error) {
	bad := func(text string) ([]byte, error) { return nil, &Error{Kind: KindMalformed, Text: text} }
	if len(doc) > maxParsed {
		return bad(fmt.Sprintf("document has %d bytes besides long custom data, at most %d are allowed", len(doc), maxParsed))
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))
	// A writer that writes whole blocks pads the document with NUL bytes. This
	// may also cut the last byte of a UTF-16 document, which is recognized by
	// the bytes that remain.
	doc = bytes.TrimRight(doc, "\x00")
	if bytes.HasPrefix(doc, []byte("\xff\xfe")) || bytes.HasPrefix(doc, []byte("\xfe\xff")) || bytes.IndexByte(doc, 0) >= 0 {
		return bad("document is UTF-16 or binary, not UTF-8")
	}
	if !utf8.Valid(doc) {
		return bad("document is not UTF-8")
	}
	doc = bytes.TrimLeft(doc, " \t\r\n") // some writers leave a line in front of the declaration
	if len(doc) == 0 {
		return bad("document is empty")
	}
	if e, ok := errors.AsType[*bound.Error](limits.XML(doc)); ok { // the decoder reports other errors, with a line number
		return bad("document has " + e.Error())
	}
	d := xml.NewDecoder(bytes.NewReader(doc))
	// The bytes are UTF-8, even if the declaration names another encoding.
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	depth := 0
	for n := 0; ; n++ {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return doc, nil
		}
		if err != nil {
			return nil, syntaxError(err)
		}
		if n > maxTokens {
			return bad(fmt.Sprintf("document has more than %d tokens", maxTokens))
		}
		switch t := t.(type) {
		case xml.Directive:
			line, _ := d.InputPos()
			return nil, &Error{Kind: KindMalformed, Line: line, Text: "document type declarations are not allowed"}
		case xml.StartElement:
			if depth++; depth > maxDepth {
				return bad("document is nested too deeply")
			}
			if len(t.Attr) > 100 {
				return bad("element has too many attributes")
			}
		case xml.EndElement:
			depth--
		}
	}
}

// syntaxError keeps the line and the kind of the error but not its text,
// which may quote a password that was not escaped.
func syntaxError(err error) error {
	e := &Error{Kind: KindMalformed, Text: "not well-formed XML"}
	s, ok := errors.AsType[*xml.SyntaxError](err)
	if !ok {
		return e
	}
	e.Line = s.Line
	for _, k := range []string{"unexpected EOF", "invalid character entity", "illegal character code", "unescaped <", "invalid UTF-8"} {
		if strings.Contains(s.Msg, k) {
			e.Text += ": " + k
			return e
		}
	}
	if strings.HasPrefix(s.Msg, "element ") {
		e.Text += ": mismatched end tag"
	}
	return e
}

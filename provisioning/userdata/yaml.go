package userdata

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"math"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of one cloud-config, after its aliases have been followed.
const (
	maxNodes = 20000
	maxDepth = 40
)

// A kind is what a value of YAML is.
type kind string

const (
	aText   kind = "text"
	aBool   kind = "a boolean"
	aNumber kind = "a number"
	aNull   kind = "empty"
	aBinary kind = "binary"
	aMap    kind = "a map"
	aList   kind = "a list"
)

// A value is a value of a cloud-config, with its place. Values are not changed
// once they are made: merging makes new maps and lists.
type value struct {
	kind kind
	// text is a scalar as it stands in the document; of binary data, the data.
	text string
	// unlike is set if YAML 1.1 reads a plain scalar as something whose text is
	// another one: 0644 is 420, 1e3 is 1000.0.
	unlike bool
	keys   []string // of a map, in order
	fields map[string]*value
	items  []*value
	at     Place
	keyAt  map[string]Place // of the keys of a map
}

// place returns the place of a key, which is not that of its value if this
// begins on a line below.
func (v *value) place(key string) Place {
	if at, ok := v.keyAt[key]; ok {
		return at
	}
	return v.fields[key].at
}

func (v *value) isTrue() bool {
	switch strings.ToLower(v.text) {
	case "yes", "true", "on":
		return true
	}
	return false
}

// field returns a value of a map, nil if it is absent.
func (v *value) field(key string) *value {
	if v == nil {
		return nil
	}
	return v.fields[key]
}

// A reader makes values of YAML nodes.
type reader struct {
	at       Place
	problems *problems
	nodes    int
	over     bool
}

// readYAML reads the text of a cloud-config. nil: it has nothing, or there are
// problems.
func readYAML(text []byte, at Place, ps *problems) *value {
	switch {
	case len(text) > maxConfig:
		ps.add(CodeLimit, at, "", "more than %d KiB", maxConfig>>10)
		return nil
	case !utf8.Valid(text):
		at.Line = badLine(text)
		ps.add(CodeSyntax, at, "", "not UTF-8")
		return nil
	case bytes.IndexByte(text, 0) >= 0:
		ps.add(CodeSyntax, at, "", "contains a NUL byte")
		return nil
	}
	in := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := in.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // empty, or only comments
	} else if err != nil {
		var why string
		at.Line, why = lineOf(text, err)
		ps.add(CodeSyntax, at, "", "not YAML: %s", why)
		return nil
	}
	if err := in.Decode(&second); !errors.Is(err, io.EOF) {
		at.Line = second.Line // 0 if it cannot be read
		ps.add(CodeSyntax, at, "", "more than one YAML document")
		return nil
	}
	r := &reader{at: at, problems: ps}
	if len(doc.Content) == 0 {
		return nil
	}
	v := r.value(doc.Content[0], 1)
	switch {
	case r.over:
		ps.add(CodeLimit, at, "", "more than %d values, or %d levels, aliases included", maxNodes, maxDepth)
		return nil
	case v == nil || v.kind == aNull:
		return nil
	case v.kind != aMap:
		ps.add(CodeSyntax, v.at, "", "not a map of keys and values, but %s", v.kind)
		return nil
	}
	return v
}

// badLine returns the line of the first character that is not UTF-8.
func badLine(text []byte) int {
	for n := 0; n < len(text); {
		r, size := utf8.DecodeRune(text[n:])
		if r == utf8.RuneError && size == 1 {
			return bytes.Count(text[:n], []byte("\n")) + 1
		}
		n += size
	}
	return 0
}

// yamlFaults are the faults of YAML that people make, by what the library says
// of them, and how they are mended. An alias is not repeated: a password may begin
// with *.
var yamlFaults = []struct{ said, why string }{
	{"unknown anchor", "an alias without its anchor; put text that begins with * in quotes"},
	{"mapping values are not allowed", "a colon and a blank in text, or a line with a wrong indentation; put text that contains a colon and a blank in quotes"},
	{"did not find expected key", "a key is expected here; is the line indented as the ones before it, or is there text after a closing quote?"},
	{"did not find expected '-'", "an entry of the list (-) is expected here; is the line indented as the ones before it, or is there text after a closing quote?"},
	{"could not find expected ':'", "a key without a colon after it, or a line with a wrong indentation"},
	{"block sequence entries are not allowed", "an entry of a list (-) is not allowed here; a list begins on a line of its own"},
	{"did not find expected ',' or ']'", "a list in brackets that is not closed, or lacks a comma"},
	{"did not find expected ',' or '}'", "a map in braces that is not closed, or lacks a comma"},
	{"found character that cannot start any token", "found character that cannot start any token (a tab cannot indent; put text that begins with @, % or a backquote in quotes)"},
	{"found a tab character", "a tab cannot indent"},
	{"found unknown escape character", "an escape (\\) that is not known in double quotes; use single quotes, or \\\\"},
	{"found unexpected end of stream", "a quote is not closed"},
	{"did not find expected alphabetic or numeric character", "text that begins with & or *, or text after a closing quote; put the whole value in quotes"},
	{"did not find expected whitespace or line break", "a tag (!) that cannot be read; put text that begins with ! in quotes"},
	{"did not find expected comment or line break", "text after a closing quote, or after > or |; put the whole value in quotes"},
	{"control characters are not allowed", "a control character"},
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line \d+: )?`)

// explain says what an error of the YAML library means for the document.
func explain(err error) string {
	text := yamlLine.ReplaceAllString(err.Error(), "")
	for _, f := range yamlFaults {
		if strings.HasPrefix(text, f.said) {
			return f.why
		}
	}
	return word(text)
}

// lineOf returns what an error of the YAML library says, for the reader alone,
// and its line. The library often names the line on which the map or list begins
// that it was reading, and miscounts some: the line of the fault is the first one
// with which the text, cut off after it, has the same error. It repeats no text
// of the document.
func lineOf(text []byte, err error) (line int, why string) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	end := make([]int, len(lines)+1) // of the first n lines
	for i, l := range lines {
		end[i+1] = end[i] + len(l)
	}
	line = sort.Search(len(lines), func(n int) bool {
		var doc yaml.Node
		e := yaml.NewDecoder(bytes.NewReader(text[:end[n]])).Decode(&doc)
		return e != nil && e.Error() == err.Error()
	})
	return line, explain(err)
}

func (r *reader) place(n *yaml.Node) Place {
	at := r.at
	at.Line = n.Line
	return at
}

func (r *reader) value(n *yaml.Node, depth int) *value {
	r.nodes++
	if r.over = r.over || r.nodes > maxNodes || depth > maxDepth; r.over {
		return nil
	}
	switch n.Kind {
	case yaml.AliasNode:
		// The place stays that of the alias' target: there the value stands.
		return r.value(n.Alias, depth+1)
	case yaml.MappingNode:
		return r.mapping(n, depth)
	case yaml.SequenceNode:
		r.tag(n, "!!seq")
		v := &value{kind: aList, at: r.place(n), items: make([]*value, 0, len(n.Content))}
		for _, c := range n.Content {
			if item := r.value(c, depth+1); item != nil {
				v.items = append(v.items, item)
			}
		}
		return v
	case yaml.ScalarNode:
		return r.scalar(n)
	case yaml.DocumentNode:
	}
	return nil
}

// tag checks that a node has no other tag than the one that is expected.
func (r *reader) tag(n *yaml.Node, want string) {
	if n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != want {
		r.badTag(n)
	}
}

// badTag does not repeat the tag: it may be a password that nobody has put in
// quotes.
func (r *reader) badTag(n *yaml.Node) {
	r.problems.add(CodeValue, r.place(n), "", "a tag (!) that is not supported; put text that begins with ! in quotes")
}

const mergeKey = "<<"

func (r *reader) mapping(n *yaml.Node, depth int) *value {
	r.tag(n, "!!map")
	v := &value{kind: aMap, at: r.place(n), fields: map[string]*value{}, keyAt: map[string]Place{}}
	var below []*value // what merge keys bring in
	for i := 0; i+1 < len(n.Content) && !r.over; i += 2 {
		k := n.Content[i]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			text := "a key must be a single word"
			if k.Kind == yaml.MappingNode {
				text += "; templates ({{ }}) are not supported" // which are maps in maps to YAML
			}
			r.problems.add(CodeSyntax, r.place(k), "", "%s", text)
			continue
		}
		item := r.value(n.Content[i+1], depth+1)
		if item == nil {
			continue
		}
		if k.Value == mergeKey && k.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0 {
			if item.kind == aList {
				below = append(below, item.items...)
			} else {
				below = append(below, item)
			}
			continue
		}
		if v.fields[k.Value] != nil {
			r.problems.add(CodeSyntax, r.place(k), word(k.Value), "the key is given twice, first in line %d", v.place(k.Value).Line)
			continue
		}
		v.keys = append(v.keys, k.Value)
		v.fields[k.Value], v.keyAt[k.Value] = item, r.place(k)
	}
	for _, b := range below {
		if b.kind != aMap {
			r.problems.add(CodeSyntax, v.at, mergeKey, "must be a map, or a list of maps")
			continue
		}
		for _, k := range b.keys {
			r.nodes++
			if v.fields[k] == nil {
				v.keys = append(v.keys, k)
				v.fields[k], v.keyAt[k] = b.fields[k], b.place(k)
			}
		}
	}
	return v
}

func (r *reader) scalar(n *yaml.Node) *value {
	v := &value{kind: aText, text: n.Value, at: r.place(n)}
	quoted := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	if n.Style&yaml.TaggedStyle != 0 {
		switch t := n.ShortTag(); t {
		case "!!str":
			quoted = true
		case "!!binary":
			raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Value), ""))
			if err != nil {
				r.problems.add(CodeValue, v.at, "", "!!binary is not followed by base64")
			}
			v.kind, v.text = aBinary, string(raw)
			return v
		case "!!int", "!!float", "!!bool", "!!null":
			quoted = false
		default:
			r.badTag(n)
		}
	}
	if !quoted {
		v.kind, v.unlike = plain(n.Value)
	}
	return v
}

// Plain scalars that YAML 1.1 does not take for text, as cloud-init reads them.
var (
	plainBool  = regexp.MustCompile(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	plainInt   = regexp.MustCompile(`^[-+]?(?:0b[0-1_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	plainFloat = regexp.MustCompile(`^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	plainSame  = regexp.MustCompile(`^(?:0|-?[1-9][0-9]{0,17})$`)
	plainTime  = regexp.MustCompile(`^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}`)
)

// plain returns what a plain scalar is in YAML 1.1, and whether its text is not
// that of the value.
func plain(s string) (k kind, unlike bool) {
	switch {
	case s == "" || s == "~" || slices.Contains([]string{"null", "Null", "NULL"}, s):
		return aNull, false
	case plainBool.MatchString(s):
		return aBool, true
	case plainInt.MatchString(s), plainFloat.MatchString(s):
		return aNumber, !plainSame.MatchString(s) && !sameFloat(s)
	case plainTime.MatchString(s):
		return aText, true
	}
	return aText, false
}

// sameFloat reports whether a number with a point is written as cloud-init would
// write it: 1.5 and 1.0 are, 1.10 is not.
func sameFloat(s string) bool {
	f, err := strconv.ParseFloat(s, 64)
	if abs := math.Abs(f); err != nil || abs >= 1e15 || abs < 1e-3 && abs != 0 || !strings.Contains(s, ".") {
		return false
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text == s
}

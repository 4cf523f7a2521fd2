package metadata

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/cli"
)

// limits of a document, those of protocol/imds.
var limits = bound.Limits{Bytes: 1 << 20, Nodes: 20_000, Depth: 64}

// kind is what a node is.
type kind byte

const (
	text    kind = iota // a string
	literal             // a number, true, false or null
	object
	list
)

// A Node is a part of the document: a value, or an object or list of nodes. Its
// members have the order of the document.
type Node struct {
	kind  kind
	value string   // of a text or literal
	names []string // of an object's members
	nodes []*Node  // members
}

// Parse reads a document, which must be an object.
func Parse(doc []byte) (*Node, error) { return parse(doc, limits) }

func parse(doc []byte, l bound.Limits) (*Node, error) {
	if err := l.JSON(doc); err != nil {
		return nil, err
	}
	if !json.Valid(doc) {
		return nil, errors.New("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	n, err := read(d)
	if err != nil {
		return nil, err
	}
	if n.kind != object {
		return nil, errors.New("not a JSON object")
	}
	return n, nil
}

// read reads one value. The depth was limited before.
func read(d *json.Decoder) (*Node, error) {
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	switch t := t.(type) {
	case string:
		return &Node{value: t}, nil
	case json.Number:
		return &Node{kind: literal, value: t.String()}, nil
	case bool:
		return &Node{kind: literal, value: strconv.FormatBool(t)}, nil
	case json.Delim:
		if t == '[' {
			return readList(d)
		}
		return readObject(d)
	}
	return &Node{kind: literal, value: "null"}, nil
}

func readList(d *json.Decoder) (*Node, error) {
	n := &Node{kind: list}
	for d.More() {
		m, err := read(d)
		if err != nil {
			return nil, err
		}
		n.nodes = append(n.nodes, m)
	}
	_, err := d.Token()
	return n, err
}

// readObject reads an object. Of members with the same name the last counts, as
// in package json.
func readObject(d *json.Decoder) (*Node, error) {
	n, at := &Node{kind: object}, map[string]int{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("read document: %w", err)
		}
		name, _ := t.(string) // it can be nothing else
		m, err := read(d)
		if err != nil {
			return nil, err
		}
		if i, twice := at[name]; twice {
			n.nodes[i] = m
			continue
		}
		at[name] = len(n.nodes)
		n.names, n.nodes = append(n.names, name), append(n.nodes, m)
	}
	_, err := d.Token()
	return n, err
}

// Leaf reports whether n is a single value.
func (n *Node) Leaf() bool { return n.kind == text || n.kind == literal }

// Value is the value of a leaf; null is empty.
func (n *Node) Value() string {
	if n.kind == literal && n.value == "null" {
		return ""
	}
	return n.value
}

// MarshalJSON returns n as JSON, in the order of the document.
func (n *Node) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	n.json(&b)
	return b.Bytes(), nil
}

func (n *Node) json(b *bytes.Buffer) {
	switch n.kind {
	case text:
		quote(b, n.value)
	case literal:
		b.WriteString(n.value)
	case object, list:
		marks := "[]"
		if n.kind == object {
			marks = "{}"
		}
		b.WriteByte(marks[0])
		for i, m := range n.nodes {
			if i > 0 {
				b.WriteByte(',')
			}
			if n.kind == object {
				quote(b, n.names[i])
				b.WriteByte(':')
			}
			m.json(b)
		}
		b.WriteByte(marks[1])
	}
}

func quote(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)         // a string can always be encoded
	b.Truncate(b.Len() - 1) // the newline
}

// name returns how the member i is called in a path.
func (n *Node) name(i int) string {
	if n.kind == object {
		return n.names[i]
	}
	return strconv.Itoa(i)
}

// member returns the place of a member: in an object by its name, in which case
// matters only if two names differ in nothing else; in a list by its number.
func (n *Node) member(name string) (int, bool) {
	if n.kind == object {
		i := slices.Index(n.names, name)
		if i < 0 {
			i = slices.IndexFunc(n.names, func(s string) bool { return strings.EqualFold(s, name) })
		}
		return i, i >= 0
	}
	i, err := strconv.Atoi(name)
	return i, err == nil && i >= 0 && i < len(n.nodes) && strconv.Itoa(i) == name
}

// get returns the member with this name, nil if there is none.
func (n *Node) get(name string) *Node {
	if n == nil || n.kind != object {
		return nil
	}
	if i, ok := n.member(name); ok {
		return n.nodes[i]
	}
	return nil
}

// The members of compute that list the tags: as one text, and one by one.
const (
	tagsText = "tags"
	tagsList = "tagsList"
)

// tag is one tag of the machine.
type tag struct {
	name  string
	value *Node
}

// tags returns the tags that n, which is compute, lists one by one.
func (n *Node) tags() []tag {
	all := n.get(tagsList)
	if all == nil || all.kind != list {
		return nil
	}
	var out []tag
	for _, m := range all.nodes {
		name, value := m.get("name"), m.get("value")
		if name != nil && value != nil && name.kind == text && value.Leaf() {
			out = append(out, tag{name.value, value})
		}
	}
	return out
}

// A NotFoundError is the error of a path that leads to nothing.
type NotFoundError struct {
	Path string // as far as it leads to something, then the part that does not
	near string // a path that may be meant
}

func (e *NotFoundError) Error() string {
	if e.near == "" {
		return fmt.Sprintf("the metadata have no %s", bound.Quote(e.Path))
	}
	return fmt.Sprintf("the metadata have no %s; did you mean %s?", bound.Quote(e.Path), bound.Quote(e.near))
}

// Split returns the parts of a path. Slashes around it are ignored, and so is
// the name that the whole document has in the address of the service.
func Split(path string) []string {
	path = strings.Trim(path, "/")
	if len(path) >= len("instance") && strings.EqualFold(path[:len("instance")], "instance") {
		if rest := path[len("instance"):]; rest == "" || rest[0] == '/' {
			path = strings.Trim(rest, "/")
		}
	}
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

// Find returns the part of the document at a path, and the path with the names
// as the document writes them. Names are joined by slashes, and members of lists
// have their number: network/interface/0/macAddress. The case of names does not
// matter. A tag is found by its name, too: compute/tags/NAME.
func (n *Node) Find(path string) (*Node, []string, error) {
	parts := Split(path)
	var names []string
	for i, part := range parts {
		if strings.EqualFold(part, tagsText) && i+1 < len(parts) && n.get(tagsList) != nil {
			return n.findTag(append(names, tagsText), strings.Join(parts[i+1:], "/"))
		}
		at, ok := 0, false
		if !n.Leaf() {
			at, ok = n.member(part)
		}
		if !ok {
			return nil, nil, n.notFound(names, part)
		}
		names = append(names, n.name(at))
		n = n.nodes[at]
	}
	return n, names, nil
}

// findTag returns the tag of n, which is compute, with this name. names is the
// path of all tags.
func (n *Node) findTag(names []string, name string) (*Node, []string, error) {
	all := n.tags()
	var known []string
	for _, exact := range []bool{true, false} {
		for _, t := range all {
			if t.name == name || !exact && strings.EqualFold(t.name, name) {
				return t.value, append(names, t.name), nil
			}
			known = append(known, t.name)
		}
	}
	return nil, nil, missing(names, name, known)
}

func (n *Node) notFound(names []string, part string) error {
	var known []string
	if n.kind == object {
		known = n.names
	}
	return missing(names, part, known)
}

func missing(names []string, part string, known []string) error {
	e := &NotFoundError{Path: join(names, part)}
	if near := cli.Nearest(part, known); near != "" {
		e.near = join(names, near)
	}
	return e
}

// join returns the path of a member.
func join(names []string, name string) string {
	return strings.Join(append(slices.Clone(names), name), "/")
}

// Complete returns the paths that begin with a text, one level beyond its last
// slash. Those of objects and lists end with a slash.
func (n *Node) Complete(begin string) []string {
	dir, last := "", begin
	if i := strings.LastIndexByte(begin, '/'); i >= 0 {
		dir, last = begin[:i+1], begin[i+1:]
	}
	var out []string
	offer := func(name string, leaf bool) {
		if len(name) < len(last) || !strings.EqualFold(name[:len(last)], last) {
			return
		}
		if !leaf {
			name += "/"
		}
		out = append(out, dir+name)
	}
	parts := Split(dir)
	if k := len(parts) - 1; k >= 0 && strings.EqualFold(parts[k], tagsText) {
		if above, _, err := n.Find(strings.Join(parts[:k], "/")); err == nil {
			for _, t := range above.tags() {
				offer(t.name, true)
			}
		}
		return out
	}
	if at, _, err := n.Find(dir); err == nil {
		for i, m := range at.nodes {
			offer(at.name(i), m.Leaf())
			if at.kind == object && strings.EqualFold(at.name(i), tagsText) && len(at.tags()) > 0 {
				offer(at.name(i), false)
			}
		}
	}
	return out
}

package metadata

import (
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/secret"
)

// private are the members that hold what people give to their machines: scripts
// and configuration, often with passwords in them.
var private = []string{"userData", "customData", "vendorData"}

func isPrivate(name string) bool {
	return slices.ContainsFunc(private, func(p string) bool { return strings.EqualFold(p, name) })
}

// Public returns a copy of the document without what is not for every user of
// the machine, and the paths that were left out: user data and its kind, and
// values that look like secrets, such as a tag with the key of an account. The
// service itself tells every user of the machine all of it; a file that lies
// there, is backed up or becomes the environment of processes is another matter.
func (n *Node) Public() (*Node, []string) {
	var omitted []string
	return n.public(nil, "", &omitted), omitted
}

func (n *Node) public(path []string, name string, omitted *[]string) *Node {
	out := &Node{kind: n.kind, value: n.value}
	hideTags := slices.ContainsFunc(n.tags(), func(t tag) bool { return sensitive(t.name, t.value.value) })
	for i, m := range n.nodes {
		at, label := n.name(i), n.name(i)
		if n.kind == list {
			label = name // an element of a list is called what the list is
		} else if strings.EqualFold(at, "value") {
			if t := n.get("name"); t != nil && t.kind == text {
				label = t.value // what a tag is called
			}
		}
		tags := hideTags && strings.EqualFold(at, tagsText)
		if m.value != "" && (isPrivate(at) || tags || m.kind == text && sensitive(label, m.value)) {
			*omitted = append(*omitted, join(path, at))
			if n.kind == list { // the others keep their numbers
				out.nodes = append(out.nodes, &Node{kind: literal, value: "null"})
			}
			continue
		}
		if n.kind == object {
			out.names = append(out.names, at)
		}
		out.nodes = append(out.nodes, m.public(append(slices.Clone(path), at), label, omitted))
	}
	return out
}

// sensitive reports whether a value looks like a secret, by itself or because of
// what it is called.
func sensitive(name, value string) bool {
	if secret.Redact(value) != value {
		return true
	}
	pair := strconv.Quote(name) + ": " + strconv.Quote(value)
	return secret.Redact(pair) != pair
}

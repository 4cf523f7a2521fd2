package userdata

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/azguest/azguest/agent/secret"
)

// hidden stands for a secret.
const hidden = "[hidden]"

// YAML returns the merged cloud-config without its secrets, with the place of
// each value as a comment if origin is set; "" if there is none.
func (d Data) YAML(origin bool) (string, error) {
	if d.tree == nil || len(d.tree.keys) == 0 {
		return "", nil
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(shown(d.tree, "", origin)); err != nil {
		return "", fmt.Errorf("write YAML: %w", err)
	}
	return b.String(), e.Close()
}

// A Value is one scalar of the merged cloud-config.
type Value struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	At    Place  `json:"at"`
}

// Values returns the scalars of the merged cloud-config without its secrets.
func (d Data) Values() []Value { return values(nil, d.tree, "") }

func values(out []Value, v *value, path string) []Value {
	switch {
	case v == nil:
	case v.kind == aMap:
		for _, k := range v.keys {
			out = values(out, v.fields[k], strings.TrimPrefix(path+"."+k, "."))
		}
	case v.kind == aList:
		for i, item := range v.items {
			if isSecretArg(v.items, i) {
				out = append(out, Value{fmt.Sprintf("%s[%d]", path, i), hidden, item.at})
				continue
			}
			out = values(out, item, fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		out = append(out, Value{path, visible(v, path), v.at})
	}
	return out
}

// secretKeys are the keys whose values are not shown.
var secretKeys = []string{"passwd", "hashed_passwd", "plain_text_passwd"}

// visible returns a scalar as it may be shown: passwords are hidden, contents of
// files and binary data only counted, and texts that look like secrets masked.
func visible(v *value, path string) string {
	name := strings.ReplaceAll(path[strings.LastIndexByte(path, '.')+1:], "-", "_")
	switch {
	case slices.Contains(secretKeys, name):
		return hidden
	case v.kind == aBinary, strings.HasPrefix(path, "write_files[") && name == "content":
		return fmt.Sprintf("[%d bytes]", len(v.text))
	}
	return secret.Redact(v.text)
}

// isSecretArg reports whether an item of a list is a secret because of the one
// before it: [login, --password, SECRET].
func isSecretArg(items []*value, i int) bool {
	if i == 0 || !strings.HasPrefix(items[i-1].text, "-") || items[i].kind == aMap || items[i].kind == aList {
		return false
	}
	alone := items[i].text
	line := items[i-1].text + " " + alone
	return secret.Redact(alone) == alone && secret.Redact(line) != line // otherwise only a part of it
}

// shown makes a node of YAML of a value.
func shown(v *value, path string, origin bool) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch v.kind {
	case aMap:
		n.Kind = yaml.MappingNode
		for _, k := range v.keys {
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: k}, shown(v.fields[k], strings.TrimPrefix(path+"."+k, "."), origin))
		}
	case aList:
		n.Kind = yaml.SequenceNode
		if len(v.items) == 0 {
			n.Style = yaml.FlowStyle
		}
		for i, item := range v.items {
			if isSecretArg(v.items, i) {
				item = &value{kind: aText, text: hidden, at: item.at}
			}
			n.Content = append(n.Content, shown(item, fmt.Sprintf("%s[%d]", path, i), origin))
		}
	case aText, aBinary:
		n.SetString(visible(v, path))
	case aBool, aNumber, aNull:
		n.Value = v.text
		if s := visible(v, path); s != v.text {
			n.SetString(s)
		}
	}
	if origin && len(n.Content) == 0 {
		n.LineComment = v.at.String()
	}
	return n
}

// Keys returns the keys of the merged cloud-config, in order.
func (d Data) Keys() []string {
	if d.tree == nil {
		return nil
	}
	return d.tree.keys
}

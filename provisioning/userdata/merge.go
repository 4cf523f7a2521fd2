package userdata

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// How says how the value of a cloud-config is merged into what is below it. The
// zero value is the default: maps are merged key by key, and the new value wins;
// a new list replaces the old one.
type how struct {
	list  listRule
	keep  bool // dict(no_replace): the old value of a key wins
	whole bool // dict(replace): a new map replaces the old one
}

type listRule string

const (
	replaceList listRule = ""
	appendList  listRule = "append"
	prependList listRule = "prepend"
	keepList    listRule = "no_replace"
)

// mergeTerm is a term of a merge rule written as text: list(append).
var mergeTerm = regexp.MustCompile(`^([a-z]+)\(([a-z_, ]*)\)$`)

// parseHow reads a rule as text: "list(append)+dict(recurse_array)+str()".
func parseHow(text string) (how, error) {
	var h how
	for term := range strings.SplitSeq(text, "+") {
		m := mergeTerm.FindStringSubmatch(strings.TrimSpace(term))
		if m == nil {
			return how{}, fmt.Errorf("%s: not a rule such as list(append)", quote(term))
		}
		var settings []string
		for s := range strings.SplitSeq(m[2], ",") {
			if s = strings.TrimSpace(s); s != "" {
				settings = append(settings, s)
			}
		}
		if err := h.set(m[1], settings); err != nil {
			return how{}, err
		}
	}
	return h, nil
}

// set applies the settings for one type of value. Those of maps that say into
// which values merging goes are accepted and change nothing: it goes into all
// maps and lists.
func (h *how) set(name string, settings []string) error {
	switch name {
	case "dict":
		h.keep = !slices.Contains(settings, "replace")
		h.whole = !h.keep
	case "list", "str":
	default:
		return fmt.Errorf("%s: merging is by dict, list and str", quote(name))
	}
	for _, s := range settings {
		switch {
		case name == "dict" && slices.Contains([]string{"replace", "no_replace", "recurse_dict", "recurse_array", "recurse_list"}, s):
		case name == "list" && s == "replace":
			h.list = replaceList
		case name == "list" && (s == "append" || s == "prepend" || s == "no_replace"):
			h.list = listRule(s)
		case name == "str" && (s == "replace" || s == "no_replace"):
		default:
			return fmt.Errorf("the setting %s of %s is not supported", quote(s), name)
		}
	}
	return nil
}

// merge reads merge_how or merge_type: a text, or a list of maps of a name and
// settings.
func (d *decoder) merge(v *value, key string) how {
	if v.kind != aList {
		s, ok := d.line(v, key)
		if !ok {
			return how{}
		}
		h, err := parseHow(s)
		if err != nil {
			d.bad(v, key, "%v", err)
		}
		return h
	}
	var h how
	d.each(v, key, func(item *value, key string) {
		var name string
		var settings []string
		d.fields(item, key, map[string]setter{
			"name":     d.toLine(&name, anything),
			"settings": d.toWords(&settings, anything),
		})
		if item.kind != aMap {
			return
		}
		if err := h.set(name, settings); err != nil {
			d.bad(item, key, "%v", err)
		}
	})
	return h
}

// howOf returns the rule of a cloud-config that was judged: that of its own
// keys, else that of its part's header.
func howOf(v *value, header string, ps *problems, at Place) how {
	for _, key := range []string{"merge_how", "merge_type"} {
		if f := v.field(key); f != nil && f.kind != aNull {
			d := &decoder{problems: &problems{}} // decodeConfig reports them
			return d.merge(f, key)
		}
	}
	if header == "" {
		return how{}
	}
	h, err := parseHow(header)
	if err != nil {
		ps.add(CodeValue, at, "Merge-Type", "%v", err)
	}
	return h
}

// mergeValues merges a value into the one below it. Neither is changed. Either may
// be nil. Above another layer, a rule decides about lists alone: the value of
// the higher layer wins (DESIGN.md, decision 139).
func mergeValues(below, above *value, h how) *value {
	switch {
	case below == nil:
		return above
	case above == nil:
		return below
	}
	if below.at.Layer != above.at.Layer {
		h.keep, h.whole = false, false
		if h.list == keepList {
			h.list = replaceList
		}
	}
	switch {
	case below.kind == aMap && above.kind == aMap:
		return mergeMaps(below, above, h)
	case below.kind == aList && above.kind == aList:
		out := &value{kind: aList, at: above.at}
		switch h.list {
		case appendList:
			out.items = slices.Concat(below.items, above.items)
		case prependList:
			out.items = slices.Concat(above.items, below.items)
		case keepList:
			return below
		case replaceList:
			return pickValue(h.keep, below, above)
		}
		return out
	}
	return pickValue(h.keep, below, above)
}

func pickValue(below bool, a, b *value) *value {
	if below {
		return a
	}
	return b
}

func mergeMaps(below, above *value, h how) *value {
	out := &value{kind: aMap, at: above.at, keys: slices.Clone(below.keys), fields: maps.Clone(below.fields)}
	for _, k := range above.keys {
		v := above.fields[k]
		was := out.fields[k]
		if was == nil {
			out.keys = append(out.keys, k)
		}
		if h.whole && was != nil && was.kind == aMap {
			was = nil
		}
		out.fields[k] = mergeValues(was, v, h)
	}
	return out
}

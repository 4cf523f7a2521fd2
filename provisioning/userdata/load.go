package userdata

import (
	"cmp"
	"slices"
	"strings"
)

// Data is what all documents say together.
type Data struct {
	Config  Config
	Scripts []Script // in the order in which they run
	// Problems are those of all documents. Those of a vendor's document leave
	// the document out.
	Problems []Problem
	// Refused is set if a document of the user's has a problem, or the layers
	// do not fit together. Then nothing is carried out, the vendor's neither:
	// half of what was asked for is not what anybody asked for (DESIGN.md,
	// decision 140).
	Refused bool
	// Foreign are documents that are not meant for this package: they have none
	// of its forms.
	Foreign []Place

	tree *value
}

// Load reads documents, lowest layer first, and judges them. It is pure.
func Load(docs []Document) Data {
	var out Data
	for _, doc := range docs {
		if len(doc.Data) == 0 && doc.Fault == "" {
			continue
		}
		p, ps := judge(doc)
		out.Problems = append(out.Problems, ps...)
		switch {
		case len(ps) > 0:
			out.Refused = out.Refused || !doc.Layer.Vendor()
			continue
		case p.foreign:
			out.Foreign = append(out.Foreign, Place{Layer: doc.Layer, Part: doc.Name})
			continue
		}
		out.Scripts = append(out.Scripts, p.scripts...)
		for _, c := range p.values {
			out.tree = mergeValues(out.tree, c.value, c.how)
		}
	}
	if out.Refused {
		return Data{Problems: out.Problems, Foreign: out.Foreign, Refused: true}
	}
	var ps problems
	out.Config = decodeConfig(out.tree, &ps)
	if len(ps.list) > 0 {
		return Data{Problems: append(out.Problems, ps.all()...), Foreign: out.Foreign, Refused: true, tree: out.tree}
	}
	slices.SortStableFunc(out.Scripts, compareScripts)
	return out
}

// A judged document is one whose cloud-configs were read.
type judged struct {
	parsed
	values []ruled
}

// A ruled value is a cloud-config, and how it is merged.
type ruled struct {
	value *value
	how   how
}

// judge reads one document, and finds everything that is wrong with it.
func judge(doc Document) (judged, []Problem) {
	p, list := parse(doc)
	out := judged{parsed: p}
	ps := problems{list: list}
	for _, c := range p.configs {
		v := readYAML(c.text, c.at, &ps)
		if v == nil {
			continue
		}
		decodeConfig(v, &ps)
		h := howOf(v, c.merge, &ps, c.at)
		out.values = append(out.values, ruled{withoutRules(v), h})
	}
	return out, ps.all()
}

// withoutRules returns a cloud-config without the keys that are about merging
// it.
func withoutRules(v *value) *value {
	out := &value{kind: aMap, at: v.at, fields: map[string]*value{}}
	for _, k := range v.keys {
		if k != "merge_how" && k != "merge_type" {
			out.keys = append(out.keys, k)
			out.fields[k] = v.fields[k]
		}
	}
	return out
}

// compareScripts puts scripts in the order in which they run: the vendor's, then
// the user's; by class; by name, whatever layer of the user's they are from.
func compareScripts(a, b Script) int {
	vendor := func(s Script) int {
		if s.At.Layer.Vendor() {
			return 0
		}
		return 1
	}
	class := func(s Script) int {
		return slices.Index([]Class{OncePerDisk, EveryBoot, EachVM, Plain}, s.Class)
	}
	return cmp.Or(cmp.Compare(vendor(a), vendor(b)), cmp.Compare(class(a), class(b)), strings.Compare(a.Name, b.Name))
}

// Empty reports whether there is nothing to carry out.
func (d Data) Empty() bool { return d.tree == nil && len(d.Scripts) == 0 }

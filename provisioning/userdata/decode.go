package userdata

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/cli"
)

// A decoder makes a Config of a value, and judges it. It goes on after a
// problem, so that people see all of them at once.
type decoder struct {
	problems *problems
	unpacked int64 // of all contents of files
}

func (d *decoder) bad(v *value, key, format string, args ...any) {
	d.problems.add(CodeValue, v.at, key, format, args...)
}

// A setter takes the value of a key. It is not called for an empty value, which
// is the same as no key.
type setter func(v *value, key string)

// fields passes the values of a map to the setters of their keys. path is that
// of the map, "" for the top.
func (d *decoder) fields(v *value, path string, known map[string]setter) {
	if v.kind != aMap {
		d.bad(v, path, "must be a map, not %s", v.kind)
		return
	}
	seen := map[string]bool{}
	for _, k := range v.keys {
		key := strings.TrimPrefix(path+"."+word(k), ".")
		name := k
		if path != "" {
			name = strings.ReplaceAll(k, "-", "_") // cloud-init takes both in maps of users and such
		}
		set, ok := known[name]
		item := v.fields[k]
		switch {
		case !ok && item.kind == aNull && v.hasPassword():
			// {passwd: one,two} has a key "two": the rest of the password.
			d.problems.add(CodeKey, item.at, strings.TrimPrefix(path+".…", "."), "a key without a value, beside a password, is not supported; put text that contains a comma in quotes")
		case !ok:
			text := "this key is not supported"
			if near := cli.Nearest(name, sortedNames(known)); near != "" {
				text += fmt.Sprintf("; did you mean %q?", near)
			}
			d.problems.add(CodeKey, item.at, key, "%s", text)
		case seen[name]:
			d.bad(item, key, "given twice, with - and with _")
		case item.kind != aNull:
			set(item, key)
		}
		seen[name] = true
	}
}

// hasPassword reports whether one of the keys of a map is for a password.
func (v *value) hasPassword() bool {
	return slices.ContainsFunc(v.keys, func(k string) bool { return strings.Contains(k, "passwd") })
}

func sortedNames(known map[string]setter) []string {
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// each passes the items of a list to f.
func (d *decoder) each(v *value, key string, f func(item *value, key string)) {
	if v.kind != aList {
		d.bad(v, key, "must be a list, not %s", v.kind)
		return
	}
	for i, item := range v.items {
		f(item, fmt.Sprintf("%s[%d]", key, i))
	}
}

// text returns a scalar as text. What YAML 1.1 takes for something with another
// text is refused: cloud-init would use that.
func (d *decoder) text(v *value, key string) (string, bool) {
	switch {
	case v.kind == aText && !v.unlike, v.kind == aNumber && !v.unlike:
		return v.text, true
	case v.kind == aBool, v.unlike:
		// Not repeated: it may be a part of a command, and that a secret.
		d.bad(v, key, "without quotes it is %s in YAML 1.1; put it in quotes", pick(v.kind == aText, "a time", string(v.kind)))
	default:
		d.bad(v, key, "must be text, not %s", v.kind)
	}
	return "", false
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

// maxLine is the length of a text that names something.
const maxLine = 4096

// line returns text that names something: not empty, on one line.
func (d *decoder) line(v *value, key string) (string, bool) {
	s, ok := d.text(v, key)
	switch {
	case !ok:
		return "", false
	case s == "":
		d.bad(v, key, "is empty")
	case len(s) > maxLine:
		d.bad(v, key, "more than %d bytes", maxLine)
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		d.bad(v, key, "contains a line break or another control character")
	default:
		return s, true
	}
	return "", false
}

// fit returns a line that judge accepts.
func (d *decoder) fit(v *value, key string, judge func(string) error) (string, bool) {
	s, ok := d.line(v, key)
	if !ok {
		return "", false
	}
	if err := judge(s); err != nil {
		d.bad(v, key, "%s: %v", quote(s), err)
		return "", false
	}
	return s, true
}

// words returns a list of texts, which may also be one text with commas.
func (d *decoder) words(v *value, key string, judge func(string) error) []string {
	var out []string
	if v.kind != aList {
		s, ok := d.line(v, key)
		if !ok {
			return nil
		}
		for w := range strings.SplitSeq(s, ",") {
			if w = strings.TrimSpace(w); w == "" {
				continue
			}
			if err := judge(w); err != nil {
				d.bad(v, key, "%s: %v", quote(w), err)
				continue
			}
			out = append(out, w)
		}
		return out
	}
	d.each(v, key, func(item *value, key string) {
		if s, ok := d.fit(item, key, judge); ok {
			out = append(out, s)
		}
	})
	return out
}

func (d *decoder) truth(v *value, key string) bool {
	if v.kind != aBool {
		d.bad(v, key, "must be true or false without quotes, not %s", v.kind)
	}
	return v.kind == aBool && v.isTrue()
}

// whole returns a whole number within limits, which may stand in quotes.
func (d *decoder) whole(v *value, key string, least, most int64) (int, bool) {
	n, err := strconv.ParseInt(v.text, 10, 64)
	switch {
	case v.kind != aNumber && v.kind != aText, err != nil, v.unlike:
		d.bad(v, key, "must be a whole number in decimal")
	case n < least || n > most:
		d.bad(v, key, "must be between %d and %d", least, most)
	default:
		return int(n), true
	}
	return 0, false
}

// The setters for fields of simple types.

func (d *decoder) toTruth(at *bool) setter {
	return func(v *value, key string) { *at = d.truth(v, key) }
}

func (d *decoder) toLine(at *string, judge func(string) error) setter {
	return func(v *value, key string) { *at, _ = d.fit(v, key, judge) }
}

func (d *decoder) toWords(at *[]string, judge func(string) error) setter {
	return func(v *value, key string) { *at = d.words(v, key, judge) }
}

func anything(string) error { return nil }

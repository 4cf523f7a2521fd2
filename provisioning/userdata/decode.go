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
			d.problems.add(CodeKey, v.place(k), strings.TrimPrefix(path+".…", "."), "a key without a value, beside a password, is not supported; put text that contains a comma in quotes")
		case !ok:
			d.problems.add(CodeKey, v.place(k), key, "this key is not supported%s", advice(name, path, known))
		case seen[name]:
			d.problems.add(CodeValue, v.place(k), key, "given twice, with - and with _")
		case item.kind != aNull:
			set(item, key)
		}
		seen[name] = true
	}
}

// instead is what to use instead of keys of cloud-init that are not supported, by
// the key of the top in which they are, "" for the top itself.
var instead = map[string]map[string]string{
	"": {
		"apt_update":                 "use package_update",
		"apt_upgrade":                "use package_upgrade",
		"apt_reboot_if_required":     "use runcmd",
		"package_reboot_if_required": "use runcmd",
		"chpasswd":                   "use hashed_passwd and lock_passwd: false in users",
		"password":                   "use hashed_passwd and lock_passwd: false in users, in the entry named default for the account of the VM",
		"ssh_pwauth":                 "the VM's own setting of password authentication decides; use write_files for another one in /etc/ssh/sshd_config.d",
		"ssh_import_id":              "use ssh_authorized_keys; nothing is fetched from elsewhere",
		"user":                       "use users, with an entry named default for the account of the VM",
		"power_state":                "use runcmd",
		"cloud_final_modules":        "for a script at every boot use a part of type text/x-shellscript-per-boot",
		"preserve_hostname":          "without hostname and fqdn the name stays as it is",
		"swap":                       "use ResourceDisk.EnableSwap in waagent.conf",
		"fs_setup":                   "use bootcmd, or ResourceDisk.* in waagent.conf for the temporary disk",
		"disk_setup":                 "use bootcmd, or ResourceDisk.* in waagent.conf for the temporary disk",
		"mount_default_fields":       "give all fields in mounts",
		"ssh":                        "", // no key that looks like it does the same
	},
	"users": {
		"ssh_import_id":     "use ssh_authorized_keys; nothing is fetched from elsewhere",
		"ssh_redirect_user": "the keys of the VM are those of its account",
		"group":             "use groups, or primary_group",
		"password":          "use hashed_passwd, or plain_text_passwd",
		"chpasswd":          "use hashed_passwd and lock_passwd: false in the entry of the user",
		"comment":           "use gecos",
		"gid":               "use primary_group",
	},
	"write_files": {
		"mode":   "use permissions",
		"file":   "use path",
		"group":  "use owner: USER:GROUP",
		"source": "nothing is fetched from elsewhere; use content",
	},
}

// advice says what to write instead of an unknown key in a map; "" if nothing is
// known.
func advice(name, path string, known map[string]setter) string {
	top, _, _ := strings.Cut(path, "[")
	if text, ok := instead[top][name]; ok {
		return strings.TrimSuffix("; "+text, "; ")
	}
	if near := cli.Nearest(name, sortedNames(known)); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
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
		text := ""
		if v.kind == aText && strings.HasPrefix(v.text, "-") {
			text = "; a blank is missing after -"
		}
		d.bad(v, key, "must be a list, not %s%s", v.kind, text)
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
	case v.kind == aMap:
		d.bad(v, key, "must be text, not a map; put text that contains a colon and a blank in quotes")
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

// toHidden is toLine for text that may contain a secret, such as the options of
// a mount: no message repeats it.
func (d *decoder) toHidden(at *string, judge func(string) error) setter {
	return func(v *value, key string) {
		s, ok := d.line(v, key)
		if err := judge(s); ok && err != nil {
			d.bad(v, key, "%v", err)
			return
		}
		*at = s
	}
}

// toOptional is toLine for a value that may be left out: an empty text, which a
// template leaves of a variable without a value, is the same as no key.
func (d *decoder) toOptional(at *string, judge func(string) error) setter {
	return func(v *value, key string) {
		if v.kind != aText || v.text != "" {
			*at, _ = d.fit(v, key, judge)
		}
	}
}

// toPath is toOptional for paths, which may contain slashes that mean nothing.
func (d *decoder) toPath(at *string, judge func(string) error) setter {
	return func(v *value, key string) {
		d.toOptional(at, judge)(v, key)
		*at = plainPath(*at)
	}
}

// plainPath returns a path without slashes that mean nothing. "." and ".." stay,
// and are refused: what they mean depends on links.
func plainPath(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	if len(s) > 1 {
		s = strings.TrimSuffix(s, "/")
	}
	return s
}

func (d *decoder) toWords(at *[]string, judge func(string) error) setter {
	return func(v *value, key string) {
		if v.kind != aText || v.text != "" {
			*at = d.words(v, key, judge)
		}
	}
}

func anything(string) error { return nil }

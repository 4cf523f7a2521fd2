package userdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func packed(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// message makes a MIME message of parts, each of which has its header.
func message(parts ...string) string {
	s := "Content-Type: multipart/mixed; boundary=\"XX\"\nMIME-Version: 1.0\n\n"
	for _, p := range parts {
		s += "--XX\n" + p + "\n"
	}
	return s + "--XX--\n"
}

func user(text string) []Document { return []Document{{Layer: UserData, Data: []byte(text)}} }

// summary says what documents were taken for, on lines.
func summary(d Data) string {
	var b strings.Builder
	for _, s := range d.Scripts {
		fmt.Fprintf(&b, "%s %s %q\n", s.Class, s.Name, s.Data)
	}
	for _, c := range d.Config.RunCommands {
		fmt.Fprintf(&b, "run %q%q\n", c.Shell, c.Args)
	}
	if d.Config.HostName != "" {
		fmt.Fprintf(&b, "hostname %s\n", d.Config.HostName)
	}
	for _, p := range d.Config.Packages {
		fmt.Fprintf(&b, "package %s\n", p.Name)
	}
	for _, p := range d.Problems {
		fmt.Fprintf(&b, "%s %s\n", p.ID, p.Error())
	}
	for _, p := range d.Foreign {
		fmt.Fprintf(&b, "foreign %s\n", p)
	}
	if d.Refused {
		b.WriteString("refused\n")
	}
	return b.String()
}

const script = "#!/bin/sh\necho hi\n"

// TestForms: every form of a document, and what is no form.
func TestForms(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	for _, tc := range []struct{ name, doc, want string }{
		{"nothing", "", ""},
		{"blanks", " \n\t\n", ""},
		{"script", script, "script part-001 \"#!/bin/sh\\necho hi\\n\"\n"},
		{"script with CRLF", "#!/bin/sh\r\necho hi\r\n", "script part-001 \"#!/bin/sh\\necho hi\\n\"\n"},
		{"script without interpreter", "#! sh\n", "AZ-DATA-FORM user data: a script must begin with #! and the absolute path of an interpreter, without blanks or lines before it\nrefused\n"},
		{"blank line before the script", "\n" + script, "AZ-DATA-FORM user data: a script must begin with #! and the absolute path of an interpreter, without blanks or lines before it\nrefused\n"},
		{"program", "\x7fELF\x01", "script part-001 \"\\x7fELF\\x01\"\n"},
		{"cloud-config", "#cloud-config\nhostname: a\n", "hostname a\n"},
		{"trailing text", "#cloud-config for the web servers\r\nhostname: a\r\n", "hostname a\n"},
		{"capitals", "#CLOUD-CONFIG\nhostname: a\n", "hostname a\n"},
		{"misspelt", "#cloud-configs\nhostname: a\n", "AZ-DATA-FORM user data: neither a script with #! nor a #cloud-config: it begins with \"#cloud-configs\"\nrefused\n"},
		{"byte order mark", "\xef\xbb\xbf#cloud-config\n", "AZ-DATA-FORM user data: begins with a byte order mark; save it as UTF-8 without one\nrefused\n"},
		{"UTF-16", "\xff\xfe#\x00", "AZ-DATA-FORM user data: begins with a byte order mark; save it as UTF-8 without one\nrefused\n"},
		{"gzip", packed(t, "#cloud-config\nhostname: a\n"), "hostname a\n"},
		{"gzip of gzip", packed(t, packed(t, script)), "script part-001 \"#!/bin/sh\\necho hi\\n\"\n"},
		{"damaged gzip", packed(t, script)[:20], "AZ-DATA-SYNTAX user data: not readable with gzip: unexpected EOF\nrefused\n"},
		{"base64", b64([]byte("#cloud-config\nhostname: a\n")), "hostname a\n"},
		{"base64 of gzip", b64([]byte(packed(t, script))), "script part-001 \"#!/bin/sh\\necho hi\\n\"\n"},
		{"data of an application", `{"role": "web"}`, "foreign user data\n"},
		{"another application", "\x00\x01\x02", "foreign user data\n"},
		{"boothook", "#cloud-boothook\n", "AZ-DATA-FORM user data: #cloud-boothook is not supported; use bootcmd, or a script of type text/x-shellscript-per-boot\nrefused\n"},
		{"include", "#include\nhttp://e.example/x\n", "AZ-DATA-FORM user data: #include is not supported: nothing is fetched from elsewhere\nrefused\n"},
		{"template", "## template: jinja\n#cloud-config\n", "AZ-DATA-FORM user data: templates (## template: jinja) are not supported\nrefused\n"},
		{"part handler", "#part-handler\n", "AZ-DATA-FORM user data: #part-handler is not supported\nrefused\n"},
		{"upstart", "#upstart-job\n", "AZ-DATA-FORM user data: #upstart-job is not supported\nrefused\n"},
		{"archive", "#cloud-config-archive\n", "AZ-DATA-FORM user data: an archive of cloud-configs is not supported; use MIME multipart\nrefused\n"},

		{"message", message(
			"Content-Type: text/x-shellscript; charset=\"us-ascii\"\nContent-Disposition: attachment; filename=\"setup.sh\"\n\n"+script,
			"Content-Type: text/cloud-config\n\nhostname: a\nruncmd: [x]\n",
			"Content-Type: text/x-shellscript-per-boot\n\n"+script,
			"Content-Type: text/x-shellscript-per-once; name=once\n\n"+script,
			"Content-Type: text/x-shellscript-per-instance\nContent-Transfer-Encoding: base64\n\n"+b64([]byte(script)),
			"Content-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\n#!/bin/sh\necho=20hi\n",
		), `per-once once "#!/bin/sh\necho hi\n"
per-boot part-003 "#!/bin/sh\necho hi\n"
per-instance part-005 "#!/bin/sh\necho hi\n"
script part-006 "#!/bin/sh\necho hi\n"
script setup.sh "#!/bin/sh\necho hi\n"
run "x"[]
hostname a
`},
		{"CRLF message", strings.ReplaceAll(message("Content-Type: text/cloud-config\n\nhostname: a\n"), "\n", "\r\n"), "hostname a\n"},
		{"message of a message", message("Content-Type: multipart/mixed; boundary=YY\n\n--YY\nContent-Type: text/cloud-config\n\nhostname: a\n--YY--\n"), "hostname a\n"},
		{"message packed", packed(t, message("Content-Type: text/cloud-config\n\nhostname: a\n")), "hostname a\n"},
		{"part packed", message("Content-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" + b64([]byte(packed(t, script)))), "script part-001 \"#!/bin/sh\\necho hi\\n\"\n"},
		{"cloud-config that says it is a script", message("Content-Type: text/x-shellscript\n\n#cloud-config\nhostname: a\n"), "hostname a\n"},
		{"no message", "#!/bin/sh\n# MIME-Version: 1.0\necho hi\n", "script part-001 \"#!/bin/sh\\n# MIME-Version: 1.0\\necho hi\\n\"\n"},
		{"names with slashes", message("Content-Type: text/x-shellscript\nContent-Disposition: attachment; filename=\"../../etc/cron.d/x\"\n\n" + script), "script _.._etc_cron.d_x \"#!/bin/sh\\necho hi\\n\"\n"},
		{"name of dots", message("Content-Type: text/x-shellscript\nContent-Disposition: attachment; filename=\"..\"\n\n" + script), "script part-001 \"#!/bin/sh\\necho hi\\n\"\n"},
		{
			"two of a name", message("Content-Type: text/x-shellscript; name=a\n\n"+script, "Content-Type: text/x-shellscript; name=a\n\n"+script),
			"AZ-DATA-VALUE user data, part 2 (a): two scripts are named \"a\"\nrefused\n",
		},
		{"unknown type", message("Content-Type: image/png\n\nx"), "AZ-DATA-FORM user data, part 1: parts of type \"image/png\" are not supported\nrefused\n"},
		{"unknown encoding", message("Content-Type: text/plain\nContent-Transfer-Encoding: x-uuencode\n\nx"), "AZ-DATA-SYNTAX user data, part 1: Content-Transfer-Encoding \"x-uuencode\" is not supported\nrefused\n"},
		{"no base64", message("Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n!!!"), "AZ-DATA-SYNTAX user data, part 1: content cannot be decoded (base64): unexpected EOF\nrefused\n"},
		{"lying charset", message("Content-Type: text/cloud-config; charset=utf-16\n\nhostname: \xe4\n"), "AZ-DATA-FORM user data, part 1: charset \"utf-16\" is not supported; use UTF-8\nrefused\n"},
		{"lying boundary", "Content-Type: multipart/mixed; boundary=ZZ\n\n--XX\n\nx\n--XX--\n", "AZ-DATA-SYNTAX user data: the MIME message is damaged: it has no line \"--ZZ\", with which its header says that parts begin\nrefused\n"},
		{"no boundary", "Content-Type: multipart/mixed\n\n--XX\n", "AZ-DATA-SYNTAX user data: the MIME message names no boundary\nrefused\n"},
		{"cut off", strings.TrimSuffix(message("Content-Type: text/cloud-config\n\nhostname: a\n"), "--XX--\n"), "AZ-DATA-SYNTAX user data: the MIME message is damaged: its last line \"--XX--\" is missing: it is cut off\nrefused\n"},
		{"bad type", "Content-Type: ;;\n\nx\n", "AZ-DATA-SYNTAX user data: Content-Type \";;\": mime: no media type\nrefused\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, summary(Load(user(tc.doc)))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestFormLimits: documents that are larger or deeper than they may be.
func TestFormLimits(t *testing.T) {
	bomb := packed(t, strings.Repeat("\x00", maxUnpacked+1))
	half := packed(t, "#!/bin/sh\n"+strings.Repeat("#", maxUnpacked/2))
	b64 := base64.StdEncoding.EncodeToString
	deep := script
	for range maxLevels + 1 {
		deep = packed(t, deep)
	}
	nested := "Content-Type: text/plain\n\n" + script
	for i := range maxLevels + 1 {
		nested = fmt.Sprintf("Content-Type: multipart/mixed; boundary=B%d\n\n--B%d\n%s\n--B%d--\n", i, i, nested, i)
	}
	many := make([]string, maxParts+5)
	for i := range many {
		many[i] = "Content-Type: text/plain\n\n#!/bin/sh\n"
	}
	packedPart := "Content-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n" + b64([]byte(half))
	for _, tc := range []struct{ name, doc, want string }{
		{"large", strings.Repeat("#", MaxDocument+1), "user data: more than 4 MiB"},
		{"bomb", bomb, "user data: unpacks to more than 8 MiB"},
		{"small bombs", message(packedPart, packedPart, packedPart), "user data, part 2: unpacks to more than 8 MiB"},
		{"deep", deep, "user data: more than 6 levels of packing"},
		{"nested", nested, "user data: more than 6 levels of parts"},
		{"many", message(many...), "user data, part 201: more than 200 parts"},
		{"long config", "#cloud-config\n#" + strings.Repeat("x", maxConfig), "user data: more than 256 KiB"},
		{"aliases", "#cloud-config\na: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n", "user data: more than 20000 values, or 40 levels, aliases included"},
		{"deep YAML", "#cloud-config\nruncmd: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "user data: more than 20000 values, or 40 levels, aliases included"},
		{"a value that contains itself", "#cloud-config\nruncmd: &a [*a]\n", "user data: more than 20000 values, or 40 levels, aliases included"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Load(user(tc.doc))
			if !d.Refused || len(d.Problems) == 0 || d.Problems[0].ID != CodeLimit || d.Problems[0].Error() != tc.want {
				t.Errorf("got %+v", d.Problems)
			}
		})
	}
}

// TestMixedLineEnds: the line ends of boundaries are not those of the parts.
func TestMixedLineEnds(t *testing.T) {
	const want = "#!/bin/sh\necho a"
	for _, doc := range []string{
		"Content-Type: multipart/mixed; boundary=B\n\n--B\n\n#!/bin/sh\necho a\n--B\n\n#!/bin/sh\necho a\n--B--\n",
		"Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\n\r\n#!/bin/sh\necho a\n--B\r\n\r\n#!/bin/sh\necho a\r\n--B--\r\n",
		"Content-Type: multipart/mixed; boundary=B\n\n--B\n\n#!/bin/sh\necho a\r\n--B\n\n#!/bin/sh\necho a\n--B--",
		"Content-Type: multipart/mixed; boundary=B\nMIME-Version: 1.0\r\n\r\n--B\r\n\r\n#!/bin/sh\necho a\r\n--B \n\n#!/bin/sh\necho a\r\n--B--\r\n",
	} {
		d := Load(user(doc))
		if len(d.Scripts) != 2 || string(d.Scripts[0].Data) != want || string(d.Scripts[1].Data) != want {
			t.Errorf("%q: %q, %v", doc, d.Scripts, d.Problems)
		}
	}
}

// TestSyntax: what is no cloud-config, although it says so.
func TestSyntax(t *testing.T) {
	for _, tc := range []struct{ name, doc, want string }{
		{"only comments", "# nothing\n", ""},
		{"empty value", "null\n", ""},
		{"list", "- a\n", "AZ-DATA-SYNTAX user data, line 2: not a map of keys and values, but a list\n"},
		{"text", "hello\n", "AZ-DATA-SYNTAX user data, line 2: not a map of keys and values, but text\n"},
		{"two documents", "hostname: a\n---\nhostname: b\n", "AZ-DATA-SYNTAX user data, line 3: more than one YAML document\n"},
		{"tabs", "ntp:\n\tenabled: true\n", "AZ-DATA-SYNTAX user data, line 3: not YAML: found character that cannot start any token (a tab cannot indent; put text that begins with @, % or a backquote in quotes)\n"},
		{"tab first", "\tntp:\n", "AZ-DATA-SYNTAX user data, line 2: not YAML: found character that cannot start any token (a tab cannot indent; put text that begins with @, % or a backquote in quotes)\n"},
		{"broken", "hostname: [a\n", "AZ-DATA-SYNTAX user data, line 2: not YAML: a list in brackets that is not closed, or lacks a comma\n"},
		{"not UTF-8", "hostname: \xff\n", "AZ-DATA-SYNTAX user data, line 2: not UTF-8\n"},
		{"NUL", "hostname: \x00\n", "AZ-DATA-SYNTAX user data: contains a NUL byte\n"},
		{"key twice", "hostname: a\nhostname: b\n", "AZ-DATA-SYNTAX user data, line 3: hostname: the key is given twice, first in line 2\n"},
		{"key is a list", "? [a]\n: b\n", "AZ-DATA-SYNTAX user data, line 2: a key must be a single word\n"},
		{"tag", "hostname: !!python/object:os.system a\n", "AZ-DATA-VALUE user data, line 2: a tag (!) that is not supported; put text that begins with ! in quotes\n"},
		{"unknown keys, all of them", "hostnam: a\npower_state:\n  mode: reboot\nusers:\n- name: bob\n  snapuser: x\n  ssh-authorized-keys: []\n", `AZ-DATA-KEY user data, line 2: hostnam: this key is not supported; did you mean "hostname"?
AZ-DATA-KEY user data, line 3: power_state: this key is not supported; use runcmd
AZ-DATA-KEY user data, line 7: users[0].snapuser: this key is not supported
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := tc.want
			if want != "" {
				want += "refused\n"
			}
			if diff := cmp.Diff(want, summary(Load(user("#cloud-config\n"+tc.doc)))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestPlaceOfFault: the line is that of the fault, not that on which the map or
// list begins, and what is said helps to mend it.
func TestPlaceOfFault(t *testing.T) {
	const before = "#cloud-config\npackage_update: true\npackages:\n- a\n- b\n"
	for _, tc := range []struct {
		doc  string
		line int
		want string
	}{
		{"users:\n  - name: ann\n   shell: /bin/sh\n", 8, "an entry of the list (-) is expected here"},
		{"write_files:\n- path: /a\n  content: |\n    a\n   b\n  owner: x\n", 10, "indented as the ones before it"},
		{"runcmd:\n- ls\n hostname: a\n", 8, "a colon and a blank in text"},
		{"runcmd:\n- \"echo a\" >/x\n", 7, "text after a closing quote"},
		{"runcmd:\n- 'ls' && pwd\n", 7, "text after a closing quote"},
		{"runcmd:\n- && ls\n", 7, "text that begins with & or *"},
		{"runcmd:\n- > a b\n", 7, "put the whole value in quotes"},
		{"runcmd:\n- [sh, -c, \"x]\n- ls\n", 7, "a quote is not closed"},
		{"runcmd:\n- [ls\nhostname: a\n", 7, "a list in brackets that is not closed"},
		{"ntp: {servers: [a], pools: [b]\n\ntimezone: UTC\n", 6, "a map in braces that is not closed"},
		{"runcmd:\n- \"s/\\d//\"\n", 7, "use single quotes"},
		{"runcmd:\n- a\n\t- b\n", 8, "a tab cannot indent"},
		{"runcmd:\n- *a\n", 7, "put text that begins with * in quotes"},
		{"hostname: a: b\n", 6, "put text that contains a colon and a blank in quotes"},
		{"hostname\ntimezone: UTC\n", 6, "a key without a colon after it, or a line with a wrong indentation"},
		{"runcmd: - ls\n", 6, "a list begins on a line of its own"},
		{"write_files:\n- path: /a\n  content: \xe4\n", 8, "not UTF-8"},
		{"hostname: a\x01\n", 6, "a control character"},
		{"hostname: {{ v1.name }}\n", 6, "templates ({{ }}) are not supported"},
		{"chpasswd:\n  list: |\n    a:b\n", 6, "use hashed_passwd"},
		{"packages:\n- c\n", 6, "first in line 3"},
		{"runcmd:\n  -ls\n", 7, "a blank is missing after -"},
		{"ssh_authorized_keys:\n- ssh-rsa AAAA a: b\n", 7, "put text that contains a colon and a blank in quotes"},
		{"users:\n- name: ann\n  ssh_import_id:\n  - gh:ann\n", 8, "use ssh_authorized_keys"},
		{"users:\n- name: ann\n  group: adm\n", 8, "use groups, or primary_group"},
		{"write_files:\n- path: /a\n  group: adm\n", 8, "use owner: USER:GROUP"},
	} {
		d := Load(user(before + tc.doc))
		if len(d.Problems) == 0 || d.Problems[0].At.Line != tc.line || !strings.Contains(d.Problems[0].Text, tc.want) {
			t.Errorf("%s: got %v\nwant line %d, %s", tc.doc, d.Problems, tc.line, tc.want)
		}
	}
}

// TestMisplacedBeginning: what was meant for this package is not taken for data
// of an application.
func TestMisplacedBeginning(t *testing.T) {
	for doc, want := range map[string]string{
		"---\n#cloud-config\nhostname: a\n":                       "user data: #cloud-config is in line 2; it must be the first line",
		"# of the web servers\n\n#Cloud-Config \r\nhostname: a\n": "user data: #cloud-config is in line 3; it must be the first line",
		"\n\n" + message("\n"+script):                             "user data: blanks or empty lines before the header of the MIME message; it must begin with the first line",
	} {
		if d := Load(user(doc)); len(d.Problems) != 1 || d.Problems[0].Error() != want || !d.Refused {
			t.Errorf("%q: %v", doc, d.Problems)
		}
	}
	// A manifest of an application that contains a document is not one.
	if d := Load(user("files:\n- |\n  #cloud-config\n  hostname: a\n")); len(d.Foreign) != 1 {
		t.Errorf("%v", d.Problems)
	}
}

// TestMerge: layers and parts, and what they may ask for.
func TestMerge(t *testing.T) {
	layers := func(vendor, custom, user string) []Document {
		return []Document{
			{Layer: VendorFiles, Name: "10.yaml", Data: []byte(vendor)}, {Layer: CustomData, Data: []byte(custom)}, {Layer: UserData, Data: []byte(user)},
		}
	}
	const cc = "#cloud-config\n"
	for _, tc := range []struct {
		name string
		docs []Document
		want string
	}{
		{"the higher layer wins", layers(cc+"hostname: v\n", cc+"hostname: c\n", cc+"hostname: u\n"), "hostname u\n"},
		{"a lower layer shows through", layers(cc+"hostname: v\n", "", cc+"packages: [a]\n"), "hostname v\npackage a\n"},
		{"lists are replaced", layers(cc+"packages: [v]\n", cc+"packages: [c]\n", cc+"packages: [u]\n"), "package u\n"},
		{"lists are appended when asked", layers(cc+"packages: [v]\n", cc+"packages: [c]\nmerge_how: list(append)\n", cc+"packages: [u]\nmerge_type: list(append)+dict(recurse_array)+str()\n"), "package v\npackage c\npackage u\n"},
		{"list notation", layers(cc+"packages: [v]\n", "", cc+"packages: [u]\nmerge_how:\n- {name: list, settings: [prepend]}\n- {name: dict, settings: [no_replace, recurse_list]}\n"), "package u\npackage v\n"},
		{"a value of a higher layer is not kept back", layers(cc+"hostname: v\n", "", cc+"hostname: u\nmerge_how: dict(no_replace)+list(append)\n"), "hostname u\n"},
		{"an empty value takes away", layers(cc+"hostname: v\npackages: [v]\n", "", cc+"packages:\n"), "hostname v\n"},
		{"a broken vendor", layers(cc+"packages: [v]\nfrobnicate: 1\n", "", cc+"packages: [u]\nmerge_how: list(append)\n"), "package u\nAZ-DATA-KEY vendor-data.d, 10.yaml, line 3: frobnicate: this key is not supported\n"},
		{"a broken user", layers(cc+"packages: [v]\n", cc+"packages: [c]\n", cc+"frobnicate: 1\n"), "AZ-DATA-KEY user data, line 2: frobnicate: this key is not supported\nrefused\n"},
		{"layers that do not fit together", layers(cc+"users: [bob]\n", "", cc+"users: [bob]\nmerge_how: list(append)\n"), "AZ-DATA-VALUE user data, line 2: users[1]: the account is given twice, first at vendor-data.d, 10.yaml, line 2\nrefused\n"},
		{"foreign user data", layers("", script, "{}"), "script part-001 \"#!/bin/sh\\necho hi\\n\"\nforeign user data\n"},

		{"later parts win", user(message("Content-Type: text/cloud-config\n\nhostname: a\npackages: [a]", "Content-Type: text/cloud-config\n\nhostname: b\npackages: [b]")), "hostname b\npackage b\n"},
		{"header of a part", user(message("Content-Type: text/cloud-config\n\nhostname: a\npackages: [a]", "Content-Type: text/cloud-config\nMerge-Type: list(append)+dict(no_replace,recurse_list)+str()\n\nhostname: b\npackages: [b]")), "hostname a\npackage a\npackage b\n"},
		{"another header", user(message("Content-Type: text/cloud-config\n\npackages: [a]", "Content-Type: text/cloud-config\nX-Merge-Type: list(prepend)\n\npackages: [b]")), "package b\npackage a\n"},
		{"keep", user(message("Content-Type: text/cloud-config\n\npackages: [a]", "Content-Type: text/cloud-config\nX-Merge-Type: list(no_replace)\n\npackages: [b]")), "package a\n"},
		{"a header that is not understood", user(message("Content-Type: text/cloud-config\nMerge-Type: append\n\nhostname: a")), "AZ-DATA-VALUE user data, part 1: Merge-Type: \"append\": not a rule such as list(append)\nrefused\n"},
		{"order of scripts", layers("#!/bin/v\n", "#!/bin/c\n", message("Content-Type: text/x-shellscript-per-boot; name=z\n\n#!/bin/u1\n", "Content-Type: text/x-shellscript; name=a\n\n#!/bin/u2\n")), `script 10.yaml-part-001 "#!/bin/v\n"
per-boot z "#!/bin/u1\n"
script a "#!/bin/u2\n"
script part-001 "#!/bin/c\n"
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, summary(Load(tc.docs))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestMergeMaps: maps are merged key by key, unless a part says that its own
// replace those of the parts before it.
func TestMergeMaps(t *testing.T) {
	docs := func(header string) []Document {
		return []Document{
			{Layer: VendorPlatform, Data: []byte("#cloud-config\nntp: {pools: [v.example], ntp_client: chrony}\n")},
			{Layer: UserData, Data: []byte(message("Content-Type: text/cloud-config\n\nntp: {servers: [a.example]}", "Content-Type: text/cloud-config\n"+header+"\nntp: {enabled: false}"))},
		}
	}
	for header, want := range map[string]NTP{
		"":                            {Client: NTPChrony, Servers: []string{"a.example"}, Pools: []string{"v.example"}},
		"Merge-Type: dict(replace)\n": {Client: NTPAuto},
	} {
		d := Load(docs(header))
		if diff := cmp.Diff(&want, d.Config.NTP); diff != "" || d.Refused {
			t.Errorf("%q (-want +got):\n%s%v", header, diff, d.Problems)
		}
	}
}

// FuzzLoad: no document makes the agent panic, or take more than it may, and
// what is refused leaves nothing to carry out.
func FuzzLoad(f *testing.F) {
	for _, s := range []string{script, "#cloud-config\nusers: [default]\nruncmd: [[a]]\n", message("Content-Type: text/cloud-config\nMerge-Type: list(append)\n\npackages: [a]"), packed(f, script), "#cloud-config\na: &a [*a]\n", "#cloud-config\n<<: {hostname: a}\n"} {
		f.Add([]byte(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, vendor, data []byte) {
		d := Load([]Document{{Layer: VendorFiles, Name: "x", Data: vendor}, {Layer: UserData, Data: data}})
		items := plan(d, Facts{}, Options{})
		if d.Refused && (len(items) > 0 || len(d.Problems) == 0) {
			t.Errorf("refused: %v, %v", items, d.Problems)
		}
		seen := map[string]bool{}
		for _, i := range items {
			if seen[i.id] {
				t.Errorf("two items %s", i.id)
			}
			seen[i.id] = true
		}
	})
}

// TestShownArguments: an argument that is a secret because of the one before it.
func TestShownArguments(t *testing.T) {
	d := Load(user("#cloud-config\nruncmd:\n- [login, --password, hunter2, --name, ann]\n- [sh, -c, 'export API_TOKEN=hunter2']\nmounts:\n- [//h/s, /s, cifs, 'username=ann,password=hunter2']\n"))
	text, err := d.YAML(true)
	if err != nil || d.Refused {
		t.Fatal(err, d.Problems)
	}
	text += fmt.Sprint(d.Values())
	if strings.Contains(text, "hunter2") || strings.Count(text, hidden) != 2 || !strings.Contains(text, "ann") {
		t.Error(text)
	}
}

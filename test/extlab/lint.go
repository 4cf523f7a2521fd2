package extlab

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Levels of a Finding.
const (
	Error   = "error"   // it cannot work
	Warning = "warning" // it fails in some situations
)

// A Finding is one problem of a package.
type Finding struct {
	Level   string `json:"level"`
	File    string `json:"file,omitempty"` // in the package
	Line    int    `json:"line,omitempty"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

func (f Finding) String() string {
	at := f.File
	if f.Line > 0 {
		at += fmt.Sprintf(":%d", f.Line)
	}
	if f.Field != "" {
		at += " (" + f.Field + ")"
	}
	if at != "" {
		at += ": "
	}
	return f.Level + ": " + at + f.Message
}

// Limits above which a warning is given.
const (
	bigPackage  = 100 << 20
	bigUnpacked = 1 << 30
	bigRatio    = 200
)

// linter collects findings.
type linter struct {
	b   *Bundle
	out []Finding
}

func (l *linter) say(level, file, field, format string, a ...any) {
	l.out = append(l.out, Finding{Level: level, File: file, Field: field, Line: l.line(file, field), Message: fmt.Sprintf(format, a...)})
}

// line returns the line of a field in the manifest, 0 if unknown.
func (l *linter) line(file, field string) int {
	if file == "" || file != l.b.where || field == "" {
		return 0
	}
	at := bytes.Index(l.b.Manifest, []byte(`"`+field[strings.LastIndexByte(field, '.')+1:]+`"`))
	if at < 0 {
		return 0
	}
	return 1 + bytes.Count(l.b.Manifest[:at], []byte("\n"))
}

// Lint checks a package without running anything of it.
func Lint(b *Bundle) []Finding {
	l := &linter{b: b}
	l.names()
	l.contents()
	l.manifest()
	l.scripts()
	slices.SortStableFunc(l.out, func(a, b Finding) int { return strings.Compare(a.Level, b.Level) })
	return l.out
}

func (l *linter) names() {
	switch name := l.b.Name; {
	case name == "":
		l.say(Warning, "", "", "unknown name and version: rename the file to Publisher.Type__1.0.0.zip, or give --name and --version")
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "":
		l.say(Error, "", "", "the name %q has characters that agents refuse; letters, digits, dots, dashes and underscores are allowed", name)
	case !strings.Contains(name, "."):
		l.say(Error, "", "", "the name %q is not Publisher.Type", name)
	case strings.Contains(name, "-"):
		l.say(Warning, "", "", "the name %q has a dash; handler libraries split the directory name <name>-<version> at the dash", name)
	}
	if v := l.b.Version; v != "" {
		parts := strings.Split(v, ".")
		if len(parts) < 2 || len(parts) > 4 || slices.ContainsFunc(parts, func(p string) bool { return p == "" || strings.Trim(p, "0123456789") != "" }) {
			l.say(Error, "", "", "the version %q is not two to four numbers separated by dots", v)
		}
	}
}

// contents checks the entries of the zip file.
func (l *linter) contents() {
	seen, lower := map[string]bool{}, map[string]string{}
	var total uint64
	for _, e := range l.b.entries {
		mode := e.f.Mode()
		clean := path.Clean(e.name)
		switch {
		case strings.HasPrefix(e.name, "/") || clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains(e.name, "/../"):
			l.say(Error, e.f.Name, "", "the path leads out of the package; agents refuse it")
		case mode&fs.ModeSymlink != 0:
			l.say(Error, e.f.Name, "", "agents refuse symbolic links, or replace them with files that contain the target path")
		case mode.Type() != 0 && !mode.IsDir():
			l.say(Error, e.f.Name, "", "agents refuse files of this type (%v)", mode.Type())
		case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			l.say(Warning, e.f.Name, "", "the setuid and setgid bits are dropped")
		}
		if strings.Contains(e.f.Name, `\`) {
			l.say(Warning, e.f.Name, "", "the path has backslashes, as made on Windows; agents that do not convert them create a single file with this name")
		}
		if seen[clean] && !mode.IsDir() {
			l.say(Error, e.f.Name, "", "the package contains this file twice")
		}
		if other, ok := lower[strings.ToLower(clean)]; ok && other != clean {
			l.say(Warning, e.f.Name, "", "differs from %s only in case", other)
		}
		seen[clean], lower[strings.ToLower(clean)] = true, clean
		total += e.f.UncompressedSize64
		top, _, _ := strings.Cut(clean, "/")
		if (top == "config" || top == "status") && !mode.IsDir() {
			l.say(Error, e.f.Name, "", "the directory %s belongs to the agent; files in it are treated as settings or status", top)
		}
		if clean == "HandlerEnvironment.json" || clean == "mrseq" {
			l.say(Error, e.f.Name, "", "this file is written on the machine; until then, the one in the package is used")
		}
	}
	if len(l.b.Data) > bigPackage {
		l.say(Warning, "", "", "large package: every machine downloads %d MiB", len(l.b.Data)>>20)
	}
	if total > bigUnpacked {
		l.say(Warning, "", "", "unpacks to %d MiB", total>>20)
	}
	if len(l.b.Data) > 0 && total > 64<<20 && total/uint64(len(l.b.Data)) > bigRatio {
		l.say(Error, "", "", "%d bytes unpack to %d bytes; agents refuse this as a zip bomb", len(l.b.Data), total)
	}
}

var operations = []string{"install", "enable", "update", "disable", "uninstall"}

func (l *linter) manifest() {
	b := l.b
	if b.Manifest == nil {
		l.say(Error, "HandlerManifest.json", "", "the file is missing")
		return
	}
	if strings.Contains(b.where, "/") {
		l.say(Warning, b.where, "", "not at the root of the package; some agents do not find it")
	}
	data := b.Manifest
	if bytes.HasPrefix(data, bom) {
		l.say(Warning, b.where, "", "starts with a byte order mark")
		data = data[len(bom):]
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		f := Finding{Level: Error, File: b.where, Message: "not an array of objects: " + jsonFault(data, err)}
		if s, ok := err.(*json.SyntaxError); ok { //nolint:errorlint // encoding/json does not wrap it
			f.Line = 1 + bytes.Count(data[:min(int(s.Offset), len(data))], []byte("\n"))
		}
		l.out = append(l.out, f)
		return
	}
	if len(list) == 0 {
		l.say(Error, b.where, "", "the array is empty")
		return
	}
	if len(list) > 1 {
		l.say(Warning, b.where, "", "the array has %d elements; only the first one is read", len(list))
	}
	if v := list[0]["version"]; len(v) > 0 && v[0] == '"' {
		l.say(Warning, b.where, "version", "is a string; the schema requires the number 1.0")
	}
	var hm map[string]json.RawMessage
	if json.Unmarshal(list[0]["handlerManifest"], &hm) != nil || hm == nil {
		l.say(Error, b.where, "handlerManifest", "missing, or not an object")
		return
	}
	for _, op := range operations {
		l.command(op, hm)
	}
	for _, key := range []string{"reportHeartbeat", "continueOnUpdateFailure", "supportsMultipleExtensions", "rebootAfterInstall"} {
		switch v := strings.ToLower(string(hm[key])); v {
		case "", "true", "false":
		case `"true"`, `"false"`:
			l.say(Warning, b.where, "handlerManifest."+key, "%s is a string; write it without quotes", v)
		default:
			l.say(Error, b.where, "handlerManifest."+key, "%s is not a boolean and is treated as false", v)
		}
	}
	var mode string
	if raw, ok := hm["updateMode"]; ok && (json.Unmarshal(raw, &mode) != nil || !strings.EqualFold(mode, "UpdateWithInstall") && !strings.EqualFold(mode, "UpdateWithoutInstall")) {
		l.say(Warning, b.where, "handlerManifest.updateMode", "%s is neither UpdateWithInstall nor UpdateWithoutInstall, and is treated as the latter", raw)
	}
	l.signing(list[0])
}

// jsonFault describes a JSON error without the names of Go types.
func jsonFault(data []byte, err error) string {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return "unexpected JSON " + t.Value
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "the file is empty"
	}
	return err.Error()
}

func (l *linter) signing(top map[string]json.RawMessage) {
	var s struct{ Publisher, Type, Version string }
	if raw, ok := top["signingInfo"]; !ok || json.Unmarshal(raw, &s) != nil || l.b.Name == "" {
		return
	}
	if want := s.Publisher + "." + s.Type; !strings.EqualFold(want, l.b.Name) {
		l.say(Error, l.b.where, "signingInfo.type", "the package is signed as %s, but its name is %s", want, l.b.Name)
	}
	if l.b.Version != "" && !strings.EqualFold(s.Version, l.b.Version) {
		l.say(Error, l.b.where, "signingInfo.version", "the package is signed as version %s, but its version is %s", s.Version, l.b.Version)
	}
}

// command checks one command and the program that it names.
func (l *linter) command(op string, hm map[string]json.RawMessage) {
	field := "handlerManifest." + op + "Command"
	raw, ok := hm[op+"Command"]
	if !ok {
		level := Warning // some agents skip the command, others fail
		if op == "install" || op == "enable" {
			level = Error
		}
		l.say(level, l.b.where, field, "missing")
		return
	}
	var text string
	if json.Unmarshal(raw, &text) != nil || strings.TrimSpace(text) == "" {
		l.say(Error, l.b.where, field, "not a string with a command")
		return
	}
	program := strings.TrimLeft(strings.Fields(text)[0], "/")
	if strings.HasPrefix(text, "/") {
		l.say(Warning, l.b.where, field, "the leading slash is ignored: commands are relative to the package")
	}
	f := l.b.file(program)
	if f == nil {
		l.say(Error, l.b.where, field, "%q is not in the package", program)
		return
	}
	l.program(f, field)
	l.python(f)
}

// python checks that the interpreter of a command exists. Modules that are only
// imported often name one, too, which nothing looks at.
func (l *linter) python(f *zip.File) {
	text, err := read(f, 1<<20)
	if err != nil || slices.ContainsFunc(l.out, func(o Finding) bool { return o.File == f.Name && o.Message == noPython }) {
		return
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	words := strings.Fields(strings.TrimPrefix(string(first), "#!"))
	if !bytes.HasPrefix(first, []byte("#!")) || len(words) == 0 {
		return
	}
	if path.Base(words[0]) == "python" || len(words) > 1 && path.Base(words[0]) == "env" && words[1] == "python" {
		l.out = append(l.out, Finding{Level: Warning, File: f.Name, Line: 1, Message: noPython})
	}
}

const noPython = "current distributions have no program named python"

// program checks the program of a command.
func (l *linter) program(f *zip.File, field string) {
	data, err := read(f, 64<<20)
	if err != nil {
		l.say(Error, f.Name, field, "cannot be unpacked: %v", err)
		return
	}
	switch {
	case len(data) == 0:
		l.say(Error, f.Name, field, "the file is empty")
	case bytes.HasPrefix(data, []byte("\x7fELF")):
		e, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			l.say(Error, f.Name, field, "not a valid ELF program: %v", err)
			return
		}
		if e.Machine != elf.EM_X86_64 && e.Machine != elf.EM_AARCH64 {
			l.say(Error, f.Name, field, "a program for the unsupported architecture %v", e.Machine)
			return
		}
		l.say(Warning, f.Name, field, "a program for %v only, but machines of both architectures get the package; select the program in a script", e.Machine)
	case !bytes.HasPrefix(data, []byte("#!")):
		l.say(Error, f.Name, field, "neither a program nor a script with #! in its first line")
	}
}

// scripts checks the first line of every script.
func (l *linter) scripts() {
	for _, e := range l.b.entries {
		if e.f.Mode().IsDir() || e.f.UncompressedSize64 < 2 {
			continue
		}
		text, err := read(e.f, 1<<20)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			continue
		}
		for _, wrong := range []string{"formatMessage", "formatedMessage", "formattedmessage"} {
			if at := bytes.Index(text, []byte(`"`+wrong+`"`)); at >= 0 {
				l.out = append(l.out, Finding{Level: Warning, File: e.f.Name, Line: 1 + bytes.Count(text[:at], []byte("\n")), Message: wrong + ": the field of a status is called formattedMessage"})
			}
		}
		if !bytes.HasPrefix(text, []byte("#!")) {
			continue
		}
		first, _, _ := bytes.Cut(text, []byte("\n"))
		if bytes.HasSuffix(first, []byte("\r")) {
			l.out = append(l.out, Finding{Level: Error, File: e.f.Name, Line: 1, Message: "the line ends with CRLF: the kernel looks for an interpreter whose name ends in a carriage return"})
			continue
		}
		words := strings.Fields(string(first[2:]))
		if len(words) == 0 || !strings.HasPrefix(words[0], "/") {
			l.out = append(l.out, Finding{Level: Error, File: e.f.Name, Line: 1, Message: "no absolute path to an interpreter after #!"})
		}
	}
}

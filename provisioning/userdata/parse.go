package userdata

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Limits of documents. The platform limits custom data and user data to 64 KiB;
// files of an image and compressed data may be larger.
const (
	// MaxDocument is the size of one document.
	MaxDocument = 4 << 20
	maxUnpacked = 8 << 20 // of all that a document unpacks to
	maxConfig   = 256 << 10
	maxParts    = 200
	maxLevels   = 6 // of MIME in gzip in base64 in …
	maxHeader   = 64 << 10
)

// A Document is what one source has.
type Document struct {
	Layer Layer
	Name  string // of a file of vendor-data.d; else empty
	Data  []byte
	Fault string // why there are no data although the source has some; else empty
}

// A When says how often a script runs.
type When string

// The frequencies.
const (
	PerInstance When = "once per VM"
	PerBoot     When = "at every boot"
	PerOnce     When = "once per disk" // a copy of the disk does not run it again
)

// A Script is a part that is run as it is.
type Script struct {
	Name  string // of the file; unique in a layer for each Class
	Class Class
	Data  []byte
	At    Place
}

// A Class is the type of a script. The scripts of one class run in the order of
// their names, and those of one class after those of another.
type Class string

// The classes, in their order.
const (
	OncePerDisk Class = "per-once"
	EveryBoot   Class = "per-boot"
	EachVM      Class = "per-instance"
	Plain       Class = "script" // without a frequency: once per VM, together with runcmd
)

// When returns how often the scripts of a class run.
func (c Class) When() When {
	switch c {
	case OncePerDisk:
		return PerOnce
	case EveryBoot:
		return PerBoot
	case EachVM, Plain:
	}
	return PerInstance
}

// parsed is what a document contains.
type parsed struct {
	scripts []Script
	configs []configPart
	// foreign is set if the document is not meant for this package at all: data
	// of an application. It has nothing then.
	foreign bool
}

// A configPart is the text of one cloud-config.
type configPart struct {
	text  []byte
	merge string // of the header of the part
	at    Place
}

// A parser takes one document apart.
type parser struct {
	doc      Document
	out      parsed
	problems problems
	parts    int
	unpacked int64
	several  bool // the document is a MIME message
	names    map[string]bool
}

// parse takes a document apart. It reads no YAML.
func parse(d Document) (parsed, []Problem) {
	p := &parser{doc: d, names: map[string]bool{}}
	if d.Fault != "" {
		p.problems.add(CodeSyntax, p.place(""), "", "%s", d.Fault)
		return parsed{}, p.problems.all()
	}
	if len(d.Data) > MaxDocument {
		p.problems.add(CodeLimit, p.place(""), "", "more than %d MiB", MaxDocument>>20)
		return parsed{}, p.problems.all()
	}
	p.blob(d.Data, header{}, 1)
	return p.out, p.problems.all()
}

// A header is what the header of a part says about it.
type header struct {
	kind  string // media type, lower case; "" if there is none
	name  string // of the file
	merge string
}

// place returns the place of a part. name is that of its file.
func (p *parser) place(name string) Place {
	at := Place{Layer: p.doc.Layer, Part: word(p.doc.Name)}
	if p.several && p.parts > 0 {
		part := fmt.Sprintf("part %d", p.parts)
		if name != "" {
			part += " (" + word(name) + ")"
		}
		at.Part = strings.TrimPrefix(at.Part+", "+part, ", ")
	}
	return at
}

// form is the media type of content by its beginning, as cloud-init finds it;
// "" if it has none of its forms.
func form(b []byte) string {
	b = bytes.TrimLeft(b[:min(len(b), 4096)], " \t\r\n\f\v")
	line, _, _ := bytes.Cut(b, []byte("\n"))
	l := strings.ToLower(string(bytes.TrimRight(line, " \t\r")))
	starts := func(s string) bool { return l == s || strings.HasPrefix(l, s+" ") || strings.HasPrefix(l, s+"\t") }
	switch {
	case strings.HasPrefix(l, "#!"):
		return typeScript
	case starts("#cloud-config"):
		return typeConfig
	case strings.HasPrefix(l, "#cloud-config-archive"):
		return "text/cloud-config-archive"
	case strings.HasPrefix(l, "#cloud-config-jsonp"):
		return "text/cloud-config-jsonp"
	case strings.HasPrefix(l, "#include-once"):
		return "text/x-include-once-url"
	case strings.HasPrefix(l, "#include"):
		return "text/x-include-url"
	case strings.HasPrefix(l, "#cloud-boothook"):
		return "text/cloud-boothook"
	case strings.HasPrefix(l, "#part-handler"):
		return "text/part-handler"
	case strings.HasPrefix(l, "#upstart-job"):
		return "text/upstart-job"
	case strings.HasPrefix(l, "## template:"):
		return "text/jinja2"
	}
	return ""
}

// Media types.
const (
	typeScript = "text/x-shellscript"
	typeConfig = "text/cloud-config"
)

// refused are the forms that are known and not supported, and what to do
// instead.
var refused = map[string]string{
	"text/cloud-config-archive": "an archive of cloud-configs is not supported; use MIME multipart",
	"text/cloud-config-jsonp":   "a JSON patch of cloud-config is not supported",
	"text/x-include-once-url":   "#include-once is not supported: nothing is fetched from elsewhere",
	"text/x-include-url":        "#include is not supported: nothing is fetched from elsewhere",
	"text/cloud-boothook":       "#cloud-boothook is not supported; use bootcmd, or a script of type text/x-shellscript-per-boot",
	"text/part-handler":         "#part-handler is not supported",
	"text/upstart-job":          "#upstart-job is not supported",
	"text/jinja2":               "templates (## template: jinja) are not supported",
}

// classes are the classes that media types name.
var classes = map[string]Class{
	typeScript: Plain, typeScript + "-per-instance": EachVM, typeScript + "-per-boot": EveryBoot, typeScript + "-per-once": OncePerDisk,
}

// byContent reports whether the content of a media type says what it is.
func byContent(kind string) bool {
	switch kind {
	case "", "text/plain", "text/x-not-multipart", "application/octet-stream", typeScript:
		return true
	}
	return strings.HasPrefix(kind, "application/") && (strings.Contains(kind, "gzip") || strings.Contains(kind, "gunzip") || strings.Contains(kind, "x-compress"))
}

// blob takes apart a document, or what a part of one contains.
func (p *parser) blob(b []byte, h header, level int) {
	at := p.place(h.name)
	if level > maxLevels {
		p.problems.add(CodeLimit, at, "", "more than %d levels of packing", maxLevels)
		return
	}
	if bytes.HasPrefix(b, []byte("\x1f\x8b")) {
		if raw, ok := p.gunzip(b, at); ok {
			p.blob(raw, h, level+1)
		}
		return
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return
	}
	if hasMark(b) {
		p.problems.add(CodeForm, at, "", "begins with a byte order mark; save it as UTF-8 without one")
		return
	}
	if byContent(h.kind) && (level == 1 || !p.several) {
		if isMessage(b) {
			p.message(b, level)
			return
		}
		if isMessage(bytes.TrimLeft(b, " \t\r\n")) {
			p.problems.add(CodeForm, at, "", "blanks or empty lines before the header of the MIME message; it must begin with the first line")
			return
		}
	}
	kind := h.kind
	if f := form(b); byContent(kind) {
		kind = f
	} else if f == "text/jinja2" {
		kind = f
	}
	p.leaf(b, kind, h, level)
}

// leaf enters a part that is not made of others.
func (p *parser) leaf(b []byte, kind string, h header, level int) {
	if why, ok := refused[kind]; ok {
		p.problems.add(CodeForm, p.place(h.name), "", "%s", why)
		return
	}
	switch {
	case kind == typeConfig:
		p.out.configs = append(p.out.configs, configPart{text: b, merge: h.merge, at: p.place(h.name)})
	case classes[kind] != "":
		p.script(b, classes[kind], h)
	case bytes.HasPrefix(b, []byte("\x7fELF")) && byContent(h.kind):
		p.script(b, Plain, h)
	case kind != "":
		p.problems.add(CodeForm, p.place(h.name), "", "parts of type %s are not supported", quote(kind))
	case level == 1 && p.base64(b, h, level):
	case mark(b) > 1:
		p.problems.add(CodeForm, p.place(h.name), "", "#cloud-config is in line %d; it must be the first line", mark(b))
	case !p.several && !bytes.HasPrefix(bytes.TrimSpace(b), []byte("#")):
		p.out.foreign = true
	default:
		line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
		text := "neither a script with #! nor a #cloud-config"
		if line = bytes.TrimSpace(line); misspelt.Match(line) {
			text += ": it begins with " + quote(string(line))
		}
		p.problems.add(CodeForm, p.place(h.name), "", "%s", text)
	}
}

// mark returns the number of the line, of the first ones, that is #cloud-config;
// 0 if none is.
func mark(b []byte) int {
	const first = 50
	n := 0
	for line := range bytes.Lines(b) {
		if n++; n > first {
			return 0
		}
		if strings.EqualFold(string(bytes.TrimRight(line, " \t\r\n")), "#cloud-config") {
			return n
		}
	}
	return 0
}

// misspelt is what a message repeats of an unknown beginning: what may be a form
// that is written wrongly. Anything else may be a secret of an application.
var misspelt = regexp.MustCompile(`^#+ ?[A-Za-z_-]{1,30}$`)

// base64 takes apart a document that is base64 as a whole.
func (p *parser) base64(b []byte, h header, level int) bool {
	clean := bytes.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n':
			return -1
		}
		return r
	}, b)
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(string(clean), "="))
	if err != nil || form(raw) == "" && !isMessage(raw) && !bytes.HasPrefix(raw, []byte("\x1f\x8b")) {
		return false
	}
	p.blob(raw, h, level+1)
	return true
}

func (p *parser) script(b []byte, class Class, h header) {
	at := p.place(h.name)
	if bytes.HasPrefix(b, []byte("#!")) {
		b = unixLines(b)
	}
	if _, _, ok := interpreter(b); !ok && !bytes.HasPrefix(b, []byte("\x7fELF")) {
		p.problems.add(CodeForm, at, "", "a script must begin with #! and the absolute path of an interpreter, without blanks or lines before it")
		return
	}
	name := cmp.Or(cleanName(h.name), fmt.Sprintf("part-%03d", max(1, p.parts)))
	if p.doc.Name != "" {
		// Files of the vendor run in the order of their names.
		name = cleanName(p.doc.Name + "-" + name)
	}
	if p.names[string(class)+"\x00"+name] {
		p.problems.add(CodeValue, at, "", "two scripts are named %s", quote(name))
		return
	}
	p.names[string(class)+"\x00"+name] = true
	p.out.scripts = append(p.out.scripts, Script{Name: name, Class: class, Data: b, At: at})
}

// unixLines makes the lines of a script end with a newline alone if the first
// one ends with a carriage return: the kernel would take it for a part of the
// interpreter's name.
func unixLines(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if !bytes.HasSuffix(line, []byte("\r")) {
		return b
	}
	return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
}

// interpreter returns the program that the first line of a script names, and
// its argument, as the kernel reads them.
func interpreter(b []byte) (name, arg string, ok bool) {
	rest, ok := bytes.CutPrefix(b, []byte("#!"))
	if !ok {
		return "", "", false
	}
	line, _, _ := bytes.Cut(rest[:min(len(rest), 4096)], []byte("\n"))
	text := strings.Trim(string(line), " \t\r")
	i := strings.IndexAny(text, " \t")
	if i < 0 {
		i = len(text)
	}
	name, arg = text[:i], strings.TrimSpace(text[i:])
	return name, arg, strings.HasPrefix(name, "/") && len(text) < 256 && !strings.ContainsRune(text, 0)
}

// maxName is the length of a script's name.
const maxName = 80

// cleanName returns the name of a file as it can be used: without directories
// and unusual characters. "" if nothing is left.
func cleanName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("_-.()", r):
			return r
		case r == '/':
			return '_'
		}
		return -1
	}, s)
	s = s[:min(len(s), maxName)]
	if strings.Trim(s, "._") == "" {
		return ""
	}
	return strings.TrimLeft(s, ".-")
}

func hasMark(b []byte) bool {
	for _, m := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(b, []byte(m)) {
			return true
		}
	}
	return false
}

// gunzip unpacks within the limits.
func (p *parser) gunzip(b []byte, at Place) (raw []byte, ok bool) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err == nil {
		raw, err = io.ReadAll(io.LimitReader(z, maxUnpacked-p.unpacked+1))
	}
	p.unpacked += int64(len(raw))
	switch {
	case p.unpacked > maxUnpacked:
		p.problems.add(CodeLimit, at, "", "unpacks to more than %d MiB", maxUnpacked>>20)
		return nil, false
	case err != nil:
		p.problems.add(CodeSyntax, at, "", "not readable with gzip: %v", err)
		return nil, false
	}
	return raw, true
}

// isMessage reports whether content is a MIME message: it begins with a header
// that names the version or the type.
func isMessage(b []byte) bool {
	b = b[:min(len(b), maxHeader)]
	if first, rest, ok := bytes.Cut(b, []byte("\n")); ok && bytes.HasPrefix(first, []byte("From ")) {
		b = rest
	}
	named := false
	for line := range bytes.Lines(b) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if line[0] == ' ' || line[0] == '\t' {
			continue
		}
		name, _, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t#!\"'{[<") {
			return false
		}
		n := strings.ToLower(string(name))
		named = named || n == "content-type" || n == "mime-version"
	}
	return named
}

// message takes a MIME message apart.
func (p *parser) message(b []byte, level int) {
	if first, rest, ok := bytes.Cut(b, []byte("\n")); ok && bytes.HasPrefix(first, []byte("From ")) {
		b = rest
	}
	head, body, ok := splitMessage(b)
	if !ok {
		p.problems.add(CodeSyntax, p.place(""), "", "the header of the MIME message has no end in %d KiB", maxHeader>>10)
		return
	}
	p.several = true
	p.entity(head, bytes.NewReader(body), level)
}

// splitMessage divides a message into header and body.
func splitMessage(b []byte) (head textproto.MIMEHeader, body []byte, ok bool) {
	end := -1
	for _, sep := range []string{"\r\n\r\n", "\n\n"} {
		if i := bytes.Index(b[:min(len(b), maxHeader)], []byte(sep)); i >= 0 && (end < 0 || i < end) {
			end, body = i, b[i+len(sep):]
		}
	}
	if end < 0 {
		return nil, nil, false
	}
	r := textproto.NewReader(newLines(b[:end]))
	head, err := r.ReadMIMEHeader()
	return head, body, err == nil
}

// entity takes one entity of a MIME message apart: a part, or a message of
// several.
func (p *parser) entity(head textproto.MIMEHeader, body io.Reader, level int) {
	kind, params, err := mediaType(head)
	if err != nil {
		p.problems.add(CodeSyntax, p.place(""), "", "Content-Type %s: %v", quote(head.Get("Content-Type")), err)
		return
	}
	if level > maxLevels {
		p.problems.add(CodeLimit, p.place(""), "", "more than %d levels of parts", maxLevels)
		return
	}
	if strings.HasPrefix(kind, "multipart/") {
		p.multipart(body, params["boundary"], level)
		return
	}
	if p.parts++; p.parts > maxParts {
		if p.parts == maxParts+1 {
			p.problems.add(CodeLimit, p.place(""), "", "more than %d parts", maxParts)
		}
		return
	}
	h := header{kind: kind, name: fileName(head, params), merge: cmp.Or(head.Get("Merge-Type"), head.Get("X-Merge-Type"))}
	raw, err := decode(body, head.Get("Content-Transfer-Encoding"))
	if err != nil {
		p.problems.add(CodeSyntax, p.place(h.name), "", "%v", err)
		return
	}
	if why := badCharset(raw, kind, params["charset"]); why != "" {
		p.problems.add(CodeForm, p.place(h.name), "", "%s", why)
		return
	}
	p.blob(raw, h, level+1)
}

func (p *parser) multipart(body io.Reader, boundary string, level int) {
	if boundary == "" {
		p.problems.add(CodeSyntax, p.place(""), "", "the MIME message names no boundary")
		return
	}
	// The document is in memory already.
	b, err := io.ReadAll(body)
	if err != nil {
		p.problems.add(CodeSyntax, p.place(""), "", "the MIME message is damaged or cut off: %v", err)
		return
	}
	even, begun, ended := evenLines(b, boundary)
	if !begun || !ended {
		text := "its last line %s is missing: it is cut off"
		last := "--" + boundary + "--"
		if !begun {
			text, last = "it has no line %s, with which its header says that parts begin", "--"+boundary
		}
		p.problems.add(CodeSyntax, p.place(""), "", "the MIME message is damaged: "+text, quote(last))
		return
	}
	for r := multipart.NewReader(bytes.NewReader(even), boundary); p.parts <= maxParts; {
		part, err := r.NextRawPart()
		if err == io.EOF { //nolint:errorlint // the last boundary; at the end of a message without one, the error wraps this
			return
		}
		if err != nil {
			p.problems.add(CodeSyntax, p.place(""), "", "the MIME message is damaged or cut off after part %d: %v", p.parts, err)
			return
		}
		before := len(p.problems.list)
		p.entity(part.Header, part, level+1)
		if len(p.problems.list) > before && p.problems.list[len(p.problems.list)-1].ID == CodeLimit {
			return
		}
	}
}

// evenLines gives all boundaries the line ends that the reader of the standard
// library takes from the first one: with others it would read the next parts as
// text of this one, and run them with its script.
//
// begun and ended say whether there is a boundary of a part, and the last one.
func evenLines(b []byte, boundary string) (out []byte, begun, ended bool) {
	out = make([]byte, 0, len(b)+256)
	for line := range bytes.Lines(b) {
		text := bytes.TrimRight(line, " \t\r\n")
		rest, ok := bytes.CutPrefix(text, []byte("--"+boundary))
		if !ok || len(rest) > 0 && string(rest) != "--" {
			out = append(out, line...)
			continue
		}
		begun, ended = true, ended || len(rest) > 0
		if before, ok := bytes.CutSuffix(out, []byte("\n")); ok {
			out = append(bytes.TrimSuffix(before, []byte("\r")), "\r\n"...)
		}
		out = append(append(out, text...), "\r\n"...)
	}
	return out, begun, ended
}

func mediaType(head textproto.MIMEHeader) (kind string, params map[string]string, err error) {
	text := head.Get("Content-Type")
	if text == "" {
		return "", nil, nil
	}
	kind, params, err = mime.ParseMediaType(text)
	if errors.Is(err, mime.ErrInvalidMediaParameter) {
		return kind, params, nil
	}
	return kind, params, err
}

// fileName returns the name of the file that a part is meant to be.
func fileName(head textproto.MIMEHeader, params map[string]string) string {
	if _, d, err := mime.ParseMediaType(head.Get("Content-Disposition")); err == nil && d["filename"] != "" {
		return d["filename"]
	}
	return params["name"]
}

// decode undoes a transfer encoding.
func decode(body io.Reader, encoding string) ([]byte, error) {
	switch e := strings.ToLower(strings.TrimSpace(encoding)); e {
	case "", "7bit", "8bit", "binary":
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, &blankless{body})
	default:
		return nil, fmt.Errorf("Content-Transfer-Encoding %s is not supported", quote(encoding)) //nolint:staticcheck // begins with a name
	}
	// The document is in memory already; no encoding makes it longer.
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("content cannot be decoded (%s): %w", cmp.Or(encoding, "no encoding"), err)
	}
	return b, nil
}

// blankless drops the blanks in base64 that the decoder of the standard library
// does not expect.
type blankless struct{ r io.Reader }

func (d *blankless) Read(b []byte) (int, error) {
	for {
		n, err := d.r.Read(b)
		kept := 0
		for _, c := range b[:n] {
			if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
				b[kept] = c
				kept++
			}
		}
		if kept > 0 || err != nil {
			return kept, err
		}
	}
}

// badCharset returns why a text in a character set is not used; "" if it is.
func badCharset(b []byte, kind, charset string) string {
	if !strings.HasPrefix(kind, "text/") {
		return ""
	}
	switch strings.ToLower(charset) {
	case "", "utf-8", "utf8", "us-ascii", "ascii":
		return ""
	}
	for _, c := range b {
		if c >= utf8.RuneSelf || c == 0 {
			return fmt.Sprintf("charset %s is not supported; use UTF-8", quote(charset))
		}
	}
	return ""
}

// newLines returns a reader of the lines of a header, with the empty line at its
// end that a reader of headers waits for.
func newLines(b []byte) *bufio.Reader {
	return bufio.NewReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("\r\n\r\n")))
}

package secret

import (
	"strings"
	"sync"
	"unicode/utf8"
)

// kind says how much the name of a value tells about it.
type kind int

const (
	// pass is a password, which may be any word.
	pass kind = 1 + iota
	// short is a password, too, but only as a whole name: "pass" is also a part
	// of other words, and the result of a test.
	short
	// strong is a token or a key: any value but a name, a path, a number.
	strong
	// key is strong after some words ("api_key"); after others, only plainly
	// random values count ("primaryKey"), because keys have names, too.
	key
	// whole is strong, and an object or a list is a secret with all in it,
	// whatever the names in it are.
	whole
	// auth is user and password in base64, as in the configuration of a
	// container registry.
	auth
)

var nameWords = []struct {
	text string
	kind kind
}{
	{"password", pass},
	{"passwd", pass},
	{"passphrase", pass},
	{"passcode", pass},
	{"pass-phrase", pass},
	{"pass_phrase", pass},
	{"pass phrase", pass},
	{"passwort", pass},
	{"kennwort", pass},
	{"sshpass", pass},
	{"dbpass", pass},
	{"userpass", pass},
	{"rootpass", pass},
	{"adminpass", pass},
	{"ldappass", pass},
	{"smtppass", pass},
	{"keypass", pass},
	{"storepass", pass},
	{"contraseña", pass},
	{"contrasena", pass},
	{"mot de passe", pass},
	{"wachtwoord", pass},
	{"heslo", pass},
	{"пароль", pass},
	{"Пароль", pass},
	{"密码", pass},
	{"密碼", pass},
	{"パスワード", pass},
	{"비밀번호", pass},
	{"pwd", pass},
	{"pass", short},
	{"pw=", short},
	{"pw:", short},
	{"pw\"", short},
	{"pw'", short},
	{"pw ", short},
	{"psk", short},
	{"secret", strong},
	{"secret_key_base", strong},
	{"token", strong},
	{"credential", strong},
	{"protectedsettings", whole},
	{"protected_settings", whole},
	{"protected settings", whole},
	{"key", key},
	{"auth", auth},
}

// keysOf are the words before "key" that make it a secret.
var keysOf = []string{
	"api", "access", "account", "secret", "shared", "master", "sign", "signing", "encryption", "function", "functions", "subscription", "storage", "private",
	"auth", "admin", "workspace", "client", "app", "service", "session", "license", "instrumentation", "sas", "hmac", "webhook", "deploy", "registration", "join", "wireguard", "preshared", "decryption", "code",
}

// Limits of what is read after a name.
const (
	maxQuoted = 8 << 10 // of a value in quotes
	maxNested = 64      // strings in a list of values
	maxObject = 64 << 10
)

// names finds values whose name says that they are secret. Names and values are
// written in many ways:
//
//	NAME=value   name: value   "name": "value"   "name":["value","value"]
//	--name value   --name=value   "--name", "value"   name 'value'
//	<name>value</name>   <add key="name" value="value"/>
//	{"name":"NAME","value":"value"}   "name":{"value":"value"}
func names(s string, original bool, found func(from, to int, bare string)) {
	m := matcher()
	done := 0
	for i := 0; i+3 <= len(s); i++ {
		list := m.head[hash(lower[s[i]], lower[s[i+1]], lower[s[i+2]])]
		if list == 0 {
			continue
		}
		// Of "password" and "pass" the longer one counts.
		var w word
		for _, o := range m.lists[list] {
			if o.kind != 0 && len(o.text) > len(w.text) && begins(s[i:], o.text) {
				w = o
			}
		}
		if w.kind == 0 {
			continue
		}
		// A separator that belongs to a word of two letters ("pw=") is not part
		// of the name.
		n := name{s: s, from: i, to: i + len(strings.TrimRight(w.text, `=:"' `)), kind: w.kind, original: original}
		n.values(func(from, to int, bare string) {
			if from >= done {
				found(from, to, bare)
				done = to
			}
		})
		i = max(i, done-1)
	}
}

// A name is the name at s[from:to].
type name struct {
	s        string
	from, to int
	kind     kind
	quoted   string // the quote after it
	original bool   // s has its escapes
	option   bool   // it is an option of a command line
	// sep is what is between it and the value: '=', ':', ',', a blank; '>' of
	// an element, '(' of a call, '|' before a block, 'i' for "is".
	sep byte
}

// values finds the values of the name. bare is a quote that has to be put
// around the mark, so that JSON stays valid.
func (n *name) values(found func(from, to int, bare string)) {
	if !n.whole() {
		return
	}
	at, ok := n.behind()
	if !ok {
		return
	}
	n.read(at, found)
}

func letter(c byte) bool { return 'a' <= lower[c] && lower[c] <= 'z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }
func upper(c byte) bool  { return 'A' <= c && c <= 'Z' }
func blank(c byte) bool  { return c == ' ' || c == '\t' }
func space(c byte) bool  { return blank(c) || c == '\n' || c == '\r' }

// byte returns the byte at i, 0 if i is outside.
func (n *name) byte(i int) byte {
	if i < 0 || i >= len(n.s) {
		return 0
	}
	return n.s[i]
}

// skip returns the first position from i on whose byte is not of a kind.
func (n *name) skip(i int, kind func(byte) bool) int {
	for kind(n.byte(i)) {
		i++
	}
	return i
}

// whole reports whether the word is the end of a name, and of one that counts
// as secret.
func (n *name) whole() bool {
	s, prev := n.s, n.byte(n.from-1)
	inside := letter(prev) && letter(s[n.from]) && (upper(prev) || !upper(s[n.from])) // neither at the beginning of a name nor of a part of it, such as Pass in dbPass
	switch n.kind {
	case short, auth:
		if inside && !(n.kind == short && n.upTo("-")) {
			return false
		}
	case key:
		before := strings.TrimRight(n.s[max(0, n.from-24):n.from], "_-. ")
		i := len(before)
		for i > 0 && letter(before[i-1]) {
			i--
		}
		word := strings.ToLower(before[i:])
		if strings.Contains(lowerOf(s[n.start("_-."):n.from]), "pub") {
			return false // a public key
		}
		for _, k := range keysOf {
			if strings.HasSuffix(word, k) {
				n.kind = strong
				break
			}
		}
	case pass, strong, whole:
		if n.from >= 2 && begins(s[n.from-2:], "no") && !letter(n.byte(n.from-3)) {
			return false // NOPASSWD
		}
	}
	// A number or "value" at the end of a name changes nothing, "file" does.
	for _, more := range []string{"s", "_base64", "_b64", "base64", "_value", ".value", "value", "_plain", "plain", "text"} {
		if begins(s[n.to:], more) && !letter(n.byte(n.to+len(more))) {
			if more == "s" && n.kind == short {
				continue
			}
			n.to += len(more)
			break
		}
	}
	for i := 0; i < 3 && (digit(n.byte(n.to)) || n.byte(n.to) == '_' && digit(n.byte(n.to+1))); i++ {
		n.to++
	}
	switch c := n.byte(n.to); {
	case letter(c) || digit(c) || c == '_':
		return false
	case c == '-' && n.byte(n.to+1) != '>', c == '.' && letter(n.byte(n.to+1)):
		return false // part of a longer name
	}
	return true
}

// start returns where the whole name begins.
func (n *name) start(also string) int {
	i := n.from
	for i > 0 && n.from-i < 100 && (letter(n.s[i-1]) || digit(n.s[i-1]) || strings.IndexByte(also, n.s[i-1]) >= 0) {
		i--
	}
	return i
}

// upTo reports whether the whole name begins with a mark.
func (n *name) upTo(mark string) bool {
	i := n.start("_-.")
	return strings.HasPrefix(n.s[i:], mark)
}

// behind skips what is between a name and its value.
func (n *name) behind() (at int, ok bool) {
	s, i := n.s, n.to
	n.option = n.upTo("-") && !letter(n.byte(n.start("_-.")-1)) && !digit(n.byte(n.start("_-.")-1))
	if q := quoteAt(s, i); q != "" {
		n.quoted = q
		i += len(q)
	}
	if n.byte(i) == '[' && digit(n.byte(i+1)) { // password[0]=…
		i = n.skip(i+1, digit)
	}
	if n.byte(i) == ']' { // $x['password'] = …
		i++
	}
	if n.quoted != "" && n.byte(i) == '>' { // <property name="password">…
		n.sep = '>'
		return i + 1, true
	}
	// <Password>value</Password>, also with attributes.
	if n.quoted == "" {
		if end, ok := n.element(i); ok {
			n.sep = '>'
			return end, true
		}
	}
	if n.quoted != "" || n.byte(i) == '\n' || n.byte(i) == '\r' {
		if at, ok := n.apart(i); ok {
			n.sep = ':'
			return at, true
		}
	}
	j := i
	for blank(n.byte(j)) {
		j++
	}
	if w, sep := separator(s[j:]); w > 0 {
		n.sep = sep
		j += w
		for blank(n.byte(j)) {
			j++
		}
		return n.next(j)
	}
	switch {
	case n.byte(j) == '(' && quoteAt(s, j+1) != "" && n.kind != key:
		n.sep = '('
		return j + 1, true
	case n.option && n.byte(j) == ',' && n.quoted != "":
		j = n.skip(j+1, space)
		n.sep = ','
		return j, quoteAt(s, j) != ""
	case n.option && n.quoted == "" && j > i && n.kind != key && n.kind != auth:
		n.sep = ' '
		if n.byte(j) == '\\' && (n.byte(j+1) == '\n' || n.byte(j+1) == '\r') {
			j = n.skip(j+1, space)
		}
		return j, n.byte(j) != '-'
	case n.quoted == "" && j > i && n.kind == pass && quoteAt(s, j) != "":
		n.sep = '('
		return j, true
	case n.quoted == "" && j > i && n.kind == pass:
		n.sep = 'i'
		return n.sentence(j)
	}
	return 0, false
}

// sentence finds a password in prose: "the password is …", "the temporary
// password generated for joe: …".
func (n *name) sentence(j int) (int, bool) {
	line, _, _ := strings.Cut(n.s[j:min(len(n.s), j+100)], "\n")
	for _, w := range []string{"is ", "is: ", "was ", "set to ", "changed to ", "reset to ", "set to: ", "changed to: ", "is set to ", "is now ", "= "} {
		if begins(line, w) && !begins(line[len(w):], "set to ") && !begins(line[len(w):], "now ") {
			if k := strings.Index(line, ": "); k >= 0 && begins(line, "is ") {
				return j + k + len(": "), true // is generated for joe: …
			}
			return j + len(w), true
		}
	}
	for _, w := range []string{"for ", "of ", "has been ", "generated", "created"} {
		if begins(line, w) {
			k := strings.IndexAny(line, ":=")
			if k < 0 || k+1 >= len(line) || !blank(line[k+1]) {
				return 0, false
			}
			return j + k + len(": "), true
		}
	}
	return j, true
}

// next continues in the next line if the value cannot be in this one: a block
// of YAML, a string of JSON, a line that is continued with a backslash.
func (n *name) next(j int) (int, bool) {
	c := n.byte(j)
	if n.sep == ':' && (c == '|' || c == '>') {
		k := j + 1
		for strings.IndexByte("+-0123456789 \t\r", n.byte(k)) >= 0 && k < len(n.s) {
			k++
		}
		if n.byte(k) == '\n' {
			k = n.skip(k+1, blank)
			n.sep = '|'
			return k, true
		}
	}
	if c == '\n' || c == '\r' || c == '\\' && n.byte(j+1) == '\n' {
		k := j
		if c == '\\' {
			k++
		}
		for space(n.byte(k)) && k-j < 200 {
			k++
		}
		if n.quoted != "" && quoteAt(n.s, k) != "" || c == '\\' {
			return k, true
		}
		return 0, false
	}
	return j, true
}

// element finds the end of the tag that the name is in.
func (n *name) element(i int) (int, bool) {
	b := n.start("_-.:")
	open := false
	for _, o := range []string{"<", "&lt;", `\u003c`} {
		open = open || strings.HasSuffix(n.s[:b], o)
	}
	if !open {
		// The name may have been read with the n of \u003c or the t of &lt;.
		return 0, false
	}
	rest := n.s[i:min(len(n.s), i+200)]
	if blank(n.byte(i)) {
		k := strings.IndexAny(rest, ">\n")
		if k <= 0 || rest[k] != '>' || rest[k-1] == '/' {
			return 0, false
		}
		return i + k + 1, true
	}
	for _, c := range []string{">", "&gt;", `\u003e`} {
		if strings.HasPrefix(rest, c) {
			return i + len(c), true
		}
	}
	return 0, false
}

// apart finds the value of a name that is a value itself:
// {"name":"PASSWORD","value":"…"} and its relatives.
func (n *name) apart(i int) (int, bool) {
	for j := i; j < len(n.s) && j-i < 100; j++ {
		c := n.s[j]
		if space(c) || c == ',' {
			continue
		}
		if q := quoteAt(n.s, j); q != "" {
			j += len(q)
		}
		ok := false
		for _, v := range []string{"value", "securevalue", "defaultvalue"} {
			if begins(n.s[j:], v) {
				j += len(v)
				ok = true
				break
			}
		}
		if !ok {
			return 0, false
		}
		j += len(quoteAt(n.s, j))
		for blank(n.byte(j)) {
			j++
		}
		w, _ := separator(n.s[j:])
		if w == 0 {
			return 0, false
		}
		j = n.skip(j+w, blank)
		return j, true
	}
	return 0, false
}

// separator returns the length and the kind of the separator between a name and
// a value at the beginning of s.
func separator(s string) (n int, sep byte) {
	for _, e := range []struct {
		text string
		sep  byte
	}{
		{":=", '='},
		{"::", 0},
		{"://", 0},
		{":", ':'},
		{"=>", '='},
		{"==", '='},
		{"=", '='},
		{"->", '='},
		{"：", ':'},
		{"＝", '='},
		{"%3d", '='},
		{"%253d", '='},
		{"%3a", ':'},
		{`\u003d`, '='},
		{`\x3d`, '='},
		{"&#61;", '='},
		{"&#x3d;", '='},
		{"&#58;", ':'},
	} {
		if begins(s, e.text) {
			if e.sep == 0 {
				return 0, 0
			}
			return len(e.text), e.sep
		}
	}
	return 0, 0
}

// quotes are the signs that open a value, longer ones first; those of one byte
// may have backslashes before them.
var quotes = []string{"&amp;quot;", "&quot;", "&#34;", "&#39;", "&apos;", "%22", "%27", "“", "”", "„", "‘", "’", "«", "»"}

func quoteAt(s string, i int) string {
	if i >= len(s) {
		return ""
	}
	j := i
	for j < len(s) && s[j] == '\\' {
		j++
	}
	if j < len(s) && (s[j] == '"' || s[j] == '\'' || s[j] == '`' && j == i) {
		return s[i : j+1]
	}
	if j > i && (begins(s[j:], "u0022") || begins(s[j:], "u0027")) {
		return s[i : j+5]
	}
	if c := s[i]; c == '&' || c == '%' || c >= utf8.RuneSelf {
		for _, q := range quotes {
			if begins(s[i:], q) {
				return s[i : i+len(q)]
			}
		}
	}
	return ""
}

// closing returns where the value ends that q opened: at the same quote, not at
// one with more backslashes, which belongs to the value. Without one, it is the
// end of the line.
func closing(s string, from int, q string) int {
	rest := s[from:min(len(s), from+maxQuoted)]
	if i := strings.IndexAny(rest, "\r\n"); i >= 0 {
		rest = rest[:i]
	}
	c := q[len(q)-1]
	switch {
	case q[0] >= utf8.RuneSelf:
		for i := range rest {
			for _, e := range []string{"“", "”", "’", "‘", "»", "«", `"`} {
				if strings.HasPrefix(rest[i:], e) {
					return from + i
				}
			}
		}
	case c == '"' || c == '\'' || c == '`':
		slashes := 0
		for i := 0; i < len(rest); i++ {
			switch {
			case rest[i] == '\\':
				slashes++
				continue
			case rest[i] == c && slashes < len(q):
				if c == '\'' && len(q) == 1 && i+2 < len(rest) && rest[i+1] == '\'' && letter(rest[i+2]) {
					i++ // 'it''s'
					continue
				}
				return from + i - slashes
			case rest[i] == c && c == '\'' && len(q) == 1:
				return from + i
			}
			slashes = 0
		}
	default:
		if i := strings.Index(rest, q); i >= 0 {
			return from + i
		}
	}
	return from + len(rest)
}

// read finds the value that begins at i.
func (n *name) read(i int, found func(from, to int, bare string)) {
	s := n.s
	if n.sep == '>' {
		if strings.HasPrefix(s[i:], "<![CDATA[") {
			i += len("<![CDATA[")
		}
		to := i
		for to < len(s) && to-i < maxQuoted && s[to] != '<' && !strings.HasPrefix(s[to:], "]]>") && !strings.HasPrefix(s[to:], "&lt;") && !strings.HasPrefix(s[to:], `\u003c`) {
			to++
		}
		for i < to && space(s[i]) {
			i++
		}
		for i < to && space(s[to-1]) {
			to--
		}
		n.take(i, to, true, "", found)
		return
	}
	if n.sep == '|' {
		n.block(i, found)
		return
	}
	switch n.byte(i) {
	case '[', '{':
		if n.kind == whole && n.original {
			n.object(i, found)
			return
		}
		n.list(i, found)
		return
	}
	// b'…', u"…", $'…', @"…"
	if i+1 < len(s) && strings.IndexByte("buBUrL$@", s[i]) >= 0 && (s[i+1] == '"' || s[i+1] == '\'') {
		i++
	}
	if q := quoteAt(s, i); q != "" {
		from := i + len(q)
		if n.quoted == "" && (n.sep == ':' || strings.IndexByte("}],: \r\n\x00", n.byte(from)) >= 0) && n.inString(q) {
			return // "Password: " is a prompt
		}
		if n.kind != pass && n.kind != short && sentence(s[from:]) {
			return
		}
		n.take(from, closing(s, from, q), true, "", found)
		return
	}
	to := n.unquoted(i)
	bare := ""
	if n.sep == ':' && strings.HasSuffix(n.quoted, `"`) {
		bare = n.quoted // the value may be a number: the mark needs quotes
	}
	n.take(i, to, false, bare, found)
}

// sentence reports whether s begins with words rather than with a token.
func sentence(s string) bool {
	for i := range min(len(s), 300) {
		switch s[i] {
		case ' ':
			return true
		case '"', '\'', '`', '\n':
			return false
		}
	}
	return false
}

// inString reports whether the name is in a string, which q then ends.
func (n *name) inString(q string) bool {
	b := n.start("_-.")
	if b > 0 && n.s[b-1] == q[0] {
		return true
	}
	line := n.s[max(0, b-500):b]
	line = line[strings.LastIndexByte(line, '\n')+1:]
	return strings.HasSuffix(q, `"`) && strings.Count(line, q)%2 == 1
}

// object takes everything between the bracket at i and the one that closes it. It
// ends before a quote with fewer backslashes than those in it, which closes the
// string that the object is in, and at the limit.
func (n *name) object(i int, found func(from, to int, bare string)) {
	s, level := n.s[:min(len(n.s), i+maxObject)], n.quoted
	to, depth := i, 0
	for to < len(s) {
		if q := quoteAt(s, to); q != "" {
			if level == "" {
				level = q
			}
			if strings.Count(q, `\`) < strings.Count(level, `\`) {
				break
			}
			from := to + len(q)
			to = closing(s, from, q)
			if strings.HasPrefix(s[to:], q) {
				to += len(q)
			}
			continue
		}
		switch s[to] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if to++; depth == 0 {
			break
		}
	}
	if strings.Trim(s[i:to], "{}[] \t\r\n") == "" {
		return // empty
	}
	bare := ""
	if strings.HasSuffix(n.quoted, `"`) {
		bare = n.quoted
	}
	found(i, to, bare)
}

// list reads the strings of a list, and the value in {"value":"…"}.
func (n *name) list(i int, found func(from, to int, bare string)) {
	s := n.s
	if s[i] == '{' {
		if at, ok := n.apart(i + 1); ok {
			if q := quoteAt(s, at); q != "" {
				from := at + len(q)
				n.take(from, closing(s, from, q), true, "", found)
			}
		}
		return
	}
	i++
	for range maxNested {
		for i < len(s) && (space(s[i]) || s[i] == ',') {
			i++
		}
		q := quoteAt(s, i)
		if q == "" {
			return
		}
		from := i + len(q)
		to := closing(s, from, q)
		n.take(from, to, true, "", found)
		i = to + len(q)
	}
}

// block reads the lines of a block of YAML: those that are indented like the
// first.
func (n *name) block(i int, found func(from, to int, bare string)) {
	s := n.s
	line := strings.LastIndexByte(s[:i], '\n') + 1
	indent := s[line:i]
	if indent == "" {
		return
	}
	for range maxNested {
		to := i
		for to < len(s) && s[to] != '\n' && s[to] != '\r' {
			to++
		}
		if to > i {
			n.take(i, to, true, "", found)
		}
		for to < len(s) && (s[to] == '\r' || s[to] == '\n') {
			to++
		}
		if !strings.HasPrefix(s[to:], indent) {
			return
		}
		i = to + len(indent)
	}
}

// unquoted returns the end of a value without quotes. Passwords may have any
// character; what ends one is white space, or a character after which something
// else begins.
func (n *name) unquoted(from int) int {
	s := n.s
	i := from
scan:
	for i < len(s) && i-from < maxQuoted {
		switch c := s[i]; c {
		case ' ', '\t', '\r', '\n', '"', '\'', '`', '<', '>':
			break scan
		case '\\':
			j := i
			for j < len(s) && s[j] == '\\' {
				j++
			}
			if j == len(s) || strings.IndexByte("nrt\"'\n", s[j]) >= 0 || begins(s[j:], "u0026") || begins(s[j:], "u0022") || begins(s[j:], "u003c") {
				break scan
			}
			i = j
			continue
		case '&', ';', ',', '|':
			if another(s[i+1:]) {
				break scan
			}
		case '%':
			if begins(s[i:], "%26") || begins(s[i:], "%2526") || begins(s[i:], "%22") {
				break scan
			}
		case '}', ']', ')':
			if i+1 == len(s) || strings.IndexByte(" \t\r\n,;}])\"'\\", s[i+1]) >= 0 {
				break scan
			}
		}
		i++
	}
	for i > from && strings.IndexByte(",;.:!?", s[i-1]) >= 0 {
		i--
	}
	return i
}

// another reports whether s begins with something that is not part of the value
// before: nothing, a blank, a name and its separator, an entity.
func another(s string) bool {
	if s == "" || space(s[0]) || s[0] == '"' || s[0] == '\'' {
		return true
	}
	if begins(s, "amp;") || begins(s, "quot;") || begins(s, "lt;") || begins(s, "#34;") {
		return true
	}
	for i := range min(len(s), 60) {
		c := s[i]
		switch {
		case c == '=' || c == ':':
			return i > 0
		case !letter(c) && !digit(c) && c != '_' && c != '-' && c != '.' && c != ' ':
			return false
		}
	}
	return false
}

// take calls found for a value if it is a secret.
func (n *name) take(from, to int, quoted bool, bare string, found func(from, to int, bare string)) {
	if from < to && n.secret(n.s[from:to], quoted, n.s[to:]) {
		found(from, to, bare)
	}
}

// secret reports whether v is a secret, judged by its name and its form.
func (n *name) secret(v string, quoted bool, rest string) bool {
	if placeholder(v) {
		return false
	}
	// As in "password: expired", where it is not the value of something.
	prose := !quoted && n.quoted == "" && (n.sep == ':' || n.sep == ' ' || n.sep == 'i')
	if (prose || n.sep != '=') && ordinary(v) {
		return false
	}
	if ordinary(v) && (n.kind != pass || switchWord(v)) {
		return false
	}
	random := strings.ContainsAny(v, "0123456789")
	letters := strings.ContainsAny(lowerOf(v), "abcdefghijklmnopqrstuvwxyz")
	words := strings.Trim(v[1:], "abcdefghijklmnopqrstuvwxyz.,'-") == "" || strings.Trim(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZ.,'-") == ""
	switch n.kind {
	case pass, short:
		switch {
		case n.kind == short && prose && n.sep == ':' && n.to-n.from == len("pass") && !strings.ContainsAny(n.s[max(0, n.from-1):n.from], "_-"):
			return false // PASS: test_something
		case n.kind == short && !quoted && len(v) <= 4 && strings.Trim(v, "0123456789") == "":
			return false // pass=12 fail=0
		case place(v), v[0] == '/' && begins(n.s[n.from:], "pwd"), n.sep == '=' && !quoted && call(v):
			return false
		case n.sep == 'i':
			return quoted || !words && !followed(rest) && !version(v) && letters && (random || strings.ContainsAny(v, "!@#$%^&*"))
		case prose && n.sep == ':' && words && followed(rest):
			return false
		}
		return true
	case strong, whole:
		switch {
		case place(v), strings.HasPrefix(v, "http://"), strings.HasPrefix(v, "https://"), strings.HasPrefix(v, "arn:"), strings.HasPrefix(v, "projects/"), strings.HasPrefix(v, "-----"):
			return false
		case len(v) <= 6 && strings.Trim(v, "0123456789.,") == "":
			return false // token: 17
		case !quoted && call(v):
			return false
		case prose && (n.sep == ':' || n.sep == ' '):
			return (random && len(v) >= 8 || len(v) >= 16 && !words) && !version(v)
		case quoted && strings.Contains(v, " ") || n.sep == ':' && words && strings.Contains(v, "-") && !random:
			return false // a sentence, a name
		}
		return true
	case key:
		return len(v) >= 20 && mixed(v) && !strings.ContainsAny(v, " :@-.") && !place(v)
	case auth:
		return userAndPassword(v)
	}
	return false
}

// placeholder reports whether v only stands for a secret, which was removed or
// is filled in later.
func placeholder(v string) bool {
	v = strings.TrimSpace(v)
	switch {
	case strings.Trim(v, "*") == "", len(v) > 1 && strings.Trim(v, "xX") == "", strings.Trim(v, "•●") == "", strings.Trim(v, ".…") == "", strings.Trim(v, "-") == "", strings.Trim(v, "_?") == "":
		return true
	case strings.HasPrefix(v, redacted), strings.HasPrefix(v, "<") && strings.HasSuffix(v, ">"), strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]"):
		return true
	case begins(v, "$env:"), strings.HasPrefix(v, "!vault"), strings.HasPrefix(v, "ENC["), strings.HasPrefix(v, "${"), strings.HasPrefix(v, "$("), strings.HasPrefix(v, "{{"), strings.HasPrefix(v, "@Microsoft.KeyVault("), strings.HasPrefix(v, "`"):
		return true
	case strings.HasPrefix(v, "$"):
		name := strings.Trim(v[1:], `"`)
		return strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == ""
	case strings.HasPrefix(v, "%"):
		return len(v) <= 3 || strings.HasSuffix(v, "%") && !strings.Contains(v, " ")
	case v == "{}", v == "{0}", v == "{":
		return true
	}
	switch strings.Trim(lowerOf(v), "()[]<>*") {
	case "", "redacted", "hidden", "masked", "omitted", "removed", "none", "null", "nil", "undefined", "true", "false", "sanitized", "filtered", "sensitive", "sensitive value", "known after apply":
		return true
	}
	return false
}

// ordinaryWords are words that are said about passwords and tokens, and names
// of their type.
var ordinaryWords = sync.OnceValue(func() map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(`
		a about accepted acquired after again age aging all already an and any are as ask at auth authentication auto automatic aging
		bad basic be bearer been before blank bool by bytes can cannot changed change check checks complete completed configuration correct could created
		default deleted denied detected did differ disabled do does done empty enabled entered entry error env environment exceeded exists expire expired expires
		failed failure field file for found from generated given got granted has have if ignored in incorrect info input insert int int64 invalid is issued it jwt
		key loaded locked login lookup manual match matches method minimum mismatch missing must name needed never new no nobody not nothing number object of off ok old on only operation option optional or our output
		parameter passed password passwd path please present prompt protected provided query quality quickstart read received refreshed rejected renewed request requests required requires requisite reset retries retry retrying revoked root rotated
		secret secrets sent service set shadow should size skipped source state status stdin store stored str string success successful successfully sufficient
		text the this timeout to token tokens too try type unchanged unknown unset unused update updated use used user using valid validated value values via was weak were will with without wrong yes you your y n`) {
		m[w] = true
	}
	return m
})

func ordinary(v string) bool {
	v = strings.Trim(lowerOf(v), ".,;:!?()[]{}'\"")
	return v == "" || ordinaryWords()[v]
}

func switchWord(v string) bool {
	switch lowerOf(v) {
	case "yes", "no", "on", "off", "y", "n", "required", "optional", "sufficient", "requisite", "string", "str", "prompt", "ask", "stdin", "file":
		return true
	}
	return false
}

func lowerOf(s string) string { return strings.ToLower(s) }

// place reports whether v is a place where the secret is, such as a path.
func place(v string) bool {
	for _, dir := range []string{"/etc/", "/run/", "/var/", "/usr/", "/home/", "/opt/", "/tmp/", "/root", "/mnt/", "/dev/", "/proc/", "/srv/", "/data/", "/bin/", "./", "../", "~/", "file:", `C:\`, "env:", "vault:"} {
		if strings.HasPrefix(v, dir) {
			return true
		}
	}
	return v == "/"
}

// call reports whether v is code: get(…), os.environ[…], args.password.
func call(v string) bool {
	if v == "await" || v == "new" || v == "async" || v == "function" {
		return true
	}
	i := 0
	for i < len(v) && (letter(v[i]) || digit(v[i]) && i > 0 || v[i] == '_' || v[i] == '.') {
		i++
	}
	if i < len(v) {
		return i > 0 && (v[i] == '(' || v[i] == '[')
	}
	low := lowerOf(v)
	for _, end := range []string{".password", ".passwd", ".token", ".secret", ".key", "_password", "_token", "_secret", "_key"} {
		if strings.HasSuffix(low, end) {
			return true
		}
	}
	return false
}

// followed reports whether more words follow in this line.
func followed(rest string) bool {
	line, _, _ := strings.Cut(rest, "\n")
	line = strings.TrimLeft(line, ".,;:!?")
	trimmed := strings.TrimSpace(line)
	return trimmed != "" && trimmed[0] != line[0] && (letter(trimmed[0]) || digit(trimmed[0]))
}

// version reports whether v is a version or a time.
func version(v string) bool {
	return strings.Trim(v, "0123456789.:-+TZ~") == "" && strings.ContainsAny(v, ".:-")
}

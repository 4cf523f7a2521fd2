package secret

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// In texts of others an address is rarely as it was sent: it went through
// JSON (& as \u0026, / as \/, both perhaps with more backslashes), XML (&amp;)
// or another address (%3D, %253D).
const (
	slash = `(?:\\*/)`
	query = `(?:[^\s"'<>\\]|\\+/|\\+u00[0-9a-f]{2})*` // not the backslash before a quote
	equal = `(?:=|%(?:25)*3d|\\*u003d|\\*x3d|&#(?:61|x3d);)`
	value = `(?:[A-Za-z0-9%+/=_~.-]|\\+/|\\*u00(?:2b|2f|3d)|&#(?:43|47|61);){8,}`
)

// expressions are compiled when a text has one of their words for the first
// time: agentctl has to start at once.
var expressions = []expression{
	// A private key, also one whose end or beginning was cut off.
	{any: []string{"private key-----"}, block: true, find: once(`(-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----)(?:[A-Za-z0-9+/=\s:,.]|\\+[nrt]|-{1,4}[A-Za-z0-9])+`), put: `${1}<redacted>`},
	{any: []string{"private key-----"}, all: "-----end", block: true, find: once(`(?:[A-Za-z0-9+/=\s]|\\+[nrt]){8,}(-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----)`), put: `<redacted>${1}`},
	// The query of an http(s) URL that has one of the parameters of a shared
	// access signature (spec/protocol §7.3). Plain http is covered too:
	// emulators and private clouds use it.
	{any: []string{"sv=", "st=", "se=", "sr=", "sp=", "sip=", "spr=", "sig="}, all: "?", find: once(`(?i)(https?:` + slash + slash + `[^\s"'<>?]+\?)(?:` + query + `(?:&(?:amp;)?|\\+u0026))?(?:sv|st|se|sr|sp|sip|spr|sig)=` + query), put: `${1}<redacted>`},
	// A signature that stands outside of a URL, or in one that is a
	// parameter of another.
	{any: []string{"sig=", "sig%", `sig\`, "sig&"}, find: once(`(?i)((?:^|[^a-z])sig` + equal + `)` + value), put: `${1}<redacted>`},
	// The key of a storage account or of a bus, as in a connection string.
	{any: []string{"key=", "key%", `key\`, "key&"}, find: once(`(?i)((?:account|access)_?key` + equal + `)` + value), put: `${1}<redacted>`},
	// Credentials in an address; without a colon they are a token.
	{any: []string{"://", `:\`}, all: "@", find: once(`(?i)(https?:` + slash + slash + `)[^\s/@"'<>\\]+@`), put: `${1}<redacted>@`},
	{any: []string{"://", `:\`}, all: "@", find: once(`(:` + slash + slash + `)[^\s/:@"'<>\\]*:[^\s/@"'<>\\]+@`), put: `${1}<redacted>@`},
	{any: []string{"proxy"}, all: "@", find: once(`(?i)(proxy[a-z_.]{0,12}["']?\s*[:=]\s*["']?)[^\s/:@"'<>\\]+:[^\s/@"'<>\\]+@`), put: `${1}<redacted>@`},
	{any: []string{"bearer"}, find: once(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{16,}`), put: `${1}<redacted>`},
	{any: []string{"eyj"}, find: once(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?`), put: `<redacted>`},
	// The hash of a password, as in a line of /etc/shadow.
	{any: []string{"$"}, find: once(`\$(?:1|2[abxy]|5|6|7|y|gy)\$[./A-Za-z0-9$,=]{20,}`), put: `<redacted>`},
}

// An expression is looked for only in lines that have one of its words, and
// the other one: most of what is written has none, and to look costs more than
// all the rest.
type expression struct {
	any   []string // in lower case
	all   string
	block bool // of several lines
	find  func() *regexp.Regexp
	put   string
}

// maybe looks for the words. low is in lower case.
func (e expression) maybe(low []byte) bool {
	return bytes.Contains(low, []byte(e.all)) && slices.ContainsFunc(e.any, func(w string) bool { return bytes.Contains(low, []byte(w)) })
}

func once(find string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(find) })
}

// Redact takes out of a text that somebody else wrote (handler output, error
// bodies) what looks like a secret: the query of every SAS URL, signatures and
// account keys wherever they stand, credentials in addresses, bearer tokens,
// hashes of passwords, private keys.
func Redact(s string) string {
	low := appendLower(make([]byte, 0, len(s)), s)
	var list []expression
	for _, e := range expressions {
		switch {
		case !e.maybe(low):
		case e.block:
			if found := e.find().ReplaceAllString(s, e.put); found != s {
				s, low = found, appendLower(low[:0], found)
			}
		default:
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return s
	}
	// Megabytes of logs go through here: what stays as it is is copied once
	// at most.
	var b strings.Builder
	var scratch []byte
	done := 0
	for at := 0; at < len(s); {
		end := len(s)
		if i := bytes.IndexByte(low[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		line, words := s[at:end], low[at:end]
		for _, e := range list {
			if !e.maybe(words) {
				continue
			}
			if found := e.find().ReplaceAllString(line, e.put); found != line {
				scratch = appendLower(scratch[:0], found)
				line, words = found, scratch
			}
		}
		if line != s[at:end] {
			if done == 0 {
				b.Grow(len(s))
			}
			b.WriteString(s[done:at])
			b.WriteString(line)
			done = end
		}
		at = end
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// appendLower appends s in lower case, byte for byte.
func appendLower(b []byte, s string) []byte {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

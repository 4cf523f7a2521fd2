package secret

import (
	"regexp"
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
	// The query of an http(s) URL that has one of the parameters of a shared
	// access signature (spec/protocol §7.3). Plain http is covered too:
	// emulators and private clouds use it.
	{"?", once(`(?i)(https?:` + slash + slash + `[^\s"'<>?]+\?)(?:` + query + `(?:&(?:amp;)?|\\+u0026))?(?:sv|st|se|sr|sp|sip|spr|sig)=` + query), `${1}<redacted>`},
	// A signature that stands outside of a URL, or in one that is a
	// parameter of another.
	{"sig", once(`(?i)((?:^|[^a-z])sig` + equal + `)` + value), `${1}<redacted>`},
	// The key of a storage account or of a bus, as in a connection string.
	{"key", once(`(?i)((?:account|access)_?key` + equal + `)` + value), `${1}<redacted>`},
	// Credentials in an address; without a colon they are a token.
	{"@", once(`(?i)(https?:` + slash + slash + `)[^\s/@"'<>\\]+@`), `${1}<redacted>@`},
	{"@", once(`(?i)([a-z][a-z0-9+.-]{1,20}:` + slash + slash + `)[^\s/:@"'<>\\]*:[^\s/@"'<>\\]+@`), `${1}<redacted>@`},
	{"@", once(`(?i)(proxy[a-z_.]{0,12}["']?\s*[:=]\s*["']?)[^\s/:@"'<>\\]+:[^\s/@"'<>\\]+@`), `${1}<redacted>@`},
	{"bearer", once(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{16,}`), `${1}<redacted>`},
	{"eyj", once(`\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?`), `<redacted>`},
	// The hash of a password, as in a line of /etc/shadow.
	{"$", once(`\$(?:1|2[abxy]|5|6|7|y|gy)\$[./A-Za-z0-9$,=]{20,}`), `<redacted>`},
	// A private key, also one whose end or beginning was cut off.
	{"private key", once(`(-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----)(?:[A-Za-z0-9+/=\s:,.]|\\+[nrt]|-{1,4}[A-Za-z0-9])+`), `${1}<redacted>`},
	{"private key", once(`(?:[A-Za-z0-9+/=\s]|\\+[nrt]){8,}(-----END (?:[A-Z0-9]+ )*PRIVATE KEY-----)`), `<redacted>${1}`},
}

// An expression is looked for only in texts that have its word.
type expression struct {
	word string // in lower case
	find func() *regexp.Regexp
	put  string
}

func once(find string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(find) })
}

// Redact takes out of a text that somebody else wrote (handler output, error
// bodies) what looks like a secret: the query of every SAS URL, signatures and
// account keys wherever they stand, credentials in addresses, bearer tokens,
// private keys.
func Redact(s string) string {
	low := strings.ToLower(s)
	for _, e := range expressions {
		if strings.Contains(low, e.word) {
			s = e.find().ReplaceAllString(s, e.put)
		}
	}
	return s
}

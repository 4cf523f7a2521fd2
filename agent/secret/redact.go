package secret

import "regexp"

// sas finds the query of an https URL that starts with one of the parameters
// of a shared access signature (spec/protocol §7.3). Plain http is covered
// too: emulators and private clouds use it.
var sas = regexp.MustCompile(`(?i)(https?://[^\s"'<>?]+\?)(?:[^\s"'<>]*&(?:amp;)?)?(?:sv|st|se|sr|sp|sip|spr|sig)=[^\s"'<>]*`)

// bare finds a signature that stands outside of a URL, as in a query pasted
// into an error text.
var bare = regexp.MustCompile(`(?i)\b(sig=)[A-Za-z0-9%+/=_-]{8,}`)

// Redact replaces the query of every SAS URL in text that somebody else
// wrote (handler output, error bodies) by <redacted>.
func Redact(s string) string {
	s = sas.ReplaceAllString(s, "${1}<redacted>")
	return bare.ReplaceAllString(s, "${1}<redacted>")
}

// Package secret holds values that must not leave the process by accident:
// passwords, custom data, private keys, protected settings and the query
// part of SAS URLs. Every way Go has of printing or encoding a
// value yields a placeholder; Reveal is the one word to search for in an
// audit.
package secret

import (
	"encoding/json"
	"net/url"
	"strings"
)

const hidden = "[redacted]"

// Secret is a string that cannot be printed. The pointer matters: fmt prints
// unexported string fields of a struct without asking for String, a pointer
// it prints as an address only.
type Secret struct{ p *string }

// New wraps s. An empty s is a valid, present secret; the zero Secret is an
// absent one.
func New(s string) Secret { return Secret{&s} }

// Set reports whether there is a secret at all, as opposed to an empty one.
func (s Secret) Set() bool { return s.p != nil }

// Empty reports whether the secret is absent or has no characters.
func (s Secret) Empty() bool { return s.p == nil || *s.p == "" }

// Len returns the length in bytes, which may be shown.
func (s Secret) Len() int { return len(s.Reveal()) }

// Reveal returns the text itself.
func (s Secret) Reveal() string {
	if s.p == nil {
		return ""
	}
	return *s.p
}

// Equal compares the texts, so that go-cmp can compare structs with secrets.
func (s Secret) Equal(o Secret) bool { return s.Set() == o.Set() && s.Reveal() == o.Reveal() }

func (Secret) String() string { return hidden }

// GoString hides the text from %#v.
func (Secret) GoString() string { return hidden }

// MarshalText hides the text from what encodes by text: XML, keys of JSON maps.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON hides the text from JSON.
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }

// URL is a blob address whose query may carry a SAS signature. It prints as
// scheme, host and path; the query only comes out of Reveal, byte for byte
// as it was received (a platform URL must be requested unmodified,
// protocol/SPEC.md §2.1).
type URL struct{ p *string }

// NewURL wraps a URL as received; surrounding white space is dropped because
// real documents contain it (protocol/SPEC.md §2.8).
func NewURL(raw string) URL {
	raw = strings.TrimSpace(raw)
	return URL{&raw}
}

// Reveal returns the URL with its query.
func (u URL) Reveal() string {
	if u.p == nil {
		return ""
	}
	return *u.p
}

// Empty reports whether there is no URL.
func (u URL) Empty() bool { return u.Reveal() == "" }

// Equal compares the whole URLs.
func (u URL) Equal(o URL) bool { return u.Reveal() == o.Reveal() }

// String returns the URL without user info, query and fragment.
func (u URL) String() string {
	raw := u.Reveal()
	if raw == "" {
		return ""
	}
	if p, err := url.Parse(raw); err == nil && p.Host != "" {
		out := p.Scheme + "://" + p.Host + p.EscapedPath()
		if p.RawQuery != "" {
			out += "?" + hidden
		}
		return out
	}
	if i := strings.IndexAny(raw, "?#"); i >= 0 {
		return raw[:i] + "?" + hidden
	}
	return raw
}

// GoString is String, for %#v.
func (u URL) GoString() string { return u.String() }

// MarshalText returns String: only the printable part is stored as text.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

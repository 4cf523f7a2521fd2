// Package canary searches the output of a program for planted secrets in any
// encoding: unchanged, escaped for a URL, JSON or XML, in base64, in
// hexadecimal, as UTF-16, in upper or lower case, with line breaks.
package canary

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
)

// shortest is the minimum length of a secret, in bytes: shorter ones would be
// found by chance.
const shortest = 8

// half is the length of a part of a long secret that counts as found, in bytes.
const half = 20

// A Search looks for secrets in all their encodings.
type Search struct {
	forms []form
}

type form struct{ secret, text string }

// A Hit is a secret that was found.
type Hit struct {
	Secret string // its name
	Around string // folded: small letters, no white space
}

// New makes a search for the secrets, by their names.
func New(secrets map[string]string) *Search {
	s := &Search{}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		seen := map[string]bool{}
		for _, f := range forms(secrets[name]) {
			if f = fold(f); len(f) >= shortest && !seen[f] {
				seen[f] = true
				s.forms = append(s.forms, form{name, f})
			}
		}
	}
	return s
}

// In lists the secrets that a text contains, each once.
func (s *Search) In(text string) []Hit {
	var hits []Hit
	folded := fold(text)
	for _, f := range s.forms {
		if n := len(hits); n > 0 && hits[n-1].Secret == f.secret {
			continue
		}
		if i := strings.Index(folded, f.text); i >= 0 {
			hits = append(hits, Hit{f.secret, folded[max(0, i-80):min(len(folded), i+len(f.text)+40)]})
		}
	}
	return hits
}

// fold removes differences that do not hide a secret: upper and lower case,
// line breaks (also those written as \n), the NUL bytes of UTF-16.
func fold(s string) string {
	s = strings.NewReplacer(`\r`, "", `\n`, "", `\t`, "").Replace(s)
	return strings.ToLower(strings.Map(func(r rune) rune {
		switch r {
		case ' ', '\t', '\r', '\n', 0:
			return -1
		}
		return r
	}, s))
}

// forms returns the encodings of a word.
func forms(word string) []string {
	var wide []byte
	for _, u := range utf16.Encode([]rune(word)) {
		wide = append(wide, byte(u), byte(u>>8))
	}
	out := append(escaped(word), escaped(url.QueryEscape(word))...)
	for _, b := range [][]byte{[]byte(word), wide} {
		out = append(out, hex.EncodeToString(b))
		for shift := range 3 {
			enc := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{' '}, shift), b...))
			if len(enc) < 16 {
				continue
			}
			core := enc[4 : len(enc)-4] // without the parts that depend on adjacent bytes
			out = append(out, core, url.QueryEscape(core), strings.NewReplacer("+", "-", "/", "_").Replace(core))
		}
	}
	if len(word) >= 2*half { // a truncated secret is one, too
		out = append(out, word[:half], word[len(word)-half:])
	}
	return out
}

func escaped(word string) []string {
	js, err := json.Marshal(word)
	if err != nil {
		js = []byte(`""`)
	}
	var plain, x bytes.Buffer
	e := json.NewEncoder(&plain)
	e.SetEscapeHTML(false)
	_ = e.Encode(word) // cannot fail: it writes to memory
	_ = xml.EscapeText(&x, []byte(word))
	return []string{
		word, url.QueryEscape(word), url.PathEscape(word), x.String(),
		string(js[1 : len(js)-1]), strings.Trim(plain.String(), "\"\n"), strings.ReplaceAll(word, "/", `\/`),
	}
}

package secret

import (
	"cmp"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

const redacted = "<redacted>"

// Printed is the field of a log record with what a script or program has printed.
// It goes to the journal, which belongs to root and its groups, and not to the
// log file, which everybody may read (DESIGN.md, decision 67).
const Printed = "printed"

// Redact masks what looks like a secret in a text from elsewhere (handler
// output, error bodies):
//
//   - private keys (PEM, OpenSSH, PGP, PuTTY), whole or cut off
//   - tokens and keys that are known by their form, see [expressions]
//   - credentials in addresses and headers, hashes of passwords
//   - values whose name says that they are secret, in the usual ways of
//     writing a name and a value, see [names]
//
// In doubt, a value is masked if its name says that it is secret, and is kept
// if only its form does: a digest, a certificate or an id must stay readable.
// Time is linear in the length of the text; memory is needed only for the text
// and its copy. Redacting a text twice changes nothing.
func Redact(s string) string {
	var found spans
	look(s, true, found.add)
	// Text in JSON, or in JSON within JSON, has its original form only without
	// the escapes.
	text, at := s, []int32(nil)
	for range maxLayers {
		inner, from := unescape(text)
		if from == nil {
			break
		}
		if at != nil {
			for i, f := range from {
				from[i] = at[f]
			}
		}
		text, at = inner, from
		look(text, false, func(from, to int, _ string) { found.add(int(at[from]), int(at[to]), "") })
	}
	return found.replace(s)
}

// maxLayers is how many nested documents are searched: the status of a handler,
// in a record, in a line of a log.
const maxLayers = 3

// look calls found for each secret in s. bare is a quote that has to be put
// around the mark; original is false for a text without its escapes, where it
// can't be told any more which string a quote closes.
func look(s string, original bool, found func(from, to int, bare string)) {
	keys(s, found)
	m := matcher()
	var all uint64
	for at := 0; at < len(s); {
		end := len(s)
		if i := strings.IndexByte(s[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		line := s[at:end]
		bit := m.scan(line)
		all |= bit
		for f := bit &^ nameBit; f != 0; f &= f - 1 {
			if e := &expressions[bits.TrailingZeros64(f)]; !e.block && strings.Contains(line, e.and) {
				e.look(line, at, found)
			}
		}
		at = end
	}
	for f := all &^ nameBit; f != 0; f &= f - 1 {
		if e := &expressions[bits.TrailingZeros64(f)]; e.block {
			e.look(s, 0, found)
		}
	}
	if all&nameBit != 0 {
		names(s, original, found)
	}
}

// spans are the pieces of a text to be replaced.
type spans []span

type span struct {
	from, to int
	bare     string
}

func (l *spans) add(from, to int, bare string) {
	if from < to {
		*l = append(*l, span{from, to, bare})
	}
}

// replace puts a mark in the place of each piece.
func (l spans) replace(s string) string {
	if len(l) == 0 {
		return s
	}
	slices.SortStableFunc(l, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var b strings.Builder
	b.Grow(len(s))
	done := 0
	for i := 0; i < len(l); {
		p := l[i]
		for i++; i < len(l) && l[i].from <= p.to; i++ {
			p.to, p.bare = max(p.to, l[i].to), cmp.Or(p.bare, l[i].bare)
		}
		// Do not split an escape.
		if escaped(s, p.from) {
			p.from++
		}
		if p.to < len(s) && escaped(s, p.to) {
			p.to--
		}
		if p.from >= p.to || s[p.from:p.to] == redacted {
			continue
		}
		b.WriteString(s[done:p.from])
		b.WriteString(p.bare)
		b.WriteString(redacted)
		b.WriteString(p.bare)
		done = p.to
	}
	b.WriteString(s[done:])
	return b.String()
}

// escaped reports whether the byte at i is escaped by a backslash.
func escaped(s string, i int) bool {
	n := 0
	for n < i && s[i-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// unescape removes one layer of escapes, as JSON and most languages write them,
// and returns where each byte comes from; nil if there are none.
func unescape(s string) (text string, from []int32) {
	i := strings.IndexByte(s, '\\')
	if i < 0 || len(s) > math.MaxInt32 {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	at := make([]int32, 0, len(s)+1)
	changed := false
	for i = 0; i < len(s); {
		c, n := s[i], 1
		if c == '\\' && i+1 < len(s) {
			switch e := s[i+1]; e {
			case '"', '\'', '/', '\\':
				c, n = e, 2
			case 'n':
				c, n = '\n', 2
			case 'r':
				c, n = '\r', 2
			case 't':
				c, n = '\t', 2
			case 'u':
				if i+6 <= len(s) {
					if v, err := strconv.ParseUint(s[i+2:i+6], 16, 8); err == nil && v < utf8.RuneSelf {
						c, n = byte(v), 6
					}
				}
			}
		}
		changed = changed || n > 1
		b = append(b, c)
		at = append(at, int32(i)) //nolint:gosec // the length was checked above
		i += n
	}
	if !changed {
		return s, nil
	}
	return string(b), append(at, int32(len(s))) //nolint:gosec // the length was checked above
}

// An expression finds one kind of secret, within a line unless block is set. It
// is compiled when a line has one of its words for the first time, because
// agentctl has to start fast.
type expression struct {
	words []string // in lower case, at least three bytes; one of them is in every line that has the secret
	and   string   // is in every such line, too
	block bool     // the secret may have several lines
	find  func() *regexp.Regexp
	// keep reports that what was found is not a secret. before is the part of
	// the match that precedes it.
	keep func(before, secret string) bool
}

// look finds the groups of the expression in a text that begins at base.
func (e *expression) look(text string, base int, found func(from, to int, bare string)) {
	for _, m := range e.find().FindAllStringSubmatchIndex(text, -1) {
		for g := 2; g < len(m); g += 2 {
			from, to := m[g], m[g+1]
			if from < to && (e.keep == nil || !e.keep(text[m[0]:from], text[from:to])) {
				found(base+from, base+to, "")
			}
		}
	}
}

func once(find string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(find) })
}

// nameBit is the bit of all names of values; the bits below it are those of the
// expressions.
const nameBit = 1 << 63

// words finds any of many words in one pass over the text, ignoring case. Most
// texts have none, and this pass takes more time than everything else.
type words struct {
	// head has, for three bytes, the number of the list of words that begin
	// with them; 0 if no word does.
	head  [1 << 13]uint8
	lists [][]word
}

type word struct {
	text string
	bits uint64
	kind kind
}

var matcher = sync.OnceValue(func() *words {
	m := &words{lists: make([][]word, 1)}
	for i, e := range expressions {
		for _, w := range e.words {
			m.add(word{text: w, bits: 1 << i})
		}
	}
	for _, n := range nameWords {
		m.add(word{text: n.text, bits: nameBit, kind: n.kind})
	}
	return m
})

func (m *words) add(w word) {
	h := &m.head[hash(w.text[0], w.text[1], w.text[2])]
	if *h == 0 {
		*h = uint8(len(m.lists)) //nolint:gosec // there are about a hundred lists
		m.lists = append(m.lists, nil)
	}
	m.lists[*h] = append(m.lists[*h], w)
}

func hash(a, b, c byte) int { return (int(a)<<8 ^ int(b)<<4 ^ int(c)) & (1<<13 - 1) }

// scan returns the bits of all words in s.
func (m *words) scan(s string) (found uint64) {
	if len(s) < 3 {
		return 0
	}
	a, b := lower[s[0]], lower[s[1]]
	for i := 2; i < len(s); i++ {
		c := lower[s[i]]
		if list := m.head[hash(a, b, c)]; list != 0 {
			for _, w := range m.lists[list] {
				if found&w.bits == 0 && begins(s[i-2:], w.text) {
					found |= w.bits
				}
			}
		}
		a, b = b, c
	}
	return found
}

// begins reports whether s begins with a word, ignoring case.
func begins(s, word string) bool {
	if len(s) < len(word) {
		return false
	}
	for i := range len(word) {
		if lower[s[i]] != word[i] {
			return false
		}
	}
	return true
}

// lower maps each byte to lower case.
var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i) //nolint:gosec // 0 to 255
		if 'A' <= i && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// Package cli has what the command lines of agentctl and azguest have in common:
// words of which there is a fixed list, output that may not arrive, and the exit
// statuses of both. It imports nothing of this module.
//
// Begin with OneOf. The emulator has a list of its own (fabric.OneOf), because it
// shares no code with the agent.
package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Exit statuses of agentctl and azguest, by the numbers of sysexits.h, so that a
// typing error does not look like a failed agent. Commands of the classic agent
// (azguest waagent, agentctl waagent-compat) have that agent's.
const (
	ExitUsage  = 64 // wrong usage (EX_USAGE)
	ExitOutput = 74 // the output could not be written (EX_IOERR)
)

// OneOf returns nil if word is one of known. Otherwise the error names the word
// that was probably meant, and all that are known if they are few; what is the
// kind of word, such as "command".
func OneOf(what, word string, known ...string) error {
	if slices.Contains(known, word) {
		return nil
	}
	text := fmt.Sprintf("unknown %s %q", what, word)
	if near := Nearest(word, known); near != "" {
		text += fmt.Sprintf("; did you mean %q?", near)
	}
	if len(known) <= maxListed {
		text += " (must be one of: " + strings.Join(known, ", ") + ")"
	}
	return &WordError{text}
}

// maxWord is more than any word that is known has, in bytes.
const maxWord = 100

// maxListed is the longest list that an error repeats.
const maxListed = 12

// A WordError is the error of a word that is not known.
type WordError struct{ text string }

func (e *WordError) Error() string { return e.text }

// Nearest returns the known word that is most similar to word, or "" if none is
// similar: at most one letter in four differs (one at least), or it begins with
// word. Of a word that is longer than any that is meant, nothing is similar.
func Nearest(word string, known []string) string {
	if len(word) > maxWord {
		return ""
	}
	best, least := "", max(1, len(word)/4)+1
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if len(word) > 1 && strings.HasPrefix(strings.ToLower(k), strings.ToLower(word)) {
			d = min(d, 1)
		}
		if d < least {
			best, least = k, d
		}
	}
	return best
}

// distance returns the number of letters to insert, remove, replace or exchange
// with their neighbour to turn a into b.
func distance(a, b string) int {
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// Output is a writer that remembers its first error: a program whose output did
// not arrive has failed, whatever else it has done. Writes after the error are
// not tried.
type Output struct {
	to     io.Writer
	failed func() // called once, at the first error; nil for nothing

	mu  sync.Mutex // guards err
	err error
}

// NewOutput returns an Output; failed, which may be nil, ends what would go on
// writing.
func NewOutput(to io.Writer, failed func()) *Output { return &Output{to: to, failed: failed} }

// Write writes to the underlying writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.to.Write(p)
	if err != nil {
		o.err = fmt.Errorf("write output: %w", err)
		if o.failed != nil {
			o.failed()
		}
	}
	return n, o.err
}

// Err returns the first error.
func (o *Output) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

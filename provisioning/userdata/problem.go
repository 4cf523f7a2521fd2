package userdata

import (
	"fmt"
	"strings"

	"github.com/azguest/azguest/agent/bound"
)

// Stable codes of what is wrong with a document, and of what happened to it.
// `agentctl explain` describes each.
const (
	CodeForm   = "AZ-DATA-FORM"   // a form that is not supported, or none that is known
	CodeSyntax = "AZ-DATA-SYNTAX" // cannot be read as what it says it is
	CodeLimit  = "AZ-DATA-LIMIT"  // larger or deeper than it may be
	CodeKey    = "AZ-DATA-KEY"    // a key of cloud-config that is not supported
	CodeValue  = "AZ-DATA-VALUE"  // a value of cloud-config that is not allowed
	CodeFetch  = "AZ-DATA-FETCH"  // a source could not be read
	CodeScript = "AZ-DATA-SCRIPT" // a script or a command failed, or was interrupted
	CodeState  = "AZ-DATA-STATE"  // the journal could not be written
	CodeStep   = "AZ-DATA-STEP"   // a step failed without a code of its own
)

// A Problem is one thing that is wrong with a document.
type Problem struct {
	ID   string `json:"code"`
	At   Place  `json:"at"`
	Key  string `json:"key,omitempty"` // "users[1].sudo"
	Text string `json:"text"`
}

func (p Problem) Error() string {
	s := p.At.String() + ": "
	if p.Key != "" {
		s += p.Key + ": "
	}
	return s + p.Text
}

// Code is the stable code.
func (p Problem) Code() string { return p.ID }

// maxProblems bounds the problems that are kept of one document: a hostile one
// could have a hundred thousand.
const maxProblems = 100

// problems collects the problems of a document.
type problems struct {
	list []Problem
	more int // that were not kept
}

func (ps *problems) add(id string, at Place, key, format string, args ...any) {
	if len(ps.list) >= maxProblems {
		ps.more++
		return
	}
	ps.list = append(ps.list, Problem{ID: id, At: at, Key: key, Text: fmt.Sprintf(format, args...)})
}

// all returns the problems, the last one of which says how many were not kept.
func (ps *problems) all() []Problem {
	if ps.more > 0 {
		last := ps.list[len(ps.list)-1]
		return append(ps.list, Problem{ID: last.ID, At: Place{Layer: last.At.Layer}, Text: fmt.Sprintf("%d more problems", ps.more)})
	}
	return ps.list
}

// quote returns a text of a document for a message.
func quote(s string) string { return bound.Quote(s) }

// word returns a text of a document as part of a place or a key: short and
// without anything that could be taken for something else.
func word(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return bound.Clip(s)
}

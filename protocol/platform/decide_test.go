package platform

import (
	"fmt"
	"strings"
	"testing"
)

// TestDecide: every possible result of a poll, and the actions that follow.
func TestDecide(t *testing.T) {
	t.Parallel()
	first := held{}
	have := held{incarnation: "1", place: "here", documents: true, adopted: true}
	alone := held{adopted: true} // vmSettings stand alone
	again := have
	again.refetch = true
	with := func(n seen, change func(*seen)) seen { change(&n); return n }
	same := seen{incarnation: "1", place: "here"}
	newer := seen{incarnation: "2", place: "here"}
	moved := seen{incarnation: "1", place: "there"}
	held304 := func(n *seen) { n.settings = true }
	settings := func(n *seen) { n.settings, n.settingsNew = true, true }
	due := func(n *seen) { n.retry = true }

	const (
		documents = "get all documents; adopt the newer of ExtensionsConfig and vmSettings; search for certificates that handlers need; archive the goal state"
		fast      = "adopt vmSettings; search for certificates that handlers need; write files that other programs read; archive the goal state"
		orFast    = "get all documents, else [get all documents but ExtensionsConfig; " + fast + "]; adopt the newer of ExtensionsConfig and vmSettings; " +
			"search for certificates that handlers need; archive the goal state"
		keep     = "go on with the documents that we have"
		ifMoved  = "adopt the newer of the two, news only if it differs; "
		relocate = "get all documents, else [" + keep + "]; " + ifMoved + "search for certificates that handlers need; archive the goal state"
	)
	for _, tc := range []struct {
		name string
		held held
		seen seen
		want string
	}{
		{"first look", first, same, documents},
		{"first look, vmSettings", first, with(same, settings), orFast},
		{"first look that succeeds after vmSettings were received", first, with(same, held304), orFast},
		{"nothing new", have, same, ""},
		{"nothing new, 304", have, with(same, held304), ""},
		{"nothing new, something is missing", have, with(same, due), "get the documents that are missing"},
		{"new incarnation", have, newer, documents},
		{"new incarnation, 304: vmSettings are adopted or were not good enough", have, with(newer, held304), documents},
		{"new incarnation, new vmSettings", have, with(newer, settings), orFast},
		{"new incarnation is more urgent than what is missing", have, with(newer, due), documents},
		{"new incarnation at a new place", have, seen{incarnation: "2", place: "there"}, documents},
		{"the host has lost its vmSettings", again, same, documents},
		{"vmSettings stand alone, documents still not usable", alone, with(same, held304), documents},
		{"vmSettings stand alone, and are new", alone, with(same, settings), orFast},
		{"new vmSettings", have, with(same, settings), fast},
		{"new vmSettings are more urgent than what is missing", have, with(with(same, settings), due), fast},
		{"moved", have, moved, relocate},
		{"moved, 304", have, with(moved, held304), relocate},
		{"moved, new vmSettings", have, with(moved, settings), "get all documents, else [" + keep + "; " + fast + "]; " + ifMoved + fast},
	} {
		if got := listing(decide(tc.held, tc.seen)); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// listing is a list of actions in readable form.
func listing(list []action) string {
	var out []string
	for _, a := range list {
		s := string(a.do)
		if a.otherwise != nil {
			s += fmt.Sprintf(", else [%s]", listing(a.otherwise))
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

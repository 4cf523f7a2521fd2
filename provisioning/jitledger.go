package provisioning

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// jitLedger is which short-lived accounts there are, by name, with their
// numbers. The comment alone does not tell: its owner may change it (chfn), at
// least the fields after the first, and would stay for ever.
type jitLedger map[string]int

func jitLedgerName(o Options) string { return path.Join(o.Dir(), "jit.json") }

func readJITLedger(r host.Root, o Options) jitLedger {
	l := jitLedger{}
	if !readJSON(r, jitLedgerName(o), &l) || l == nil {
		return jitLedger{} // damaged is as good as none
	}
	return l
}

// has reports whether an account is a short-lived one, of ours or of an agent
// before us, which knows them by their comment.
func (l jitLedger) has(a host.Account) bool {
	uid, ok := l[a.Name]
	return ok && uid == a.UID || jitComment(a)
}

// jitComment: what follows a comma is not the name but telephone numbers.
func jitComment(a host.Account) bool {
	full, _, _ := strings.Cut(a.Gecos, ",")
	return full == JITComment
}

func (l jitLedger) write(sys *System, o Options) error {
	if len(l) == 0 {
		return sys.Root.Remove(jitLedgerName(o))
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return put(sys, jitLedgerName(o), append(b, '\n'), 0o600)
}

// noteJIT notes an account before it is made.
func noteJIT(sys *System, o Options, name string, uid int) error {
	l := readJITLedger(sys.Root, o)
	if have, ok := l[name]; ok && have == uid {
		return nil
	}
	l[name] = uid
	return l.write(sys, o)
}

// forgetJIT is for an account of which nothing is left.
func forgetJIT(sys *System, o Options, name string) error {
	l := readJITLedger(sys.Root, o)
	if _, ok := l[name]; !ok {
		return nil
	}
	delete(l, name)
	return l.write(sys, o)
}

// mendJITLedger adds the accounts that were made by an agent before us, and
// forgets those that somebody else has taken away: the next one of the name is
// not ours.
func mendJITLedger(sys *System, o Options) error {
	all, err := sys.Root.Accounts()
	if err != nil {
		return err
	}
	l, leaving := readJITLedger(sys.Root, o), readRemoving(sys.Root, o)
	before := maps.Clone(l)
	for _, a := range all {
		if l.has(a) && a.UID != 0 {
			l[a.Name] = a.UID
		}
	}
	maps.DeleteFunc(l, func(name string, uid int) bool {
		same := func(a host.Account) bool { return a.Name == name && a.UID == uid }
		return !slices.ContainsFunc(all, same) && !slices.ContainsFunc(leaving, same)
	})
	if maps.Equal(before, l) {
		return nil
	}
	return l.write(sys, o)
}

// ShortLived reports whether an account is one that the platform has asked for
// until a certain time.
func ShortLived(r host.Root, o Options, a host.Account) bool {
	return readJITLedger(r, o.WithDefaults()).has(a)
}

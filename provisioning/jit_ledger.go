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

func (m *Machine) jitLedgerName() string { return path.Join(m.Options.Dir(), "jit.json") }

func (m *Machine) readJITLedger() jitLedger {
	l := jitLedger{}
	if !readJSON(m.Root, m.jitLedgerName(), &l) || l == nil {
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

func (l jitLedger) write(m *Machine) error {
	if len(l) == 0 {
		return m.Root.Remove(m.jitLedgerName())
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return m.put(m.jitLedgerName(), append(b, '\n'), 0o600)
}

// noteJIT notes an account before it is made.
func (m *Machine) noteJIT(name string, uid int) error {
	l := m.readJITLedger()
	if have, ok := l[name]; ok && have == uid {
		return nil
	}
	l[name] = uid
	return l.write(m)
}

// forgetJIT is for an account of which nothing is left.
func (m *Machine) forgetJIT(name string) error {
	l := m.readJITLedger()
	if _, ok := l[name]; !ok {
		return nil
	}
	delete(l, name)
	return l.write(m)
}

// mendJITLedger adds the accounts that were made by an agent before us, and
// forgets those that somebody else has taken away: the next one of the name is
// not ours.
func (m *Machine) mendJITLedger() error {
	all, err := m.Root.Accounts()
	if err != nil {
		return err
	}
	l, leaving := m.readJITLedger(), m.readRemoving()
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
	return l.write(m)
}

// ShortLived reports whether an account is one that the platform has asked for
// until a certain time.
func (m *Machine) ShortLived(a host.Account) bool {
	return m.readJITLedger().has(a)
}

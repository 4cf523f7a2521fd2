package provisioning

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// jitLedger lists the short-lived accounts: name to UID. The comment is not
// sufficient, because the owner may change it (chfn), or at least the fields
// after the first; the account would then never be removed.
type jitLedger map[string]int

func (m *Machine) jitLedgerName() string { return path.Join(m.Options.Dir(), "jit.json") }

func (m *Machine) readJITLedger() jitLedger {
	l := jitLedger{}
	if !readJSON(m.Root, m.jitLedgerName(), &l) || l == nil {
		return jitLedger{} // a damaged file is ignored
	}
	return l
}

// has reports whether an account is a short-lived one, made by this agent or
// by another one, which only sets the comment.
func (l jitLedger) has(a host.Account) bool {
	uid, ok := l[a.Name]
	return ok && uid == a.UID || jitComment(a)
}

// jitComment reports whether the first field of the comment is JITComment. The
// other fields, separated by commas, are telephone numbers and such.
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

// noteJIT adds an account to the ledger before it is made.
func (m *Machine) noteJIT(name string, uid int) error {
	l := m.readJITLedger()
	if have, ok := l[name]; ok && have == uid {
		return nil
	}
	l[name] = uid
	return l.write(m)
}

// forgetJIT removes an account from the ledger when nothing is left of it.
func (m *Machine) forgetJIT(name string) error {
	l := m.readJITLedger()
	if _, ok := l[name]; !ok {
		return nil
	}
	delete(l, name)
	return l.write(m)
}

// mendJITLedger adds the accounts that another agent made before, and removes
// those that other programs have deleted: a later account of that name is not
// a short-lived one.
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

// ShortLived reports whether an account is a just-in-time user, which the
// platform has requested until a certain time.
func (m *Machine) ShortLived(a host.Account) bool {
	return m.readJITLedger().has(a)
}

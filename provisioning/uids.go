package provisioning

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"syscall"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/process"
)

// uidLedger lists the UIDs of removed accounts. A new account with such a UID
// would own the files and processes that remain.
type uidLedger struct {
	// Last is the highest of them, from any boot. The next account gets a
	// higher one, so that a UID is reused only when all have been used.
	Last int `json:"last,omitempty"`
	// Boot is the id of this boot, Given are the UIDs of accounts that were
	// removed in it. They are never reused in the same boot.
	Boot  string            `json:"boot,omitempty"`
	Given []process.IDRange `json:"given,omitempty"`
}

// maxGiven bounds the ledger. UIDs are assigned in order, so there is hardly
// ever more than one range.
const maxGiven = 1000

func (m *Machine) uidsName() string { return path.Join(m.Options.Dir(), "uids.json") }

func (m *Machine) readUIDs() uidLedger {
	var l uidLedger
	readJSON(m.Root, m.uidsName(), &l) // a damaged file is ignored
	if boot := m.Root.BootID(); l.Boot != boot {
		l.Boot, l.Given = boot, nil
	}
	return l
}

func (l uidLedger) write(m *Machine) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return errors.Join(m.Root.MkdirAll(m.Options.Dir(), 0o700), m.put(m.uidsName(), append(b, '\n'), 0o600))
}

func (l uidLedger) given(uid int) bool {
	return slices.ContainsFunc(l.Given, func(g process.IDRange) bool { return g.Has(uid) })
}

// add adds a UID. Adjacent ranges are joined. If there are too many, the
// closest ones are joined too, including the UIDs between them.
func (l *uidLedger) add(uid int) {
	if !l.given(uid) {
		l.Given = append(l.Given, process.IDRange{First: uid, Last: uid})
	}
	slices.SortFunc(l.Given, func(a, b process.IDRange) int { return a.First - b.First })
	for gap := 1; ; gap *= 2 {
		var out []process.IDRange
		for _, g := range l.Given {
			if n := len(out); n > 0 && g.First-out[n-1].Last <= gap {
				out[n-1].Last = max(out[n-1].Last, g.Last)
			} else {
				out = append(out, g)
			}
		}
		if l.Given = out; len(out) <= maxGiven {
			return
		}
	}
}

// uidRange returns the range of UIDs for ordinary users.
func uidRange(r host.Root) process.IDRange {
	out, defs := process.IDRange{First: 1000, Last: 60000}, r.LoginDefs()
	if n, err := strconv.Atoi(defs["UID_MIN"]); err == nil && n > 0 {
		out.First = n
	}
	if n, err := strconv.Atoi(defs["UID_MAX"]); err == nil && n >= out.First {
		out.Last = n
	}
	return out
}

// retireUID records that a UID must not be reused.
func (m *Machine) retireUID(uid int) error {
	l := m.readUIDs()
	last := l.Last
	if uidRange(m.Root).Has(uid) {
		last = max(last, uid)
	}
	if l.given(uid) && last == l.Last {
		return nil
	}
	l.Last = last
	l.add(uid)
	return l.write(m)
}

// freeUID returns a UID for a new account, other than those in not.
func (m *Machine) freeUID(not []int) (int, error) {
	l, ids := m.readUIDs(), uidRange(m.Root)
	used, err := m.usedUIDs()
	if err != nil {
		return 0, err
	}
	size := ids.Last - ids.First + 1
	from := 0
	if ids.Has(l.Last) {
		from = l.Last + 1 - ids.First
	}
	for i := range size {
		uid := ids.First + (from+i)%size
		if !used[uid] && !l.given(uid) && !slices.Contains(not, uid) {
			return uid, nil
		}
	}
	return 0, fmt.Errorf("no free UID from %d to %d: all are in use or were used since boot", ids.First, ids.Last)
}

// numberTaken reports whether the UID that a tool would choose by itself, the
// highest one plus 1, must not be used.
func (m *Machine) numberTaken() bool {
	l, ids := m.readUIDs(), uidRange(m.Root)
	used, err := m.usedUIDs()
	all, aerr := m.Root.Accounts()
	if l.Last != 0 || err != nil || aerr != nil {
		return l.Last != 0
	}
	next := ids.First
	for _, a := range all {
		if ids.Has(a.UID) {
			next = max(next, a.UID+1)
		}
	}
	return used[next]
}

// usedUIDs returns the UIDs of accounts, and those without an account of which
// something is left: a process, a home, a job, mail.
func (m *Machine) usedUIDs() (map[int]bool, error) {
	r := m.Root
	used := map[int]bool{}
	all, err := r.Accounts()
	if err != nil {
		return nil, err
	}
	for _, a := range append(all, m.readRemoving()...) {
		used[a.UID] = true
	}
	pids, err := process.IDs(string(r))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, pid := range pids {
		if p, ok := process.Look(string(r), pid); ok {
			for _, id := range p.UIDs {
				used[id] = true
			}
		}
	}
	for _, dir := range append([]string{m.Options.HomeDir, "/run/user"}, append(crontabDirs, append(jobDirs, mailDirs...)...)...) {
		_ = eachOwned(r, dir, func(_ *host.Dir, _ string, uid int) error { // a directory that is missing has no owners
			used[uid] = true
			return nil
		})
	}
	return used, nil
}

// eachOwned calls f for each name in a directory, with the UID of its owner.
func eachOwned(r host.Root, dir string, f func(d *host.Dir, name string, uid int) error) error {
	d, err := r.OpenDir(dir, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	var errs []error
	// The number of names is not limited: other users can make any number of
	// them.
	err = d.EachName(func(n string) {
		fi, err := d.Lstat(n)
		if err != nil {
			return // removed meanwhile
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			if err := f(d, n, int(st.Uid)); err != nil && !errors.Is(err, os.ErrNotExist) && len(errs) < 10 {
				errs = append(errs, err)
			}
		}
	})
	errs = append(errs, err)
	return errors.Join(errs...)
}

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

// uidLedger is which numbers the accounts had that were removed. Whoever gets
// one of them gets the files with it, and what was left running.
type uidLedger struct {
	// Last is the highest of them, of any boot: the next account gets one above
	// it, so that a number comes again only when all have been used.
	Last int `json:"last,omitempty"`
	// Boot, and the numbers of accounts that were removed in it. They are not
	// given again before the next one, whatever happens.
	Boot  string            `json:"boot,omitempty"`
	Given []process.IDRange `json:"given,omitempty"`
}

// maxGiven bounds the ledger. Numbers are given in order, so there is hardly
// ever more than one range.
const maxGiven = 1000

func (m *Machine) uidsName() string { return path.Join(m.Options.Dir(), "uids.json") }

func (m *Machine) readUIDs() uidLedger {
	var l uidLedger
	readJSON(m.Root, m.uidsName(), &l) // damaged is as good as none
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

// add notes a number. Ranges that touch become one; of too many, those closest
// to each other, with what is between them.
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

// uidRange is the range for people's accounts.
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

// retireUID notes that a number must not be given again.
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

// freeUID chooses a number for a new account, other than those in not.
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

// numberTaken reports whether the number that a tool would choose by itself, the
// next after the highest, must not be given.
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

// usedUIDs are the numbers that accounts have, and those without an account of
// which something is left: a process, a home, a job, mail.
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
		_ = eachOwned(r, dir, func(_ *host.Dir, _ string, uid int) error { // no directory, nothing left in it
			used[uid] = true
			return nil
		})
	}
	return used, nil
}

// eachOwned calls f for each name in a directory with the number of its owner.
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
	// However many there are: others can make as many as they like.
	err = d.EachName(func(n string) {
		fi, err := d.Lstat(n)
		if err != nil {
			return // gone meanwhile
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

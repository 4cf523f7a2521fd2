package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/process"
)

// An Account is one line of /etc/passwd.
type Account struct {
	Name     string
	UID, GID int
	Gecos    string
	Home     string
	Shell    string
}

// A Group is one line of /etc/group.
type Group struct {
	Name    string
	GID     int
	Members []string
}

// Accounts reads /etc/passwd. Malformed lines and NIS markers are left out;
// without the file there are no accounts.
func (r Root) Accounts() ([]Account, error) {
	var out []Account
	err := r.colonLines("/etc/passwd", func(f []string) {
		if len(f) < 7 {
			return
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err1 == nil && err2 == nil {
			out = append(out, Account{Name: f[0], UID: uid, GID: gid, Gecos: f[4], Home: f[5], Shell: f[6]})
		}
	})
	return out, err
}

// Account finds one account by name.
func (r Root) Account(name string) (Account, bool, error) {
	all, err := r.Accounts()
	for _, a := range all {
		if a.Name == name {
			return a, true, nil
		}
	}
	return Account{}, false, err
}

// Groups reads /etc/group with the same leniency as Accounts.
func (r Root) Groups() ([]Group, error) {
	var out []Group
	err := r.colonLines("/etc/group", func(f []string) {
		if len(f) < 4 {
			return
		}
		if gid, err := strconv.Atoi(f[2]); err == nil {
			g := Group{Name: f[0], GID: gid}
			if f[3] != "" {
				g.Members = strings.Split(f[3], ",")
			}
			out = append(out, g)
		}
	})
	return out, err
}

func (r Root) colonLines(name string, each func([]string)) error {
	b, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' || line[0] == '+' || line[0] == '-' {
			continue
		}
		each(strings.Split(line, ":"))
	}
	return nil
}

// LoginDefs reads the key-value pairs of /etc/login.defs, or of the vendor's
// /usr/etc/login.defs where the first does not exist (SUSE).
func (r Root) LoginDefs() map[string]string {
	out := map[string]string{}
	b, err := r.ReadFile("/etc/login.defs")
	if err != nil {
		b, _ = r.ReadFile("/usr/etc/login.defs")
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0][0] != '#' {
			out[f[0]] = f[1]
		}
	}
	return out
}

// PasswordField is the second field of name's line in a shadow file, and
// whether there is such a line.
func (r Root) PasswordField(shadow, name string) (string, bool, error) {
	var field string
	var found bool
	err := r.colonLines(shadow, func(f []string) {
		if len(f) > 1 && f[0] == name && !found {
			field, found = f[1], true
		}
	})
	return field, found, err
}

// EditPasswordField replaces the second field of name's line in a shadow
// file by what edit makes of it, and keeps every other byte. Ageing fields
// stay; if stamp is true the day of the last change becomes today. A missing
// line is appended. The file is written atomically under the lock that glibc
// and shadow-utils use (lckpwdf: /etc/.pwd.lock), keeping mode and owner.
func (r Root) EditPasswordField(ctx context.Context, shadow, name string, stamp bool, edit func(old string, found bool) string) error {
	unlock, err := r.LockAccounts(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	b, err := r.ReadFile(shadow)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("edit %s: %w", shadow, err)
	}
	perm := fs.FileMode(0o600)
	if fi, err := os.Stat(r.Path(shadow)); err == nil {
		perm = fi.Mode().Perm()
	}
	out, changed := editShadow(b, name, stamp, time.Now(), edit)
	if !changed {
		return nil
	}
	return r.WriteFile(shadow, out, perm)
}

func editShadow(b []byte, name string, stamp bool, now time.Time, edit func(string, bool) string) ([]byte, bool) {
	today := strconv.FormatInt(now.Unix()/86400, 10)
	var out bytes.Buffer
	var done, changed bool
	for line := range bytes.Lines(b) {
		text := strings.TrimRight(string(line), "\r\n")
		f := strings.Split(text, ":")
		if done || len(f) < 2 || f[0] != name {
			out.Write(line)
			continue
		}
		done = true
		next := edit(f[1], true)
		if next == f[1] {
			out.Write(line)
			continue
		}
		changed = true
		f[1] = next
		if stamp && len(f) > 2 {
			f[2] = today
		}
		out.WriteString(strings.Join(f, ":") + "\n")
	}
	if !done {
		changed = true
		if n := out.Len(); n > 0 && out.Bytes()[n-1] != '\n' {
			out.WriteByte('\n')
		}
		out.WriteString(name + ":" + edit("", false) + ":" + today + ":0:99999:7:::\n")
	}
	return out.Bytes(), changed
}

// editColons rewrites a file of lines with colons: edit gets the fields of each
// and returns those to be written, nil for none. Other lines, and those that
// edit leaves as they are, keep every byte. A file that is not there stays so.
// The caller holds the lock of the accounts.
func (r Root) editColons(name string, edit func(f []string) []string) error {
	b, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("edit %s: %w", name, err)
	}
	fi, err := r.Stat(name)
	if err != nil {
		return fmt.Errorf("edit %s: %w", name, err)
	}
	var out bytes.Buffer
	for line := range bytes.Lines(b) {
		text := strings.TrimRight(string(line), "\r\n")
		next := edit(strings.Split(text, ":"))
		switch {
		case next == nil:
		case strings.Join(next, ":") == text:
			out.Write(line)
		default:
			out.WriteString(strings.Join(next, ":") + "\n")
		}
	}
	if bytes.Equal(out.Bytes(), b) {
		return nil
	}
	return r.WriteFile(name, out.Bytes(), fi.Mode().Perm())
}

// LockAccount disables logging in to an account as far as its entries can: the
// password is locked, the account has expired, and shell, which refuses
// logins, becomes its shell.
func (r Root) LockAccount(ctx context.Context, shadow, name, shell string) error {
	unlock, err := r.LockAccounts(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	lock := func(field string) string {
		if strings.HasPrefix(field, "!") {
			return field
		}
		return "!" + field
	}
	return errors.Join(
		r.editColons(shadow, func(f []string) []string {
			if f[0] == name && len(f) > 7 {
				f[1], f[7] = lock(f[1]), "1" // the second day of 1970; 0 is read as never by some
			}
			return f
		}),
		r.editColons("/etc/passwd", func(f []string) []string {
			if f[0] == name && len(f) > 6 {
				if f[1] != "x" {
					f[1] = lock(f[1])
				}
				f[6] = shell
			}
			return f
		}))
}

// OpenAccount undoes what the dates of an account (shadow(5)) keep a person
// from: it does not expire, and its password need not be changed before the
// first log-in. Without a password (ageless) there is nothing to change ever,
// so it has no age. Other fields stay.
func (r Root) OpenAccount(ctx context.Context, shadow, name string, ageless bool) error {
	unlock, err := r.LockAccounts(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return r.editColons(shadow, func(f []string) []string {
		if f[0] == name && len(f) > 7 {
			openDates(f, ageless, time.Now())
		}
		return f
	})
}

// openDates changes the fields of a line of shadow(5).
func openDates(f []string, ageless bool, now time.Time) {
	const changed, limit, inactive, until = 2, 4, 6, 7
	today := now.Unix() / 86400
	day := func(s string) int64 {
		if n, err := strconv.ParseInt(s, 10, 32); err == nil {
			return n
		}
		return -1
	}
	f[until] = ""
	if most := day(f[limit]); ageless && most >= 0 && most < 10_000 {
		f[limit], f[inactive] = "", ""
	}
	most := day(f[limit])
	if last := day(f[changed]); last == 0 || last > 0 && most >= 0 && today-last > most {
		// A clock that is not set yet must not make it the day 0, which is the
		// order to change the password.
		if f[changed] = ""; today > 365 {
			f[changed] = strconv.FormatInt(today, 10)
		}
	}
}

// SetShell gives an account another log-in shell.
func (r Root) SetShell(ctx context.Context, name, shell string) error {
	unlock, err := r.LockAccounts(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return r.editColons("/etc/passwd", func(f []string) []string {
		if f[0] == name && len(f) > 6 {
			f[6] = shell
		}
		return f
	})
}

// ForgetAccount removes the remaining entries of an account that is no longer
// in /etc/passwd from the other files: the tool that removed it was
// interrupted, or leaves some of them. The group of the account is removed if
// nothing else uses it.
func (r Root) ForgetAccount(ctx context.Context, shadow string, a Account) error {
	unlock, err := r.LockAccounts(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := r.Accounts()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(b Account) bool { return b.Name == a.Name }) {
		return fmt.Errorf("remove record of %s: account still exists", a.Name)
	}
	without := func(list string) string {
		return strings.Join(slices.DeleteFunc(strings.Split(list, ","), func(m string) bool { return m == a.Name }), ",")
	}
	lines := func(names ...string) func(f []string) []string {
		return func(f []string) []string {
			if slices.Contains(names, f[0]) {
				return nil
			}
			return f
		}
	}
	used := slices.ContainsFunc(all, func(b Account) bool { return b.GID == a.GID })
	gone := false
	err = r.editColons("/etc/group", func(f []string) []string {
		if len(f) < 4 {
			return f
		}
		f[3] = without(f[3])
		if f[0] == a.Name && f[3] == "" && f[2] == strconv.Itoa(a.GID) && !used {
			gone = true
			return nil
		}
		return f
	})
	groups, gerr := r.Groups()
	gone = gone || gerr == nil && !slices.ContainsFunc(groups, func(g Group) bool { return g.Name == a.Name })
	ids := []string{a.Name}
	if !slices.ContainsFunc(all, func(b Account) bool { return b.UID == a.UID }) {
		ids = append(ids, strconv.Itoa(a.UID))
	}
	return errors.Join(err, gerr,
		r.editColons("/etc/gshadow", func(f []string) []string {
			if len(f) < 4 {
				return f
			}
			f[2], f[3] = without(f[2]), without(f[3])
			if f[0] == a.Name && gone {
				return nil
			}
			return f
		}),
		r.editColons(shadow, lines(a.Name)),
		r.editColons("/etc/subuid", lines(ids...)),
		r.editColons("/etc/subgid", lines(ids...)))
}

// Subordinates are the uids that /etc/subuid gives to this account alone. Uids
// below the range for this purpose (SUB_UID_MIN) are the system's, whatever
// the file says.
func (r Root) Subordinates(a Account) []process.IDRange {
	least := 100_000
	if n, err := strconv.Atoi(r.LoginDefs()["SUB_UID_MIN"]); err == nil && n > 1<<16 {
		least = n
	}
	var mine, others []process.IDRange
	_ = r.colonLines("/etc/subuid", func(f []string) { // what can't be read is not theirs
		if len(f) < 3 {
			return
		}
		first, err1 := strconv.Atoi(f[1])
		count, err2 := strconv.Atoi(f[2])
		if err1 != nil || err2 != nil || count < 1 {
			return
		}
		id := process.IDRange{First: first, Last: first + count - 1}
		if f[0] == a.Name || f[0] == strconv.Itoa(a.UID) {
			mine = append(mine, id)
		} else {
			others = append(others, id)
		}
	})
	all, err := r.Accounts()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(mine, func(m process.IDRange) bool {
		return m.First < least || slices.ContainsFunc(others, func(o process.IDRange) bool { return o.First <= m.Last && m.First <= o.Last }) ||
			slices.ContainsFunc(all, func(b Account) bool { return m.Has(b.UID) })
	})
}

// LockAccounts takes the lock of lckpwdf(3). shadow-utils and glibc wait at
// most 15 s for it, so do we.
func (r Root) LockAccounts(ctx context.Context) (unlock func(), err error) {
	const name = "/etc/.pwd.lock"
	f, err := os.OpenFile(r.Path(name), os.O_CREATE|os.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock accounts: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("another process holds "+name))
	defer cancel()
	for {
		lk := unix.Flock_t{Type: unix.F_WRLCK}
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, errors.Join(fmt.Errorf("lock accounts: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock accounts: %w", context.Cause(ctx)), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// BreakStaleAccountLocks removes the lock files of shadow-utils that a power
// cut left behind: they name a process of an earlier boot, and useradd would
// refuse to work if that process id is in use again. The clock may have been
// wrong when they were made, so a lock whose process does not exist is stale,
// too.
func (r Root) BreakStaleAccountLocks() {
	boot, err := r.BootTime()
	if err != nil {
		return
	}
	for _, n := range []string{"passwd", "shadow", "group", "gshadow", "subuid", "subgid"} {
		name := "/etc/" + n + ".lock"
		fi, err := os.Lstat(r.Path(name))
		if err == nil && fi.Mode().IsRegular() && (fi.ModTime().Before(boot) || !r.lockHeld(name)) {
			_ = r.Remove(name)
		}
	}
}

// lockHeld reports whether the process named in a lock file is alive. A file
// without a valid process id counts as held: it may be just being written.
func (r Root) lockHeld(name string) bool {
	b, err := r.ReadFile(name)
	if err != nil {
		return true
	}
	pid, err := strconv.Atoi(strings.Trim(string(b), "\x00\n "))
	if err != nil || pid <= 0 {
		return true
	}
	return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// BootTime is when the kernel started, from /proc/stat.
func (r Root) BootTime() (time.Time, error) {
	b, err := r.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, fmt.Errorf("read boot time: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			sec, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			if err != nil {
				return time.Time{}, fmt.Errorf("read boot time: %w", err)
			}
			return time.Unix(sec, 0), nil
		}
	}
	return time.Time{}, errors.New("read boot time: not in /proc/stat")
}

// BootID is the kernel's random id of this boot; "" if there is none.
func (r Root) BootID() string {
	b, err := r.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

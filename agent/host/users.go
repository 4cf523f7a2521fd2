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

// Accounts reads /etc/passwd. Lines that make no sense, and NIS markers, are
// left out; a file that is not there is no accounts.
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

// RestoreAccount puts the line of an account back into /etc/passwd. It says
// false, and does nothing, if its name or its number is somebody's by now.
func (r Root) RestoreAccount(ctx context.Context, a Account) (bool, error) {
	unlock, err := r.LockAccounts(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	all, err := r.Accounts()
	if err != nil || slices.ContainsFunc(all, func(b Account) bool { return b.Name == a.Name || b.UID == a.UID }) {
		return false, err
	}
	const name = "/etc/passwd"
	b, err := r.ReadFile(name)
	if err != nil {
		return false, fmt.Errorf("edit %s: %w", name, err)
	}
	if n := len(b); n > 0 && b[n-1] != '\n' {
		b = append(b, '\n')
	}
	b = fmt.Appendf(b, "%s:x:%d:%d:%s:%s:%s\n", a.Name, a.UID, a.GID, a.Gecos, a.Home, a.Shell)
	return true, r.WriteFile(name, b, 0o644)
}

// LockAccounts takes the lock of lckpwdf(3). shadow-utils and glibc wait at
// most 15 s for it, so do we.
func (r Root) LockAccounts(ctx context.Context) (unlock func(), err error) {
	const name = "/etc/.pwd.lock"
	f, err := os.OpenFile(r.Path(name), os.O_CREATE|os.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock accounts: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("somebody else holds "+name))
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
// refuse to work if that number is in use again. The clock may have been
// wrong when they were made, so a number that is not in use says the same.
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

// lockHeld says that the process whose number is in a lock file lives. One
// that can't be read may be in the making.
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
	return time.Time{}, errors.New("read boot time: /proc/stat has none")
}

// BootID tells boots apart; empty if the kernel does not say.
func (r Root) BootID() string {
	b, err := r.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

package provisioning

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// JITComment is the GECOS text of short-lived accounts (provisioning/SPEC.md §13.2).
const JITComment = "JIT_Account"

// JITUser is one account that the platform asks for until Expires.
type JITUser struct {
	Name     string
	Password host.Secret
	Expires  time.Time
	Err      error // why the platform's data for it can't be used
}

// JITSteps says which accounts to add and to remove at the moment now. It is
// pure. Only accounts with the comment, and those that had it before their
// owner changed it, are ours: another one of the same name is never touched,
// whatever the platform asks for. The reasons for what is not done come back
// as warnings.
func JITSteps(want []JITUser, f Facts, o Options, now time.Time) (steps []Step, warnings []error) {
	o = o.WithDefaults()
	for _, a := range f.Accounts {
		if !f.shortLived(a) || slices.Contains(f.Leaving, a.Name) {
			continue // a removal that has begun is ended by MendJIT
		}
		i := slices.IndexFunc(want, func(u JITUser) bool { return u.Name == a.Name })
		// A user whose data can't be read is in the document all the same.
		if i < 0 || want[i].Err == nil && !now.Before(want[i].Expires) {
			steps = append(steps, RemoveJIT{Name: a.Name})
		}
	}
	for _, u := range want {
		have, exists := find(f.Accounts, u.Name)
		switch {
		case u.Err != nil:
			warnings = append(warnings, fmt.Errorf("just-in-time user %q: %w", printable(u.Name), u.Err))
		case slices.Contains(f.Leaving, u.Name):
			if now.Before(u.Expires) {
				warnings = append(warnings, fmt.Errorf("just-in-time user %q: previous user of this name is still being removed", printable(u.Name)))
			}
		case !now.Before(u.Expires), exists && f.shortLived(have) && !slices.Contains(f.HalfMade, u.Name):
			// Over, or there already.
		case exists && !f.shortLived(have):
			warnings = append(warnings, fmt.Errorf("just-in-time user %q: an account with this name already exists", printable(u.Name)))
		default:
			in := Input{UserName: u.Name, Password: u.Password}
			acct, err := planUser(in, f, o)
			if err == nil && u.Password.Empty() {
				err = fmt.Errorf("just-in-time user %q: no password", printable(u.Name))
			}
			if err != nil {
				warnings = append(warnings, err)
				continue
			}
			// The ledger is for the account of the VM's order only.
			acct.Ledger = ""
			s := AddJIT{Account: acct, Expires: u.Expires.UTC(), Password: planPassword(in, f, o).(SetPassword)}
			if sudo, ok := planSudo(in, f, o); ok {
				s.Sudo = sudo.(Sudo)
			}
			steps = append(steps, s)
		}
	}
	return steps, warnings
}

// EndJIT removes the accounts of these names, as far as they are ours.
func EndJIT(names []string, f Facts) (steps []Step) {
	for _, name := range names {
		if have, exists := find(f.Accounts, name); exists && f.shortLived(have) {
			steps = append(steps, RemoveJIT{Name: name})
		}
	}
	return steps
}

// NextJIT is when the next account expires; zero if none will.
func NextJIT(want []JITUser, now time.Time) time.Time {
	var next time.Time
	for _, u := range want {
		if u.Err == nil && u.Expires.After(now) && (next.IsZero() || u.Expires.Before(next)) {
			next = u.Expires
		}
	}
	return next
}

// AddJIT makes a short-lived account that may use sudo. If any part fails
// the account, which did not exist before, is taken away again.
type AddJIT struct {
	Account  CreateUser
	Expires  time.Time
	Password SetPassword
	Sudo     Sudo
}

// ID implements Step.
func (s AddJIT) ID() string { return "jit-" + s.Account.Name }

func (s AddJIT) String() string {
	return fmt.Sprintf("add the just-in-time user %s until %s", s.Account.Name, s.Expires.Format(time.RFC3339))
}

// Apply implements Step. The password comes last: an account without one was
// cut off by the end of the agent or of the power, and is completed.
func (s AddJIT) Apply(ctx context.Context, m *Machine) error {
	name := s.Account.Name
	bad := func(err error) error {
		return fail(CodeUser, "failed to add just-in-time user", err, Pair{"user", name})
	}
	m.Root.BreakStaleAccountLocks()
	acct, cut, err := m.Root.Account(name)
	if err != nil {
		return bad(err)
	}
	if cut && !m.halfMade(acct) {
		return fmt.Errorf("just-in-time user %q was created by another program", name)
	}
	have := cut
	if cut {
		if have, err = s.Account.whole(ctx, m, acct); err != nil {
			return bad(err)
		}
	}
	if !have {
		// Half an account that was taken back has its number again.
		if err := s.create(ctx, m, acct.UID); err != nil {
			return bad(err)
		}
	}
	if err = s.finish(ctx, m, cut); err != nil {
		undo := RemoveJIT{Name: name}
		return errors.Join(err, undo.Apply(context.WithoutCancel(ctx), m))
	}
	return nil
}

func (s AddJIT) finish(ctx context.Context, m *Machine, cut bool) error {
	if cut {
		acct, _, err := m.Root.Account(s.Account.Name)
		if err == nil {
			err = mendHome(m.Root, acct, s.Account.HomeDir, true)
		}
		if err != nil {
			return err
		}
	}
	if s.Sudo.User != "" {
		if err := s.Sudo.Apply(ctx, m); err != nil {
			return err
		}
	}
	return s.Password.Apply(ctx, m)
}

// halfMade says that a short-lived account has no password yet.
func (m *Machine) halfMade(a host.Account) bool {
	if !m.readJITLedger().has(a) {
		return false
	}
	field, _, err := m.Root.PasswordField(m.Options.Shadow, a.Name)
	return err == nil && strings.Trim(field, "*!") == ""
}

func (s AddJIT) create(ctx context.Context, m *Machine, uid int) error {
	a := s.Account
	// One day more than the platform says: the date of the account is a day,
	// and we take it away by the minute.
	about := []string{"-c", JITComment, "-e", s.Expires.AddDate(0, 0, 1).Format("2006-01-02")}
	// A group of that name is somebody's; as the account's own it would be
	// removed with it.
	a.Primary, a.NoOwnGroup = "", a.Primary != "" || a.NoOwnGroup
	if a.Tool == "adduser" {
		about, a.NoOwnGroup = []string{"-g", JITComment}, false
	}
	if err := m.Root.MkdirAll(a.HomeDir, 0o755); err != nil {
		return err
	}
	return m.withUID(uid, func(uid int) error {
		if err := m.noteJIT(a.Name, uid); err != nil {
			return err
		}
		c, err := a.tool(about, []string{"-u", strconv.Itoa(uid)})
		if err == nil {
			_, err = m.Run.Run(ctx, c)
		}
		return err
	})
}

// withUID runs a tool that makes an account with a number: uid, or if that is 0
// one that is free. One that the files do not know may be somebody's all the
// same, of a directory service; the tool says so, and the next is tried.
func (m *Machine) withUID(uid int, tool func(uid int) error) error {
	if uid != 0 {
		return tool(uid)
	}
	var not []int
	for {
		uid, err := m.freeUID(not)
		if err != nil {
			return err
		}
		err = tool(uid)
		ex, ok := errors.AsType[*host.ExitError](err)
		taken := ok && (ex.Code == 4 || strings.Contains(ex.Stderr, "in use")) // useradd; busybox says "uid '1000' in use"
		if not = append(not, uid); !taken || len(not) == 50 {
			return err
		}
	}
}

// RemoveJIT takes a short-lived account away, home and sudo rule with it. It
// looks once more that the account is ours.
type RemoveJIT struct{ Name string }

// ID implements Step.
func (s RemoveJIT) ID() string { return "jit-remove-" + s.Name }

func (s RemoveJIT) String() string { return "remove the just-in-time user " + s.Name }

// Apply implements Step.
func (s RemoveJIT) Apply(ctx context.Context, m *Machine) error {
	a, have, err := m.Root.Account(s.Name)
	if err != nil {
		return err
	}
	if have && !m.ShortLived(a) {
		return fmt.Errorf("remove %s: not a just-in-time user", s.Name)
	}
	if err := m.removeAccount(ctx, s.Name, false); err != nil {
		return fail(CodeUser, "failed to remove just-in-time user", err, Pair{"user", s.Name})
	}
	return nil
}

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

// JITComment is the GECOS text of short-lived accounts
// (provisioning/SPEC.md §13.2).
const JITComment = "JIT_Account"

// JITUser is one account that the platform asks for until Expires.
type JITUser struct {
	Name     string
	Password host.Secret
	Expires  time.Time
	Err      error // why the platform's data for it can't be used
}

// JITSteps returns the steps that add and remove accounts at the time now. It
// is pure. Only accounts with the comment, and those that had it before their
// owner changed it, are short-lived accounts; another account of the same name
// is never touched. Requests that cannot be fulfilled are returned as
// warnings.
func JITSteps(want []JITUser, f Facts, o Options, now time.Time) (steps []Step, warnings []error) {
	o = o.WithDefaults()
	for _, a := range f.Accounts {
		if !f.shortLived(a) || slices.Contains(f.Leaving, a.Name) {
			continue // a removal that has begun is ended by MendJIT
		}
		i := slices.IndexFunc(want, func(u JITUser) bool { return u.Name == a.Name })
		// A user whose data cannot be read is still requested.
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
			// Expired, or complete already.
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
			// The ledger is only for the account of the provisioning document.
			acct.Ledger = ""
			s := AddJIT{Account: acct, Expires: u.Expires.UTC(), Password: planPassword(in, f, o)}
			if sudo, ok := planSudo(in, f, o); ok {
				s.Sudo = sudo.(Sudo)
			}
			steps = append(steps, s)
		}
	}
	return steps, warnings
}

// EndJIT returns the steps that remove the short-lived accounts of these
// names.
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

// AddJIT makes a short-lived account that may use sudo. If any part fails, the
// account, which did not exist before, is removed again.
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

// Apply implements Step. The password is set last: an account without one was
// interrupted by the end of the agent or a power cut, and is completed.
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
		// An incomplete account that was removed gets the same UID again.
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

// halfMade reports whether a short-lived account has no password yet.
func (m *Machine) halfMade(a host.Account) bool {
	if !m.readJITLedger().has(a) {
		return false
	}
	field, _, err := m.Root.PasswordField(m.Options.Shadow, a.Name)
	return err == nil && strings.Trim(field, "*!") == ""
}

func (s AddJIT) create(ctx context.Context, m *Machine, uid int) error {
	a := s.Account
	// The account expires at the end of a day, so one day is added; the agent
	// removes the account to the minute.
	about := []string{"-c", JITComment, "-e", s.Expires.AddDate(0, 0, 1).Format("2006-01-02")}
	// A group of that name exists already. As the account's own group it would
	// be removed with the account.
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

// withUID calls tool, which makes an account, with a UID: uid, or a free one
// if that is 0. A UID that is free in the local files may belong to an account
// of a directory service; if the tool reports that, the next one is tried, up
// to 50 in total.
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

// RemoveJIT removes a short-lived account with its home and sudo rule. It
// checks again that the account is a short-lived one.
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

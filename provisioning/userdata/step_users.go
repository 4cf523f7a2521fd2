package userdata

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/provisioning"
)

// toolTimeout bounds tools of the machine that take no time by themselves.
const toolTimeout = 60 * time.Second

// accountFiles are what tools for accounts change.
var accountFiles = []string{"/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"}

// MakeGroup makes a group, if there is none of this name, and adds accounts to
// it. As in cloud-init, groups are made before users: a member that does not
// exist yet is not added (users have groups of their own for that).
type MakeGroup struct {
	Name    string
	Members []string
	Busybox bool // its tools instead of those of shadow-utils
}

// ID implements provisioning.Step.
func (s MakeGroup) ID() string { return "group:" + s.Name }

func (s MakeGroup) String() string { return "make the group " + s.Name }

// Apply implements provisioning.Step.
func (s MakeGroup) Apply(ctx context.Context, m *provisioning.Machine) error {
	if err := makeGroup(ctx, m, s.Name, s.Busybox); err != nil {
		return failed(CodeGroup, "failed to make a group", err)
	}
	var unknown []string
	for _, name := range s.Members {
		if _, _, err := m.Person(ctx, name); err != nil {
			unknown = append(unknown, name)
			continue
		}
		if err := joinGroup(ctx, m, name, s.Name, s.Busybox); err != nil {
			return failed(CodeGroup, "failed to add a member to a group", err)
		}
	}
	if len(unknown) > 0 {
		return partly(CodeGroup, "group %s: %s not added, because groups are made before users: name the group in groups of the user", s.Name, strings.Join(unknown, ", "))
	}
	return nil
}

// makeGroup makes a group if there is none of this name.
func makeGroup(ctx context.Context, m *provisioning.Machine, name string, busybox bool) error {
	if _, err := groupID(ctx, m, name); err == nil {
		return nil
	}
	m.Root.BreakStaleAccountLocks()
	tool := "groupadd"
	if busybox {
		tool = "addgroup"
	}
	_, err := m.Run.Run(ctx, host.Cmd{Name: tool, Args: []string{name}, Timeout: toolTimeout})
	if err != nil {
		return fmt.Errorf("group %s: %w", name, m.Root.Explain(err, accountFiles...))
	}
	return nil
}

// joinGroup makes an account a member of a group.
func joinGroup(ctx context.Context, m *provisioning.Machine, user, group string, busybox bool) error {
	groups, err := m.Root.Groups()
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(groups, func(g host.Group) bool { return g.Name == group }); i >= 0 && slices.Contains(groups[i].Members, user) {
		return nil
	}
	c := host.Cmd{Name: "usermod", Args: []string{"-a", "-G", group, user}, Timeout: toolTimeout}
	if busybox {
		c.Name, c.Args = "addgroup", []string{user, group}
	}
	if _, err := m.Run.Run(ctx, c); err != nil {
		return fmt.Errorf("add %s to group %s: %w", user, group, m.Root.Explain(err, accountFiles...))
	}
	return nil
}

// groupID returns the number of a group: of /etc/group, else as the C library
// knows it.
func groupID(ctx context.Context, m *provisioning.Machine, name string) (int, error) {
	groups, err := m.Root.Groups()
	if err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(groups, func(g host.Group) bool { return g.Name == name }); i >= 0 {
		return groups[i].GID, nil
	}
	res, err := m.Run.Run(ctx, host.Cmd{Name: "getent", Args: []string{"group", name}, Timeout: toolTimeout})
	if err == nil {
		if f := strings.Split(string(res.Stdout), ":"); len(f) > 2 && f[0] == name {
			return strconv.Atoi(f[2])
		}
	}
	return 0, fmt.Errorf("no group %s", name)
}

// AddUser makes an account as an entry of users says. One that the image
// brought along keeps what it has, as with cloud-init.
type AddUser struct {
	Account provisioning.CreateUser
	Groups  []string // supplementary
	// NoNewGroups leaves it at the groups that exist; with another one the
	// account is not made.
	NoNewGroups bool
	Busybox     bool
	// Kept are keys of the entry that an existing account does not get.
	Kept []string
	// Without are keys that the tool of this machine has no option for.
	Without []string
}

// ID implements provisioning.Step.
func (s AddUser) ID() string { return "user:" + s.Account.Name }

func (s AddUser) String() string { return "make the user " + s.Account.Name }

// Apply implements provisioning.Step.
func (s AddUser) Apply(ctx context.Context, m *provisioning.Machine) error {
	name := s.Account.Name
	bad := func(err error) error { return failed(CodeUser, "failed to make a user", err) }
	if _, _, err := m.Person(ctx, name); err == nil && !m.Made(s.Account.Ledger, name) {
		if len(s.Kept) > 0 {
			return partly(CodeUser, "user %s exists already and keeps what it has (%s)", name, strings.Join(s.Kept, ", "))
		}
		return nil
	}
	if err := provisioning.CheckUserName(name); err != nil {
		return bad(fmt.Errorf("user name %q: %w", name, err))
	}
	groups := s.Groups
	if s.Account.Primary != "" {
		groups = append(slices.Clone(groups), s.Account.Primary)
	}
	for _, g := range groups {
		if s.NoNewGroups {
			if _, err := groupID(ctx, m, g); err != nil {
				return bad(fmt.Errorf("%w, and create_groups is false", err))
			}
			continue
		}
		if err := makeGroup(ctx, m, g, s.Busybox); err != nil {
			return bad(err)
		}
	}
	acct := s.Account
	acct.VMID = m.VM.ID
	if err := acct.Apply(ctx, m); err != nil {
		return bad(err)
	}
	if s.Busybox {
		for _, g := range s.Groups {
			if err := joinGroup(ctx, m, name, g, true); err != nil {
				return bad(err)
			}
		}
	}
	if len(s.Without) > 0 {
		return partly(CodeUser, "user %s: adduser of this machine has no option for %s", name, strings.Join(s.Without, ", "))
	}
	return nil
}

// ChangeUser gives the account of the provisioning order, which exists already,
// the settings of its entry of users.
type ChangeUser struct {
	Name    string
	Args    []string // of usermod
	Groups  []string
	Primary string // as in Args
	Busybox bool
	Kept    []string // keys of the entry that are not applied
}

// ID implements provisioning.Step.
func (s ChangeUser) ID() string { return "user:" + s.Name }

func (s ChangeUser) String() string { return "change the settings of the user " + s.Name }

// Apply implements provisioning.Step.
func (s ChangeUser) Apply(ctx context.Context, m *provisioning.Machine) error {
	bad := func(err error) error { return failed(CodeUser, "failed to change a user", err) }
	if s.Name == "" {
		return bad(errNoOrder)
	}
	if s.Primary != "" {
		if err := makeGroup(ctx, m, s.Primary, s.Busybox); err != nil {
			return bad(err)
		}
	}
	for _, g := range s.Groups {
		if err := errors.Join(makeGroup(ctx, m, g, s.Busybox), joinGroup(ctx, m, s.Name, g, s.Busybox)); err != nil {
			return bad(err)
		}
	}
	if len(s.Args) > 0 {
		_, err := m.Run.Run(ctx, host.Cmd{Name: "usermod", Args: append(slices.Clone(s.Args), s.Name), Timeout: toolTimeout})
		if err != nil {
			return bad(fmt.Errorf("user %s: %w", s.Name, m.Root.Explain(err, accountFiles...)))
		}
	}
	if len(s.Kept) > 0 {
		return partly(CodeUser, "user %s was made by provisioning and keeps its %s", s.Name, strings.Join(s.Kept, ", "))
	}
	return nil
}

// errNoOrder is why nothing is done for the default user.
var errNoOrder = errors.New("the account of the provisioning order is not known")

// SetPassword sets or locks the password of an account.
type SetPassword struct {
	User   string
	Plain  secret.Secret
	Hashed secret.Secret // takes precedence over Plain
	New    secret.Secret // a hash, only for an account that AddUser has made
	Lock   bool
	Ledger string // of AddUser
}

// ID implements provisioning.Step.
func (s SetPassword) ID() string { return "password:" + s.User }

func (s SetPassword) String() string {
	switch {
	case s.Plain.Empty() && s.Hashed.Empty() && s.New.Empty():
		return "lock the password of " + s.User
	case s.Lock:
		return "set and lock the password of " + s.User
	}
	return "set the password of " + s.User
}

// Apply implements provisioning.Step. The field is written once, so that the
// account is at no time open with a password that is to be locked.
func (s SetPassword) Apply(ctx context.Context, m *provisioning.Machine) error {
	bad := func(err error) error { return failed(CodeUser, "failed to set a password", err) }
	if s.User == "" {
		return bad(errNoOrder)
	}
	have, found, err := m.Root.PasswordField(m.Options.Shadow, s.User)
	if err != nil {
		return bad(err)
	}
	if _, _, err := m.Person(ctx, s.User); err != nil {
		return bad(err)
	}
	want, err := s.field(m, have)
	if err != nil {
		return bad(fmt.Errorf("password of %s: %w", s.User, err))
	}
	if found && have == want.Reveal() {
		return nil
	}
	if err := m.SetPasswordField(ctx, s.User, want); err != nil {
		return bad(err)
	}
	return nil
}

// field returns the new password field. An account without a password gets "*"
// and not "!", with which sshd without PAM refuses keys, too.
func (s SetPassword) field(m *provisioning.Machine, have string) (secret.Secret, error) {
	hash := strings.TrimLeft(have, "!")
	switch {
	case !s.Hashed.Empty():
		hash = s.Hashed.Reveal()
	case !s.Plain.Empty():
		if provisioning.PasswordMatches(hash, s.Plain) {
			break
		}
		h, err := m.HashPassword(s.Plain)
		if err != nil {
			return h, err
		}
		hash = h.Reveal()
	case !s.New.Empty() && m.Made(s.Ledger, s.User):
		hash = s.New.Reveal()
	case !s.Lock || strings.HasPrefix(have, "!") || strings.HasPrefix(have, "*"):
		return secret.New(have), nil // nothing to set, or locked already
	}
	if strings.ContainsAny(hash, ":\n\x00") {
		return secret.Secret{}, errors.New("not a hash as crypt(5) has it")
	}
	switch {
	case hash == "" || hash == "*":
		hash = "*"
	case s.Lock && !strings.HasPrefix(hash, "!") && !strings.HasPrefix(hash, "*"):
		hash = "!" + hash
	}
	return secret.New(hash), nil
}

// AddKeys adds public keys to those with which one may log in as a user.
type AddKeys struct {
	Authorize provisioning.AuthorizeKeys
}

// ID implements provisioning.Step.
func (s AddKeys) ID() string { return "keys:" + s.Authorize.User }

func (s AddKeys) String() string { return s.Authorize.String() }

// Apply implements provisioning.Step.
func (s AddKeys) Apply(ctx context.Context, m *provisioning.Machine) error {
	bad := func(err error) error { return failed(CodeKeys, "failed to authorize keys", err) }
	if s.Authorize.User == "" {
		return bad(errNoOrder)
	}
	_, acct, err := m.Person(ctx, s.Authorize.User)
	if err != nil {
		return bad(err)
	}
	if !m.Root.Exists(acct.Home) {
		return bad(fmt.Errorf("user %s has no home directory (no_create_home, system)", acct.Name))
	}
	err = s.Authorize.Apply(ctx, m)
	if w, ok := errors.AsType[*provisioning.Warning](err); ok {
		return &provisioning.Warning{ID: CodeKeys, Err: w.Err}
	}
	if err != nil {
		return bad(err)
	}
	return nil
}

// AddSudo writes the sudo rules of a user.
type AddSudo struct {
	User  string
	Rules []string // without the name of the user
}

// ID implements provisioning.Step.
func (s AddSudo) ID() string { return "sudo:" + s.User }

func (s AddSudo) String() string { return "write the sudo rules of " + s.User }

// Apply implements provisioning.Step.
func (s AddSudo) Apply(ctx context.Context, m *provisioning.Machine) error {
	bad := func(err error) error { return failed(CodeSudo, "failed to write sudo rules", err) }
	if s.User == "" {
		return bad(errNoOrder)
	}
	if _, _, err := m.Person(ctx, s.User); err != nil {
		return bad(err)
	}
	old, err := readText(m.Root, path.Join(m.Options.SudoersDir, provisioning.DataSudoers))
	if err != nil {
		return bad(err)
	}
	if err := m.WriteSudoers(ctx, provisioning.DataSudoers, sudoersWith(old, s.User, s.Rules)); err != nil {
		return bad(fmt.Errorf("rules of %s: %w", s.User, err))
	}
	return nil
}

// sudoersWith replaces a user's block in the text of our file. Blocks of others
// stay: an image may have been made of a machine with other users.
func sudoersWith(text, user string, rules []string) string {
	if text == "" {
		text = "# Written by azguest from the user data of this VM.\n"
	}
	var next strings.Builder
	next.WriteString(strings.TrimRight(provisioning.SudoersWithout(text, user), "\n") + "\n\n" + provisioning.DataSudoersTitle(user))
	for _, r := range rules {
		next.WriteString(provisioning.SudoersName(user) + " " + r + "\n")
	}
	return next.String()
}

package provisioning

import (
	"context"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// CreateUser makes the account. An existing account is kept as it is. A ledger
// lists the accounts that the agent made, so that a home that a power cut left
// incomplete can be distinguished from an existing user's home.
type CreateUser struct {
	Name, Home, HomeDir, Shell string
	Primary                    string // existing group to use
	NoOwnGroup                 bool   // take the distribution's default group
	Tool                       string // useradd, adduser (busybox), or none
	Ledger                     string
	VMID                       string
	Restorecon                 string

	// The rest is for accounts that are not the person's of the order.

	About  []string // additional arguments of the tool
	UID    int      // 0: the tool chooses one
	NoHome bool
	// AsGiven leaves a shell that refuses log-ins, and a home that was there
	// before the account.
	AsGiven bool
}

// ID implements Step.
func (CreateUser) ID() string { return StepUser }

func (s CreateUser) String() string { return "create the user " + s.Name }

// Apply implements Step.
func (s CreateUser) Apply(ctx context.Context, m *Machine) error {
	bad := func(err error) error {
		return fail(CodeUser, "failed to provision user", err, Pair{"user", s.Name})
	}
	m.Root.BreakStaleAccountLocks()
	acct, have, err := m.Root.Account(s.Name)
	if err != nil {
		return bad(err)
	}
	ours, err := readLedger(m.Root, s.Ledger)
	if err != nil {
		return bad(err)
	}
	cut := have && ours.Making == s.Name // an earlier attempt was interrupted
	if cut {
		if have, err = s.whole(ctx, m, acct); err != nil {
			return bad(err)
		}
	}
	if !have {
		ours.Users = append(slices.DeleteFunc(ours.Users, func(n string) bool { return n == s.Name }), s.Name)
		ours.VMID, ours.Making = s.VMID, s.Name
		// A home that an interrupted attempt has begun is not a kept one.
		ours.Kept = s.AsGiven && (m.Root.Exists(s.Home) && !cut || cut && ours.Kept)
		if err := writeLedger(m.Root, s.Ledger, ours); err != nil {
			return bad(err)
		}
		made := s.create(ctx, m, acct.UID)
		if acct, have, err = m.Root.Account(s.Name); err != nil {
			return bad(errors.Join(made, err))
		}
		if made = s.judge(m, made, acct, have); made != nil {
			return bad(m.Root.Explain(made, accountFiles...))
		}
	}
	if !have {
		// The name is an account of another source (LDAP, userdb). It is not
		// ours: it is not changed, and no home is made.
		ours.Making = ""
		ours.Users = slices.DeleteFunc(ours.Users, func(n string) bool { return n == s.Name })
		if err := writeLedger(m.Root, s.Ledger, ours); err != nil {
			return bad(err)
		}
		return warn(CodeUser, "%s is an account of another source than /etc/passwd, which keeps its password, shell and home", s.Name)
	}
	if err := s.mendShell(ctx, m, acct); err != nil {
		return bad(err)
	}
	owned := s.ownsHome(ours)
	if owned {
		if err := mendHome(m.Root, acct, s.HomeDir, cut); err != nil {
			return bad(err)
		}
	}
	if ours.Making != "" {
		ours.Making = ""
		if err := writeLedger(m.Root, s.Ledger, ours); err != nil {
			return bad(err)
		}
	}
	if !s.AsGiven || owned {
		m.Restorecon(ctx, s.Restorecon, "-R", acct.Home)
	}
	return nil
}

// system reports whether the account is to be one of the system's, which have
// numbers of another range and no subordinate ids.
func (s CreateUser) system() bool { return slices.Contains(s.About, "-r") }

// ownsHome reports whether the home is completed if something of it is missing.
func (s CreateUser) ownsHome(ours ledger) bool {
	if s.AsGiven {
		return ours.Making == s.Name && !ours.Kept && !s.NoHome
	}
	return slices.Contains(ours.Users, s.Name)
}

// accountFiles are what the tools that make accounts change.
var accountFiles = []string{"/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid"}

// judge decides whether an error of the tool is one of the provisioning.
// useradd writes the account first; what it could not do afterwards (exit 12:
// the home, 13: the mailbox, 14: SELinux' user, 16 and 18: subordinate ids) is
// done by mendHome, or not needed for a log-in.
func (s CreateUser) judge(m *Machine, made error, acct host.Account, have bool) error {
	ex, exited := errors.AsType[*host.ExitError](made)
	if made == nil || !exited || ex.Code < 0 || !have {
		return made
	}
	missing, err := s.missing(m.Root, acct)
	if err != nil || missing != "" && !strings.HasPrefix(missing, "/etc/sub") {
		return errors.Join(made, err)
	}
	m.Log.Warn().Err(made).Str("user", s.Name).Msg("account made, although its tool reports an error")
	return nil
}

// mendShell gives an account that the document gives to a person a shell, if
// its own refuses log-ins (an account of the image that was closed, or a
// default of useradd).
func (s CreateUser) mendShell(ctx context.Context, m *Machine, acct host.Account) error {
	if s.AsGiven || !refusesLogins(m.Root, acct.Shell) {
		return nil
	}
	for _, sh := range append([]string{s.Shell, "/bin/bash", "/usr/bin/bash"}, append(shells(m.Root), "/bin/sh")...) {
		if sh != "" && !refusesLogins(m.Root, sh) {
			m.Log.Info().Str("user", s.Name).Str("was", acct.Shell).Str("shell", sh).Msg("account gets a shell for log-ins")
			return m.Root.SetShell(ctx, s.Name, sh)
		}
	}
	return nil
}

// refusesLogins reports whether a shell is none: it is not there, cannot be
// run, or is one of the programs that end at once.
func refusesLogins(r host.Root, shell string) bool {
	if shell == "" {
		return false // means /bin/sh
	}
	switch path.Base(shell) {
	case "nologin", "false", "true", "sync", "halt", "shutdown", "poweroff", "git-shell", "scponly":
		return true
	}
	fi, err := r.Stat(shell)
	return err != nil || fi.IsDir() || fi.Mode()&0o111 == 0
}

// takeHome returns the uid of a home that is there although the account is not,
// because it survived /etc (image-based systems, /home on a disk of its own);
// 0 if there is none that may be taken. The new account gets that uid and, as
// far as there is none yet, a group with the home's gid. A uid of another
// account, or of one that was removed in this boot, is not taken: the home is
// then somebody else's, see mendHome.
func (s *CreateUser) takeHome(ctx context.Context, m *Machine) (int, error) {
	d, err := m.Root.OpenDir(s.Home, nil)
	if err != nil {
		return 0, nil //nolint:nilerr // there is none; what cannot be opened is reported by mendHome
	}
	uid, gid, _, err := d.Owner()
	err = errors.Join(err, d.Close())
	accounts, aerr := m.Root.Accounts()
	groups, gerr := m.Root.Groups()
	if err := errors.Join(err, aerr, gerr); err != nil {
		return 0, err
	}
	l := m.readUIDs()
	taken := slices.ContainsFunc(accounts, func(a host.Account) bool { return a.UID == uid })
	if taken || !uidRange(m.Root).Has(uid) || l.given(uid) {
		return 0, nil
	}
	m.Log.Info().Str("home", s.Home).Int("uid", uid).Msg("home without an account is given to the new account")
	if s.Primary != "" || s.NoOwnGroup || gid == uid {
		return uid, nil
	}
	if i := slices.IndexFunc(groups, func(g host.Group) bool { return g.GID == gid }); i >= 0 {
		if gid >= uidRange(m.Root).First {
			s.Primary = groups[i].Name
		}
		return uid, nil
	}
	if gid >= uidRange(m.Root).First && s.Tool == "useradd" {
		if _, err := m.Run.Run(ctx, host.Cmd{Name: "groupadd", Args: []string{"-g", strconv.Itoa(gid), s.Name}, Timeout: toolTimeout}); err == nil {
			s.Primary = s.Name
		}
	}
	return uid, nil
}

// create runs the tool that makes the account, with the given uid if it is not
// 0. Otherwise the tool chooses a UID, unless that one was used by a removed
// account, or files or processes with it remain.
func (s *CreateUser) create(ctx context.Context, m *Machine, uid int) error {
	if uid == 0 {
		uid = s.UID
	}
	if uid == 0 && !s.NoHome {
		var err error
		if uid, err = s.takeHome(ctx, m); err != nil {
			return err
		}
	}
	if uid != 0 || !s.system() && m.numberTaken() {
		return m.withUID(uid, func(uid int) error { return s.run(ctx, m, "-u", strconv.Itoa(uid)) })
	}
	return s.run(ctx, m)
}

func (s CreateUser) run(ctx context.Context, m *Machine, uid ...string) error {
	c, err := s.tool(s.About, uid)
	if err != nil {
		return err
	}
	if !s.NoHome {
		if err := m.Root.MkdirAll(s.HomeDir, 0o755); err != nil {
			return err
		}
	}
	_, err = m.Run.Run(ctx, c)
	if ex, ok := errors.AsType[*host.ExitError](err); ok && s.Tool == "useradd" {
		switch ex.Code {
		case 9: // the name is somebody's
			if _, _, known := m.Person(ctx, s.Name); known == nil {
				return nil // of another source, see Apply
			}
			if s.Primary == "" && !s.NoOwnGroup { // a group's, of another source
				s.NoOwnGroup = true
				return s.run(ctx, m, uid...)
			}
		case 12: // no home: versions that have not made the account either
			if _, have, aerr := m.Root.Account(s.Name); aerr == nil && !have {
				if i := slices.Index(c.Args, "-m"); i >= 0 {
					c.Args[i] = "-M" // mendHome makes it
					_, err = m.Run.Run(ctx, c)
				}
			}
		case 3: // "invalid user name": stricter than we are about capitals and dots
			c.Args = append([]string{"--badname"}, c.Args...)
			_, err = m.Run.Run(ctx, c)
		}
	}
	return err
}

// tool returns the command that makes the account. about is additional
// arguments, uid those that set the UID if the tool must not choose one.
func (s CreateUser) tool(about, uid []string) (host.Cmd, error) {
	var args []string
	home := map[bool]string{false: "-m", true: "-M"} // whether useradd makes it
	switch s.Tool {
	case "useradd":
		args = slices.Concat(
			// "*" rather than the "!" that useradd would take: sshd without
			// PAM treats "!" as a locked account and refuses keys.
			[]string{home[s.NoHome], "-p", "*"},
			about,
			option(s.HomeDir != "/home", "-d", s.Home),
			option(s.Shell != "", "-s", s.Shell),
			option(s.Primary != "", "-g", s.Primary),
			option(s.Primary == "" && s.NoOwnGroup, "-N"),
			uid,
		)
	case "adduser": // busybox
		args = slices.Concat(
			[]string{"-D", "-h", s.Home},
			option(s.NoHome, "-H"),
			about,
			option(s.Shell != "", "-s", s.Shell),
			option(s.Primary != "", "-G", s.Primary),
			option(s.Primary == "" && s.NoOwnGroup, "-G", "users"),
			uid,
		)
	default:
		return host.Cmd{}, errors.New("neither useradd nor busybox adduser is installed")
	}
	return host.Cmd{Name: s.Tool, Args: append(args, s.Name), Timeout: toolTimeout}, nil
}

// option returns the arguments if the condition given is true.
func option(given bool, args ...string) []string {
	if !given {
		return nil
	}
	return args
}

// whole reports whether an account has everything that the tool writes. After
// a power cut some files have it and some do not; the account is then removed,
// except its home, so that the tool can make it again.
func (s CreateUser) whole(ctx context.Context, m *Machine, acct host.Account) (bool, error) {
	// If only the agent was interrupted, the tool may still be running; wait
	// for its locks.
	unlock, err := m.Root.LockAccounts(ctx)
	if err != nil {
		return false, err
	}
	missing, err := s.missing(m.Root, acct)
	unlock()
	if err != nil || missing == "" {
		return true, err
	}
	m.Log.Warn().Str("user", s.Name).Str("missing", missing).Msg("creation of the account was interrupted, creating it again")
	tool := "userdel"
	if s.Tool == "adduser" {
		tool = "deluser"
	}
	if _, err := m.Run.Run(ctx, host.Cmd{Name: tool, Args: []string{s.Name}, Timeout: toolTimeout}); err != nil {
		m.Log.Warn().Err(err).Str("user", s.Name).Msg("could not remove incomplete account")
	}
	_, have, err := m.Root.Account(s.Name)
	return have, err
}

// missing returns a file in which the account has no line although it should;
// empty if there is none.
func (s CreateUser) missing(r host.Root, acct host.Account) (string, error) {
	groups, err := r.Groups()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(groups, func(g host.Group) bool { return g.GID == acct.GID })
	if i < 0 {
		return "/etc/group", nil
	}
	files := []string{"/etc/shadow"}
	if groups[i].Name == s.Name {
		files = append(files, "/etc/gshadow")
	}
	if defs := r.LoginDefs(); s.Tool == "useradd" && !s.system() {
		for _, kind := range []string{"uid", "gid"} {
			if defs["SUB_"+strings.ToUpper(kind)+"_COUNT"] != "0" {
				files = append(files, "/etc/sub"+kind)
			}
		}
	}
	for _, name := range files {
		if !r.Exists(name) {
			continue // this machine has no such file
		}
		if _, found, err := r.PasswordField(name, s.Name); err != nil || !found {
			return name, err
		}
	}
	return "", nil
}

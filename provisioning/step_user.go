package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

const toolTimeout = 60 * time.Second

// CreateUser makes the account. One that exists is kept as it is, only
// groups are added. A ledger remembers the accounts that are ours, so that
// a home which a power cut left half made can be told from somebody's own.
type CreateUser struct {
	Name, Home, HomeDir, Shell string
	Groups                     []string
	Primary                    string // existing group to use
	NoOwnGroup                 bool   // take the distribution's default group
	Tool                       string // useradd, adduser (busybox), or none
	Ledger                     string
	VMID                       string
	Restorecon                 string
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
	cut := have && ours.Making == s.Name // the one before us came to no end
	if cut {
		if have, err = s.whole(ctx, m, acct); err != nil {
			return bad(err)
		}
	}
	if !have {
		ours.Users = append(slices.DeleteFunc(ours.Users, func(n string) bool { return n == s.Name }), s.Name)
		ours.VMID, ours.Making = s.VMID, s.Name
		if err := writeLedger(m.Root, s.Ledger, ours); err != nil {
			return bad(err)
		}
		if err := s.create(ctx, m, acct.UID); err != nil {
			return bad(err)
		}
		if acct, have, err = m.Root.Account(s.Name); err != nil {
			return bad(err)
		}
	}
	if !have {
		// useradd says "exists" but the file does not: LDAP, userdb. The
		// account is somebody else's to keep; its home is not ours to make.
		return s.groups(ctx, m, bad)
	}
	if slices.Contains(ours.Users, s.Name) {
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
	m.restorecon(ctx, s.Restorecon, "-R", acct.Home)
	return s.groups(ctx, m, bad)
}

// create runs the tool that makes the account, with the number uid if it has
// one. Otherwise the tool chooses, unless that number was an account's of ours
// before, or something is left of one that had it.
func (s CreateUser) create(ctx context.Context, m *Machine, uid int) error {
	if uid != 0 || m.numberTaken() {
		return m.withUID(uid, func(uid int) error { return s.run(ctx, m, "-u", strconv.Itoa(uid)) })
	}
	return s.run(ctx, m)
}

func (s CreateUser) run(ctx context.Context, m *Machine, more ...string) error {
	var c host.Cmd
	switch s.Tool {
	case "useradd":
		// "*" rather than the "!" that useradd would take: sshd without PAM
		// treats "!" as a locked account and refuses keys.
		c = host.Cmd{Name: "useradd", Args: []string{"-m", "-p", "*"}}
		if s.HomeDir != "/home" {
			c.Args = append(c.Args, "-d", s.Home)
		}
		if s.Shell != "" {
			c.Args = append(c.Args, "-s", s.Shell)
		}
		if s.Primary != "" {
			c.Args = append(c.Args, "-g", s.Primary)
		} else if s.NoOwnGroup {
			c.Args = append(c.Args, "-N")
		}
	case "adduser":
		c = host.Cmd{Name: "adduser", Args: []string{"-D", "-h", s.Home}}
		if s.Shell != "" {
			c.Args = append(c.Args, "-s", s.Shell)
		}
		if s.Primary != "" {
			c.Args = append(c.Args, "-G", s.Primary)
		} else if s.NoOwnGroup {
			c.Args = append(c.Args, "-G", "users")
		}
	default:
		return errors.New("neither useradd nor busybox adduser is installed")
	}
	c.Args = append(c.Args, more...)
	c.Timeout = toolTimeout
	if err := m.Root.MkdirAll(s.HomeDir, 0o755); err != nil {
		return err
	}
	with := func(first ...string) error {
		d := c
		d.Args = append(append(slices.Clone(first), c.Args...), s.Name)
		_, err := m.Run.Run(ctx, d)
		return err
	}
	err := with()
	if ex, ok := errors.AsType[*host.ExitError](err); ok && s.Tool == "useradd" {
		switch ex.Code {
		case 9: // exists, see Apply
			return nil
		case 3: // "invalid user name": stricter than we are about capitals and dots
			err = with("--badname")
		}
	}
	return err
}

// whole says that an account has everything that the tool writes for one. If
// the power went in the middle of it, some of the files have it and some
// don't; what is there is removed then, and the home kept, so that the tool
// can do it again.
func (s CreateUser) whole(ctx context.Context, m *Machine, acct host.Account) (bool, error) {
	// Without the power cut, only we may have ended, and the tool goes on.
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

// missing names a file in which an account should have a line and has none.
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
	if defs := r.LoginDefs(); s.Tool == "useradd" {
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

func (s CreateUser) groups(ctx context.Context, m *Machine, bad func(error) error) error {
	if len(s.Groups) == 0 {
		return nil
	}
	have, err := m.Root.Groups()
	if err != nil {
		return bad(err)
	}
	for _, g := range s.Groups {
		i := slices.IndexFunc(have, func(h host.Group) bool { return h.Name == g })
		if i < 0 || slices.Contains(have[i].Members, s.Name) && inGshadow(m.Root, g, s.Name) {
			continue
		}
		c := host.Cmd{Name: "usermod", Args: []string{"-aG", g, s.Name}, Timeout: toolTimeout}
		if s.Tool == "adduser" {
			c = host.Cmd{Name: "adduser", Args: []string{s.Name, g}, Timeout: toolTimeout}
		}
		if _, err := m.Run.Run(ctx, c); err != nil {
			return bad(fmt.Errorf("add to group %s: %w", g, err))
		}
	}
	return nil
}

// inGshadow says that /etc/gshadow has the member too, which usermod writes
// after /etc/group, or has nothing to say of the group.
func inGshadow(r host.Root, group, member string) bool {
	b, err := r.ReadFile("/etc/gshadow")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Split(strings.TrimSpace(line), ":"); f[0] == group && len(f) > 3 {
			return slices.Contains(strings.Split(f[3], ","), member)
		}
	}
	return true
}

// mendHome completes a home that was interrupted half way: useradd makes the
// directory, hands it over and copies the skeleton, in this order, long
// after the account exists. cut says that it certainly was interrupted.
func mendHome(r host.Root, a host.Account, homes string, cut bool) error {
	if a.Home == "" || a.Home == "/" || !strings.HasPrefix(a.Home, homes+"/") {
		return nil
	}
	d, err := r.OpenDir(a.Home, func(name string) (host.Make, bool) {
		if path.Base(name) == path.Base(a.Home) {
			return host.Make{Perm: 0o700, UID: 0, GID: 0}, true
		}
		return host.Make{Perm: 0o755}, true
	})
	if err != nil {
		return fmt.Errorf("open home: %w", err)
	}
	defer func() { _ = d.Close() }()
	uid, _, _, err := d.Owner()
	if err != nil {
		return err
	}
	if uid == a.UID && !cut {
		return nil // the hand-over is the last thing useradd does but the copy
	}
	if uid != 0 && uid != a.UID {
		return fmt.Errorf("home %s belongs to uid %d", a.Home, uid)
	}
	if err := copySkeleton(r, d, a); err != nil || uid == a.UID {
		return err
	}
	return d.SetOwner(a.UID, a.GID, homeMode(r))
}

// homeMode is the mode that the machine's own tools give a home.
func homeMode(r host.Root) fs.FileMode {
	defs := r.LoginDefs()
	if m, err := strconv.ParseUint(defs["HOME_MODE"], 8, 32); err == nil && m&0o700 == 0o700 && m <= 0o777 {
		return fs.FileMode(m)
	}
	if m, err := strconv.ParseUint(defs["UMASK"], 8, 32); err == nil && m&0o700 == 0 && m <= 0o777 {
		return 0o777 &^ fs.FileMode(m)
	}
	return 0o755
}

// copySkeleton copies the files of /etc/skel that are missing. Directories
// in it are rare and left to the user's own programs.
func copySkeleton(r host.Root, d *host.Dir, a host.Account) error {
	entries, err := r.ReadDir("/etc/skel")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read /etc/skel: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil || info.Size() > 1<<20 {
			continue
		}
		if st, err := d.Stat(e.Name()); err == nil && int(st.Uid) == a.UID && st.Mode&unix.S_IFMT == unix.S_IFREG {
			continue
		}
		b, err := r.ReadFile(filepath.Join("/etc/skel", e.Name()))
		if err != nil {
			return fmt.Errorf("copy /etc/skel: %w", err)
		}
		if err := d.WriteFile(e.Name(), b, info.Mode().Perm(), a.UID, a.GID); err != nil {
			return fmt.Errorf("copy /etc/skel: %w", err)
		}
	}
	return nil
}

// ledger is the accounts this agent made, for repair and for generalize.
type ledger struct {
	VMID  string   `json:"vmId"`
	Users []string `json:"users"`
	// Making is the account that a tool was called to make, until it is made.
	Making string `json:"making,omitempty"`
}

func readLedger(r host.Root, name string) (ledger, error) {
	var l ledger
	b, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read %s: %w", name, err)
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return ledger{}, nil //nolint:nilerr // half a file of a power cut: as good as none
	}
	return l, nil
}

func writeLedger(r host.Root, name string, l ledger) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := r.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	return r.WriteFile(name, append(b, '\n'), 0o600)
}

// OwnUsers lists the accounts that provisioning made on this machine.
func (m *Machine) OwnUsers() []string {
	l, err := readLedger(m.Root, path.Join(m.Options.Dir(), "users.json"))
	if err != nil {
		return nil
	}
	return l.Users
}

func dirOf(name string) string { return path.Dir(name) }

// restorecon gives files the SELinux labels of the policy. It is best
// effort: a policy that does not know the tool is not our failure.
func (m *Machine) restorecon(ctx context.Context, tool string, args ...string) {
	if tool == "" {
		return
	}
	if _, err := m.Run.Run(ctx, host.Cmd{Name: tool, Args: append([]string{"-F"}, args...), Timeout: toolTimeout}); err != nil {
		m.Log.Debug().Err(err).Strs("files", args).Msg("could not set SELinux labels")
	}
}

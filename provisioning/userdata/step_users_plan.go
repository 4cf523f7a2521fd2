package userdata

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// userSteps returns the steps of groups, users and ssh_authorized_keys.
func userSteps(c Config, f Facts, o Options) []provisioning.Step {
	busybox := f.Useradd == "" && f.Adduser != ""
	var steps []provisioning.Step
	p := userPlan{f: f, o: o, busybox: busybox}
	for _, g := range c.Groups {
		steps = append(steps, MakeGroup{Name: g.Name, Members: g.Members, Busybox: busybox})
		p.made = append(p.made, g.Name)
	}
	keys := c.Keys
	for _, u := range c.Users {
		if u.Default {
			u.Name = o.User
		}
		order := u.Default || u.Name == o.User && u.Name != ""
		if order {
			keys = slices.Concat(u.Keys, keys)
			u.Keys = nil
		}
		steps = append(steps, p.user(u, order)...)
		p.made = append(p.made, u.Groups...)
		p.made = append(p.made, u.PrimaryGroup)
	}
	if len(keys) > 0 {
		steps = append(steps, p.keys(o.User, keys))
	}
	return steps
}

// userPlan plans users, one after the other.
type userPlan struct {
	f       Facts
	o       Options
	busybox bool
	made    []string // groups that earlier steps make
}

// user returns the steps of one entry of users. order means that it is the
// account of the provisioning order.
func (p *userPlan) user(u User, order bool) []provisioning.Step {
	var steps []provisioning.Step
	if order {
		if s, ok := p.change(u); ok {
			steps = append(steps, s)
		}
	} else {
		steps = append(steps, p.add(u))
	}
	// The platform has given the order's account its password, or none: it is
	// not locked by a default.
	lock := !order
	if u.LockPassword != nil {
		lock = *u.LockPassword
	}
	pw := SetPassword{User: u.Name, Plain: u.PlainPasswd, Hashed: u.HashedPasswd, New: u.Passwd, Lock: lock, Ledger: p.ledger()}
	if pw.Lock || !pw.Plain.Empty() || !pw.Hashed.Empty() || !pw.New.Empty() && !order {
		steps = append(steps, pw)
	}
	if len(u.Sudo) > 0 {
		steps = append(steps, AddSudo{User: u.Name, Rules: u.Sudo})
	}
	if len(u.Keys) > 0 {
		steps = append(steps, p.keys(u.Name, u.Keys))
	}
	return steps
}

// ledger is where the accounts are listed that AddUser makes. It is not that of
// provisioning, whose accounts deprovisioning removes.
func (p *userPlan) ledger() string { return path.Join(p.o.Provisioning.Dir(), "data/users.json") }

func (p *userPlan) add(u User) AddUser {
	homes := p.o.Provisioning.HomeDir
	if homes == "/home" && p.f.Useradd != "" && p.f.HomeBase != "" {
		homes = p.f.HomeBase
	}
	home := path.Join(homes, u.Name)
	if u.HomeDir != "" {
		home, homes = u.HomeDir, path.Dir(u.HomeDir)
	}
	a := provisioning.CreateUser{
		Name: u.Name, Home: home, HomeDir: homes, Shell: u.Shell, Primary: u.PrimaryGroup,
		Ledger: p.ledger(), Restorecon: p.f.Restorecon,
		NoHome: u.NoCreateHome || u.System, AsGiven: true,
	}
	if u.UID != nil {
		a.UID = *u.UID
	}
	if a.Primary == "" {
		a.Primary, a.NoOwnGroup = p.ownGroup(u.Name)
	}
	if u.NoUserGroup && u.PrimaryGroup == "" {
		a.Primary, a.NoOwnGroup = "", true
	}
	s := AddUser{Groups: u.Groups, NoNewGroups: u.NoNewGroups, Busybox: p.busybox, Kept: kept(u)}
	switch {
	case p.f.Useradd != "":
		a.Tool = "useradd"
		a.About = slices.Concat(settings(u), option(u.System, "-r"), option(u.NoLogInit, "-l"), option(len(u.Groups) > 0, "-G", strings.Join(u.Groups, ",")))
	case p.busybox:
		a.Tool = "adduser"
		a.About = slices.Concat(option(u.Gecos != "", "-g", u.Gecos), option(u.System, "-S"))
		if u.ExpireDate != "" {
			s.Without = append(s.Without, "expiredate")
		}
		if u.Inactive != nil {
			s.Without = append(s.Without, "inactive")
		}
	}
	s.Account = a
	return s
}

// ownGroup returns what a tool is told if a group of the user's name is there
// already, which is an error for useradd: it becomes the user's, unless it is
// one of the system.
func (p *userPlan) ownGroup(name string) (primary string, none bool) {
	if slices.Contains(p.made, name) {
		return name, false
	}
	i := slices.IndexFunc(p.f.Groups, func(g host.Group) bool { return g.Name == name })
	switch {
	case i < 0:
		return "", false
	case p.f.Groups[i].GID >= p.f.UIDMin:
		return name, false
	}
	return "", true
}

// change returns the step for the account of the order, if there is anything to
// change.
func (p *userPlan) change(u User) (ChangeUser, bool) {
	s := ChangeUser{Name: u.Name, Groups: u.Groups, Primary: u.PrimaryGroup, Busybox: p.busybox}
	for key, given := range map[string]bool{
		"homedir": u.HomeDir != "", "no_create_home": u.NoCreateHome, "system": u.System, "uid": u.UID != nil, "passwd": !u.Passwd.Empty(),
	} {
		if given {
			s.Kept = append(s.Kept, key)
		}
	}
	s.Args = slices.Concat(settings(u), option(u.Shell != "", "-s", u.Shell), option(u.PrimaryGroup != "", "-g", u.PrimaryGroup))
	if p.busybox && len(s.Args) > 0 { // without usermod
		s.Args, s.Primary, s.Kept = nil, "", append(s.Kept, "gecos", "shell", "primary_group", "expiredate", "inactive")
	}
	slices.Sort(s.Kept)
	return s, len(s.Args)+len(s.Groups)+len(s.Kept) > 0 || u.Name == ""
}

// settings returns the options that useradd and usermod have in common.
func settings(u User) []string {
	args := slices.Concat(option(u.Gecos != "", "-c", u.Gecos), option(u.ExpireDate != "", "-e", u.ExpireDate))
	if u.Inactive != nil {
		args = append(args, "-f", strconv.Itoa(*u.Inactive))
	}
	return args
}

// kept lists the keys of an entry that are for new accounts only.
func kept(u User) []string {
	var out []string
	add := func(given bool, key string) {
		if given {
			out = append(out, key)
		}
	}
	add(u.ExpireDate != "", "expiredate")
	add(u.Gecos != "", "gecos")
	add(len(u.Groups) > 0, "groups")
	add(u.HomeDir != "", "homedir")
	add(u.Inactive != nil, "inactive")
	add(!u.Passwd.Empty(), "passwd")
	add(u.PrimaryGroup != "", "primary_group")
	add(u.Shell != "", "shell")
	add(u.System, "system")
	add(u.UID != nil, "uid")
	return out
}

// option returns the arguments if they are given.
func option(given bool, args ...string) []string {
	if !given {
		return nil
	}
	return args
}

func (p *userPlan) keys(user string, keys []string) AddKeys {
	o := p.o.Provisioning
	s := provisioning.AuthorizeKeys{
		User: user, HomeDir: o.HomeDir, Lib: o.Lib, SSHDir: o.SSHDir, SSHDMain: p.f.SSHDMain, Restorecon: p.f.Restorecon,
	}
	for _, k := range keys {
		s.Keys = append(s.Keys, provisioning.Key{Value: k})
	}
	return AddKeys{Authorize: s}
}

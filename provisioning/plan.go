package provisioning

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// A Step changes one thing. It is a comparable value (go-cmp). All decisions
// were made when the plan was made; Apply only carries them out.
type Step interface {
	// ID identifies the step in the journal and in tests; it is unique in a
	// plan.
	ID() string
	// String describes the step for the log. It contains no secret.
	String() string
	// Apply applies the step. It can be repeated with the same result. A
	// *Warning does not fail the provisioning.
	Apply(ctx context.Context, m *Machine) error
}

// Identifiers of the steps, in the order in which a plan has them.
const (
	StepHostKeys   = "host-keys"
	StepHostName   = "host-name"
	StepUser       = "user"
	StepPassword   = "password"
	StepSudo       = "sudo"
	StepKeys       = "authorized-keys"
	StepKeyPairs   = "key-pairs"
	StepSSHD       = "sshd"
	StepRoot       = "root-password"
	StepCustomData = "custom-data"
	StepCopy       = "document-copy"
	StepDisable    = "disable-agent"
	StepProxy      = "proxy-agent"
	StepSSHDUp     = "sshd-up"
	StepLogin      = "login" // not of Plan, see BeforeMarker
	StepMarker     = "marker"
	// After Ready:
	StepLateKeys = "late-host-keys"
	StepRunData  = "run-custom-data"
)

// needs returns the steps without which a step is pointless or dangerous
// (provisioning/SPEC.md §7.1). The marker and the last judgement need all steps,
// written "*".
func needs(id string) []string {
	switch id {
	case StepPassword, StepSudo, StepKeys, StepKeyPairs:
		return []string{StepUser}
	case StepRunData:
		return []string{StepCustomData}
	case StepMarker, StepLogin:
		return []string{"*"}
	}
	return nil
}

// A role is what the failure of a step means (provisioning/SPEC.md §7.1).
type role int

const (
	// required steps keep their failure: what is ordered and must be there, and
	// what keeps others out.
	required role = iota
	// door steps give the person a way in. Their failures fail the machine only
	// if no door is open.
	door
	// side steps neither let the person in nor keep anybody out. Their failure
	// is a warning.
	side
)

// roleOf is the one place that decides which failures fail the machine
// (DESIGN.md, decision 104).
func roleOf(s Step) role {
	switch s.ID() {
	case StepHostName, StepSudo, StepKeyPairs, StepCustomData, StepCopy, StepSSHDUp, StepLateKeys, StepRunData:
		return side
	case StepKeys:
		return door
	case StepPassword:
		if p, ok := s.(SetPassword); ok && (p.Password.Empty() && !p.Keep || p.Spare) {
			return side // without a password, it only makes sure that the account is not locked
		}
		return door
	}
	return required
}

// Plan decides which steps are to be applied. It is pure. An error means that
// the input cannot be provisioned at all; it is an *Error with code and
// reason.
func Plan(in Input, f Facts, o Options) ([]Step, error) {
	o = o.WithDefaults()
	if f.EtcReadOnly {
		return nil, fail(CodeReadOnly, "failed to provision: /etc is read-only",
			fmt.Errorf("set Provisioning.Agent=disabled if another agent provisions this image"))
	}
	acct, err := planUser(in, f, o)
	if err != nil {
		return nil, err
	}
	var steps []Step
	add := func(s Step) { steps = append(steps, s) }

	// First, because sshd starts at the same time, and on an image without
	// keys gives up after a few attempts.
	hk, late := planHostKeys(in, f, o)
	if hk != nil {
		add(*hk)
	}
	if name := strings.TrimSpace(in.HostName); name != "" {
		add(SetHostName{Name: name, Old: f.HostName, Hosts: !f.ResolvesSelf, Record: path.Join(o.Lib, "published_hostname"), Restorecon: f.Restorecon})
	}
	add(acct)
	pw := planPassword(in, f, o)
	pw.Given = true
	add(pw)
	if s, ok := planSudo(in, f, o); ok {
		add(s)
	}
	if len(in.Keys) > 0 {
		add(AuthorizeKeys{
			User: in.UserName, HomeDir: o.HomeDir, Lib: o.Lib, SSHDir: o.SSHDir, SSHDMain: f.SSHDMain,
			Keys: in.Keys, Restorecon: f.Restorecon,
		})
	}
	if len(in.KeyPairs) > 0 {
		add(InstallKeyPairs{User: in.UserName, HomeDir: o.HomeDir, Lib: o.Lib, Pairs: in.KeyPairs, Restorecon: f.Restorecon})
	}
	if s, ok := planSSHD(in, f, o); ok {
		add(s)
	}
	if o.DeleteRootPassword && in.UserName != "root" {
		add(LockRoot{Shadow: o.Shadow})
	}
	if in.CustomData.Present {
		add(planCustomData(in, o))
	}
	if in.Copy != nil {
		add(CopyDocument{Path: path.Join(o.Lib, "ovf-env.xml"), Data: string(in.Copy)})
	}
	if in.ProvisionGuestAgent != nil && !*in.ProvisionGuestAgent {
		add(DisableAgent{Path: path.Join(o.Lib, "disable_agent")})
	}
	if in.GuestProxyAgent {
		add(ProxyAgent{})
	}
	if f.SSHD != "" {
		add(SSHDUp{Systemctl: f.Systemctl, PidFile: f.SSHDSet["pidfile"]})
	}
	add(WriteMarker{Path: path.Join(o.Lib, "provisioned"), VMID: in.VMID, Pending: path.Join(o.Dir(), pendingName)})
	if late != nil {
		add(*late)
	}
	if o.ExecuteCustomData && in.CustomData.Present && in.CustomData.Err == "" && !in.CustomData.Data.Empty() {
		add(RunCustomData{File: path.Join(o.Lib, "CustomData"), Dir: o.Dir(), VMID: in.VMID})
	}
	return steps, nil
}

// userName matches the names that useradd and busybox make, if need be with
// --badname: also capitals and dots, which portals offer, and a leading digit.
var userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}$`)

// digits matches names that every tool takes for a uid.
var digits = regexp.MustCompile(`^[0-9]+$`)

// CheckUserName returns why no account can have a name; nil if one can. Names
// that distributions give to system accounts are no reason: whether this
// machine has such an account is what counts, see isSystem.
func CheckUserName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("no user name")
	case len(name) > 32:
		return fmt.Errorf("%d characters, at most 32 are allowed", len(name))
	case !userName.MatchString(strings.TrimSuffix(name, "$")):
		return fmt.Errorf("must start with a letter, a digit or _ and consist of letters, digits and . _ -")
	case digits.MatchString(name):
		return fmt.Errorf("consists of digits only, which is a uid to all tools")
	case name == "root" || name == "nobody" || name == "ALL":
		// The first two exist without a line in /etc/passwd (nss-systemd); the
		// third is a keyword of sudoers.
		return fmt.Errorf("reserved for the system")
	}
	return nil
}

func planUser(in Input, f Facts, o Options) (CreateUser, error) {
	name := in.UserName
	bad := func(err error) (CreateUser, error) {
		return CreateUser{}, fail(CodeUserName, "failed to provision user", fmt.Errorf("user name %q: %w", printable(name), err), Pair{"user", printable(name)})
	}
	have, exists := find(f.Accounts, name)
	if exists && isSystem(have, f, o) && !o.AllowResetSysUser {
		return bad(fmt.Errorf("system account (uid %d)", have.UID))
	}
	if !exists || !o.AllowResetSysUser {
		if err := CheckUserName(name); err != nil {
			return bad(err)
		}
	}
	homes := o.HomeDir
	if homes == "/home" && f.Useradd != "" && f.HomeBase != "" {
		homes = f.HomeBase // where useradd of this machine makes homes; their parent may be missing
	}
	s := CreateUser{
		Name: name, Home: path.Join(homes, name), HomeDir: homes, Shell: o.Shell,
		Ledger: path.Join(o.Dir(), "users.json"), VMID: in.VMID, Restorecon: f.Restorecon,
	}
	if s.Shell == "" {
		// useradd's own default is often plain sh.
		for _, sh := range []string{"/bin/bash", "/usr/bin/bash"} {
			if slices.Contains(f.Shells, sh) {
				s.Shell = sh
				break
			}
		}
	}
	switch {
	case f.Useradd != "":
		s.Tool = "useradd"
	case f.Adduser != "":
		s.Tool = "adduser"
	}
	if !exists {
		if i := slices.IndexFunc(f.Groups, func(g host.Group) bool { return g.Name == name }); i >= 0 {
			// useradd fails if a group with the user's name exists. A group of
			// the system must not become the user's group by accident.
			if f.Groups[i].GID >= f.UIDMin {
				s.Primary = name
			} else {
				s.NoOwnGroup = true
			}
		}
	}
	return s, nil
}

func find(all []host.Account, name string) (host.Account, bool) {
	i := slices.IndexFunc(all, func(a host.Account) bool { return a.Name == name })
	if i < 0 {
		return host.Account{}, false
	}
	return all[i], true
}

// isSystem reports whether an account belongs to the system: its number is
// below UID_MIN, unless it is evidently meant for people (Flatcar's core has
// 500, a home among homes and a shell).
func isSystem(a host.Account, f Facts, o Options) bool {
	if a.UID == 0 {
		return true
	}
	if a.UID >= f.UIDMin {
		return false
	}
	forPeople := strings.HasPrefix(a.Home, o.HomeDir+"/") && (slices.Contains(f.Shells, a.Shell) || strings.HasSuffix(a.Shell, "sh"))
	return !forPeople
}

func planPassword(in Input, f Facts, o Options) SetPassword {
	s := SetPassword{
		User: in.UserName, Shadow: o.Shadow, Chpasswd: f.Chpasswd != "",
		Spare: in.DisablePasswordAuth != nil && *in.DisablePasswordAuth && len(in.Keys) > 0,
	}
	switch {
	case !in.Password.Empty():
		s.Password = in.Password
		s.Crypt, s.Salt = "6", 16
		if o.PasswordCryptID == "5" {
			s.Crypt = "5"
		}
		if n := o.PasswordSaltLength; n >= 8 && n < 16 {
			s.Salt = n
		}
	case in.PasswordRedacted:
		s.Keep = true
	}
	return s
}

func planSudo(in Input, f Facts, o Options) (Step, bool) {
	s := Sudo{
		User: in.UserName, NoPassword: in.Password.Empty() && !in.PasswordRedacted,
		Dir: o.SudoersDir, Check: f.Visudo, Lib: o.Dir(), Restorecon: f.Restorecon,
	}
	switch {
	case f.Sudo != "" || f.SudoersDir && f.Doas == "":
		s.Include = !f.SudoersIncluded && f.Sudo != ""
		return s, true
	case f.Doas != "":
		s.Dir, s.Doas, s.Check = doasDir, true, ""
		return s, true
	}
	return nil, false
}

func planHostKeys(in Input, f Facts, o Options) (now, late *HostKeys) {
	if f.SSHD == "" && f.SSHDMain == "" {
		return nil, nil
	}
	var types []string
	want := func(t string) {
		if slices.Contains(HostKeyTypes(f.FIPS), t) && !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	// The types of the image, and the type that the administrator names. "rsa"
	// stands in every shipped file and is not taken as a choice.
	for _, t := range f.HostKeyTypes {
		want(t)
	}
	if len(f.SSHDHostKeyFiles) > 0 {
		for _, t := range f.SSHDHostKeyTypes {
			want(t)
		}
	}
	if t := strings.ToLower(o.HostKeyType); t == "ecdsa" || t == "ed25519" {
		want(t)
	} else if len(types) == 0 || t == "auto" || t == "rsa" {
		for _, t := range HostKeyTypes(f.FIPS) {
			want(t)
		}
	}
	types = slices.DeleteFunc(types, func(t string) bool { return slices.Contains(f.SSHDAgentKeys, hostKeyFile(o.SSHDir, t)+".pub") })
	slices.Sort(types)
	hk := HostKeys{
		Dir: o.SSHDir, Types: types, Regenerate: o.RegenerateHostKeys, VMID: in.VMID, Ledger: path.Join(o.Dir(), "hostkeys.json"),
		Elsewhere: f.SSHDHostKeyFiles, Agents: f.SSHDAgentKeys, Certificates: f.SSHDHostCerts, Restorecon: f.Restorecon,
	}
	// RSA takes longer than all other keys. sshd starts with one key, so RSA
	// may be made after Ready, unless sshd is configured to use nothing else.
	fast := slices.ContainsFunc(types, func(t string) bool {
		return t != "rsa" && (len(f.SSHDHostKeyTypes) == 0 || slices.Contains(f.SSHDHostKeyTypes, t)) && hostKeyAllowed(f.SSHDSet["hostkeyalgorithms"], t)
	})
	if !fast || !slices.Contains(types, "rsa") {
		return &hk, nil
	}
	l := hk
	l.Late = true
	hk.MayWait = []string{"rsa"}
	return &hk, &l
}

// hostKeyAllowed reports whether sshd offers keys of a type, by its
// HostKeyAlgorithms (sshd_config(5)): a list of patterns, or one that is added
// to (+, ^) or taken from (-) the defaults, which have every type.
func hostKeyAllowed(list, t string) bool {
	names := map[string][]string{
		"ed25519": {"ssh-ed25519"}, "ecdsa": {"ecdsa-sha2-nistp256"}, "rsa": {"rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"},
	}[t]
	if list == "" || list[0] == '+' || list[0] == '^' {
		return true
	}
	patterns, taken := strings.CutPrefix(list, "-")
	matches := func(name string) bool {
		return slices.ContainsFunc(strings.Split(patterns, ","), func(p string) bool {
			ok, err := path.Match(strings.TrimSpace(p), name)
			return ok && err == nil
		})
	}
	return slices.ContainsFunc(names, func(n string) bool { return matches(n) != taken })
}

func planSSHD(in Input, f Facts, o Options) (Step, bool) {
	if f.SSHD == "" || f.SSHDMain == "" {
		return nil, false
	}
	s := ConfigureSSHD{
		Main: f.SSHDMain, Dir: o.SSHDir, DropIn: f.SSHDDropInWorks, User: in.UserName, Restorecon: f.Restorecon,
		Note: path.Join(o.Dir(), "sshd.json"),
	}
	var pw string
	switch {
	case in.DisablePasswordAuth != nil && *in.DisablePasswordAuth:
		pw = "no"
	case in.DisablePasswordAuth != nil, !in.Password.Empty():
		pw = "yes"
	case !in.PasswordRedacted:
		pw = "no" // no password was given, so none needs to be accepted
	}
	if pw != "" {
		// The third keyword is the old name of the second. Every OpenSSH knows
		// one of them; current versions know both.
		s.Settings = append(s.Settings, Setting{"PasswordAuthentication", pw},
			Setting{"KbdInteractiveAuthentication", pw}, Setting{"ChallengeResponseAuthentication", pw})
	}
	if v := o.ClientAliveInterval; v != "" && f.SSHDSet["clientaliveinterval"] == "" {
		if _, err := strconv.ParseUint(v, 10, 31); err == nil {
			s.Settings = append(s.Settings, Setting{"ClientAliveInterval", v})
		}
	}
	return s, len(s.Settings) > 0
}

func planCustomData(in Input, o Options) Step {
	s := SaveCustomData{Path: path.Join(o.Lib, "CustomData"), Problem: in.CustomData.Err, Data: in.CustomData.Text}
	switch {
	case in.CustomData.Err != "":
	case o.DecodeCustomData || o.ExecuteCustomData:
		s.Data = in.CustomData.Data
	case s.Data.Empty():
		s.Data, s.Encode = in.CustomData.Data, true
	}
	// If it is to be run, the later step says so.
	begin := in.CustomData.Data.Reveal()
	s.Unread = !o.ExecuteCustomData && !o.AppliesUserData && in.CustomData.Err == "" && forCloudInit([]byte(begin[:min(len(begin), 64)]))
	return s
}

// printable makes untrusted text safe for a log line.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return '?'
		}
		return r
	}, s)
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return s
}

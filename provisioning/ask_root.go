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

// askTimeout bounds one question to a program of the machine about a person.
const askTimeout = 10 * time.Second

// Person asks the C library who a name is, as every program of the machine
// does: the account may come from another source than /etc/passwd. A name
// that nobody has is an error.
func (m *Machine) Person(ctx context.Context, name string) (host.Person, host.Account, error) {
	var a host.Account
	res, err := m.Run.Run(ctx, host.Cmd{Name: "getent", Args: []string{"passwd", name}, Timeout: askTimeout})
	switch {
	case host.NotFound(err):
		local, ok, rerr := m.Root.Account(name)
		if rerr != nil || !ok {
			return host.Person{}, a, errors.Join(rerr, fmt.Errorf("no account %s", name))
		}
		a = local
	case err != nil:
		if ex, ok := errors.AsType[*host.ExitError](err); ok && ex.Code == 2 { // getent(1): no such key
			err = fmt.Errorf("no account %s: %w", name, err)
		}
		return host.Person{}, a, err
	default:
		line, _, _ := strings.Cut(string(res.Stdout), "\n")
		f := strings.Split(line, ":")
		if len(f) < 7 {
			return host.Person{}, a, fmt.Errorf("getent passwd %s: %d fields", name, len(f))
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err := errors.Join(err1, err2); err != nil {
			return host.Person{}, a, fmt.Errorf("getent passwd %s: %w", name, err)
		}
		a = host.Account{Name: f[0], UID: uid, GID: gid, Gecos: f[4], Home: f[5], Shell: f[6]}
	}
	p := host.Person{Name: a.Name, UID: a.UID, GID: a.GID, Home: a.Home}
	p.Groups = m.groupsOf(ctx, a)
	return p, a, nil
}

// accountOf returns the account of a name: that of /etc/passwd, else the one
// that the C library knows from another source (LDAP, userdb, altfiles). Nothing
// is made for the latter, so it is an error if its home is not there yet.
func (m *Machine) accountOf(ctx context.Context, local []host.Account, name string) (host.Account, error) {
	if a, ok := find(local, name); ok {
		return a, nil
	}
	_, a, err := m.Person(ctx, name)
	if err != nil {
		return a, fmt.Errorf("no account %s: %w", name, err)
	}
	if a.Home == "" || !m.Root.Exists(a.Home) {
		return a, fmt.Errorf("%s is an account of another source than /etc/passwd, and its home %q does not exist yet", name, a.Home)
	}
	return a, nil
}

// groupsOf returns the numbers of all groups of an account.
func (m *Machine) groupsOf(ctx context.Context, a host.Account) []int {
	out := []int{a.GID}
	if res, err := m.Run.Run(ctx, host.Cmd{Name: "id", Args: []string{"-G", a.Name}, Timeout: askTimeout}); err == nil {
		for f := range strings.FieldsSeq(string(res.Stdout)) {
			if g, err := strconv.Atoi(f); err == nil && !slices.Contains(out, g) {
				out = append(out, g)
			}
		}
		return out
	}
	groups, err := m.Root.Groups()
	if err != nil {
		return out
	}
	for _, g := range groups {
		if slices.Contains(g.Members, a.Name) && !slices.Contains(out, g.GID) {
			out = append(out, g.GID)
		}
	}
	return out
}

// A RootAnswer says whether a person can become root.
type RootAnswer struct {
	By  string // sudo or doas; empty: neither is installed
	OK  bool
	Why string // what was asked and what the answer was, if not OK
	// Silent means that there was no answer in time, as from a sudo that
	// waits for a name server.
	Silent bool
	// Service is the one of PAM with which sudo asks for the person's password;
	// empty if it wants none.
	Service string
}

// AskRoot asks sudo, or doas, whether a person can become root: as that
// person, because the rule is only a part of it (the program's setuid bit, its
// mount, PAM). A person with a password cannot be asked in this way; then the
// rule is asked for, and whose password is wanted.
func (m *Machine) AskRoot(ctx context.Context, p host.Person, password bool) RootAnswer {
	switch {
	case Which(m.Root, "sudo") != "":
		return m.askSudo(ctx, p, password)
	case Which(m.Root, "doas") != "":
		return m.askDoas(ctx, p, password)
	}
	return RootAnswer{Why: "neither sudo nor doas is installed"}
}

// noAnswer reports whether a program said nothing: it hangs, or is not there.
func noAnswer(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || host.NotFound(err)
}

// inC makes programs answer in the language of their source.
var inC = []string{"LC_ALL=C", "LANGUAGE=C"}

func (m *Machine) askSudo(ctx context.Context, p host.Person, password bool) RootAnswer {
	ask := func(args ...string) error {
		_, err := m.Run.Run(ctx, host.Cmd{Name: "sudo", Args: args, Env: inC, As: &p, Timeout: askTimeout})
		return err
	}
	no := func(question string, err error) RootAnswer {
		return RootAnswer{By: "sudo", Why: question + ": " + err.Error(), Silent: noAnswer(err)}
	}
	err := ask("-n", "true")
	if err == nil {
		return RootAnswer{By: "sudo", OK: true}
	}
	if !password || noAnswer(err) {
		return no("sudo -n true as "+p.Name, err)
	}
	if err := ask("-V"); err != nil {
		return no("sudo -V as "+p.Name, err)
	}
	if _, err := m.sudoList(ctx, p.Name, "true"); err != nil {
		return no("sudo -l -U "+p.Name+" true", err)
	}
	out, err := m.sudoList(ctx, p.Name)
	if err != nil {
		return no("sudo -l -U "+p.Name, err)
	}
	if option := obstacle(out); option != "" {
		return no("sudo -l -U "+p.Name, fmt.Errorf("the default %s applies", option))
	}
	return RootAnswer{By: "sudo", OK: true, Service: pamService(out)}
}

// pamService returns the service of PAM that the output of sudo -l names.
func pamService(list string) string {
	service := "sudo"
	for w := range strings.FieldsFuncSeq(list, func(r rune) bool { return strings.ContainsRune(" ,\n\t\r", r) }) {
		if s, ok := strings.CutPrefix(w, "pam_service="); ok {
			service = s
		}
	}
	return service
}

// sudoList asks sudo, as root, what a user may do. Where sudo wants a terminal
// even of root (requiretty), script(1) gives it one.
func (m *Machine) sudoList(ctx context.Context, user string, command ...string) (string, error) {
	args := append([]string{"-n", "-l", "-U", user}, command...)
	res, err := m.Run.Run(ctx, host.Cmd{Name: "sudo", Args: args, Env: inC, Timeout: askTimeout})
	if _, refused := errors.AsType[*host.ExitError](err); refused && !strings.Contains(user, "'") {
		line := "sudo -n -l -U '" + user + "' " + strings.Join(command, " ")
		if again, aerr := m.Run.Run(ctx, host.Cmd{Name: "script", Args: []string{"-q", "-e", "-c", line, "/dev/null"}, Env: inC, Timeout: askTimeout}); aerr == nil {
			return string(again.Stdout), nil
		}
	}
	return string(res.Stdout), err
}

// obstacle returns the option in the output of sudo -l with which sudo asks for
// another user's password, or refuses a person without a terminal; empty if
// none is on. The last one of an option decides.
func obstacle(list string) string {
	on := ""
	for w := range strings.FieldsFuncSeq(list, func(r rune) bool { return strings.ContainsRune(" ,\n\t\r", r) }) {
		switch name := strings.TrimPrefix(w, "!"); name {
		case "targetpw", "rootpw", "runaspw", "requiretty":
			switch {
			case name == w:
				on = name
			case on == name:
				on = ""
			}
		}
	}
	return on
}

// askDoas asks doas as the person. It looks for a rule before it wants a
// password, so that it wants one is a yes. To test a rule (-C), doas would need
// the file to be readable for the person, and would not look at its owner.
func (m *Machine) askDoas(ctx context.Context, p host.Person, password bool) RootAnswer {
	_, err := m.Run.Run(ctx, host.Cmd{Name: "doas", Args: []string{"-n", "true"}, Env: inC, As: &p, Timeout: askTimeout})
	if err == nil {
		return RootAnswer{By: "doas", OK: true}
	}
	// The words of OpenDoas and OpenBSD, and of the port for other systems.
	ex, refused := errors.AsType[*host.ExitError](err)
	if password && refused && (strings.Contains(ex.Stderr, "Authentication required") || strings.Contains(ex.Stderr, "Authorization required")) {
		return RootAnswer{By: "doas", OK: true}
	}
	return RootAnswer{By: "doas", Why: "doas -n true as " + p.Name + ": " + err.Error(), Silent: noAnswer(err)}
}

package provisioning

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// Sudo lets the user become root: with the password if there is one, else
// without. The file is <SudoersDir>/waagent, as with the classic agent,
// because VMAccess adds and removes users there; other lines in it are kept.
type Sudo struct {
	User       string
	NoPassword bool
	Dir        string
	Include    bool   // no sudoers file reads Dir yet
	Doas       bool   // the machine has doas instead of sudo
	Check      string // visudo
	Lib        string
	Restorecon string
}

// ID implements Step.
func (Sudo) ID() string { return StepSudo }

func (s Sudo) String() string {
	if s.NoPassword {
		return "allow " + s.User + " to use sudo without a password"
	}
	return "allow " + s.User + " to use sudo"
}

// Apply implements Step.
func (s Sudo) Apply(ctx context.Context, m *Machine) error {
	bad := func(err error) error {
		return fail(CodeSudo, "failed to provision sudoers", err, Pair{"user", s.User})
	}
	if s.Doas {
		return s.doas(m, bad)
	}
	if err := m.Root.MkdirAll(s.Dir, 0o750); err != nil {
		return bad(err)
	}
	name := path.Join(s.Dir, "waagent")
	old, err := m.Root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bad(err)
	}
	next := sudoersWith(string(old), s.User, s.NoPassword)
	if err := s.replace(ctx, m, name, string(old), next); err != nil {
		return bad(err)
	}
	if s.Include {
		if err := s.include(ctx, m); err != nil {
			return bad(err)
		}
	}
	m.Restorecon(ctx, s.Restorecon, s.Dir+"/waagent")
	if err := s.last(ctx, m); err != nil {
		return bad(err)
	}
	return nil
}

// lastFile is read after every other file of sudoers.d, and the last rule that
// matches decides.
const lastFile = "zzzz-azguest"

// last asks sudo whether the rule has its effect. If not, because the image
// asks for root's password (Defaults targetpw) or a later file for the
// person's, the rule is repeated in a file that is read last. Where that does
// not help either, it is removed again, and the check after provisioning says
// why (package access).
func (s Sudo) last(ctx context.Context, m *Machine) error {
	p, _, err := m.Person(ctx, s.User)
	if err != nil || Which(m.Root, "sudo") == "" {
		return nil //nolint:nilerr // there is nobody to ask as; the check says so
	}
	if a := m.askSudo(ctx, p, !s.NoPassword); a.OK || a.Silent {
		return nil
	}
	name := path.Join(s.Dir, lastFile)
	old, err := m.Root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rest := linesWithout(string(old), func(f []string) bool { return sudoLine(f, s.User) })
	next := sudoersWith(rest+"Defaults:"+SudoersName(s.User)+" !targetpw, !rootpw, !runaspw, !requiretty\n", s.User, s.NoPassword)
	if err := s.replace(ctx, m, name, string(old), next); err != nil {
		return err
	}
	m.Restorecon(ctx, s.Restorecon, name)
	if a := m.askSudo(ctx, p, !s.NoPassword); !a.OK && !a.Silent {
		m.Log.Debug().Str("user", s.User).Str("answer", a.Why).Msg("sudo does not follow a rule in the last file either")
		return forgetLines(m.Root, name, 0o440, func(f []string) bool { return sudoLine(f, s.User) })
	}
	return nil
}

// sudoLine reports whether a line of sudoers is the user's, as Sudo writes it.
func sudoLine(f []string, user string) bool {
	return len(f) > 1 && ((f[0] == user || f[0] == SudoersName(user)) && strings.HasPrefix(f[1], "ALL") || f[0] == "Defaults:"+SudoersName(user))
}

// sudoersMode is the mode of all files of sudoers.
const sudoersMode = 0o440

// replace checks the text with visudo before it becomes the file: sudo
// refuses to work at all with a file it cannot parse.
func (s Sudo) replace(ctx context.Context, m *Machine, name, old, next string) error {
	if old == next {
		return nil
	}
	if s.Check != "" {
		if err := m.Root.MkdirAll(s.Lib, 0o700); err != nil {
			return err
		}
		tmp := path.Join(s.Lib, "sudoers.check")
		if err := m.Root.WriteFile(tmp, []byte(next), sudoersMode); err != nil {
			return err
		}
		_, err := m.Run.Run(ctx, host.Cmd{Name: s.Check, Args: []string{"-cf", m.Root.Path(tmp)}, Timeout: toolTimeout})
		if rm := m.Root.Remove(tmp); rm != nil {
			return rm
		}
		if err != nil && !host.NotFound(err) {
			return fmt.Errorf("visudo rejected %s: %w", name, err)
		}
	}
	return m.Root.WriteFile(name, []byte(next), sudoersMode)
}

// DataSudoers is the file of sudoers.d with the rules of user data (package
// userdata): a block for each user.
const DataSudoers = "90-azguest-users"

// DataSudoersTitle is the first line of a user's block.
func DataSudoersTitle(user string) string { return "# User rules for " + user + "\n" }

// SudoersWithout returns the text of DataSudoers without the block of a user.
func SudoersWithout(text, user string) string {
	title, name := DataSudoersTitle(user), SudoersName(user)+" "
	var out strings.Builder
	in := false
	for line := range strings.Lines(text) {
		in = line == title || in && strings.HasPrefix(line, name)
		if !in {
			out.WriteString(line)
		}
	}
	return out.String()
}

// WriteSudoers replaces a file of the sudoers directory, if visudo accepts the
// text, and makes sure that an installed sudo reads the directory.
func (m *Machine) WriteSudoers(ctx context.Context, name, text string) error {
	s := Sudo{Dir: m.Options.SudoersDir, Check: Which(m.Root, "visudo"), Lib: m.Options.Dir()}
	if err := m.Root.MkdirAll(s.Dir, 0o750); err != nil {
		return err
	}
	name = path.Join(s.Dir, name)
	old, err := m.Root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.replace(ctx, m, name, string(old), text); err != nil || Which(m.Root, "sudo") == "" {
		return err
	}
	return s.include(ctx, m)
}

// include makes /etc/sudoers read the directory, if no file does.
func (s Sudo) include(ctx context.Context, m *Machine) error {
	const main = "/etc/sudoers"
	old, err := m.Root.ReadFile(main)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if sudoersIncluded(m.Root, s.Dir) {
		return nil
	}
	text := string(old)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	// Every version of sudo knows this old spelling.
	return s.replace(ctx, m, main, string(old), text+"#includedir "+s.Dir+"\n")
}

// sudoersWith returns the text with exactly one rule for the user. A line is
// the user's only if its first word is exactly that name.
func sudoersWith(text, user string, noPassword bool) string {
	spec := "ALL"
	if noPassword {
		spec = "NOPASSWD: ALL"
	}
	rule := SudoersName(user) + " ALL=(ALL) " + spec + "\n"
	var out strings.Builder
	done := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) > 1 && (f[0] == user || f[0] == SudoersName(user)) && strings.HasPrefix(f[1], "ALL") {
			if !done {
				out.WriteString(rule)
			}
			done = true
			continue
		}
		out.WriteString(line)
	}
	if !done {
		if t := out.String(); t != "" && !strings.HasSuffix(t, "\n") {
			out.WriteString("\n")
		}
		out.WriteString(rule)
	}
	return out.String()
}

// SudoersName writes a user name as sudoers(5) reads one. A name in capitals
// would be an alias, so it is quoted; the other special characters get a
// backslash.
func SudoersName(user string) string {
	if user != "" && strings.Trim(user, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" && user[0] >= 'A' && user[0] <= 'Z' {
		return `"` + user + `"`
	}
	var b strings.Builder
	for _, c := range []byte(user) {
		if strings.IndexByte(`@!=:,()\ "#%+`, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}

// sudoersIncluded reports whether a sudoers file reads the directory.
func sudoersIncluded(r host.Root, dir string) bool {
	for _, file := range []string{"/etc/sudoers", "/usr/etc/sudoers"} {
		b, err := r.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 1 && (f[0] == "#includedir" || f[0] == "@includedir") && path.Clean(strings.Trim(f[1], `"`)) == path.Clean(dir) {
				return true
			}
		}
		return false // /usr/etc is read only where /etc has none
	}
	return false
}

const (
	doasDir  = "/etc/doas.d"
	doasFile = "azguest.conf"
)

// doasReads returns the files that doas of this machine reads: one, and in
// versions with a patch of Alpine also those of a directory. Which, is compiled
// in, and doas has no way to ask for it, so it is looked for in the program.
func doasReads(r host.Root) (main, dir string) {
	main = "/etc/doas.conf"
	b, err := r.ReadFile(Which(r, "doas"))
	const other = "/usr/local/etc/doas.conf"
	switch {
	case err == nil && bytes.Contains(b, []byte(doasDir)):
		return main, doasDir
	case err == nil && bytes.Contains(b, []byte(other)):
		return other, ""
	case err == nil && bytes.Contains(b, []byte(main)):
		return main, ""
	case r.Exists(doasDir): // not known: the package that reads it, makes it
		return main, doasDir
	}
	return main, ""
}

// doasFile returns the file for the rule. In a file that others write, too, it
// comes last, and the last rule that matches decides (doas.conf(5)).
func (s Sudo) doasFile(r host.Root) string {
	main, dir := doasReads(r)
	if dir == "" {
		return main
	}
	return path.Join(dir, doasFile)
}

// doas writes the user's rule. Other rules in the file, such as that of the
// provisioned account, stay.
func (s Sudo) doas(m *Machine, bad func(error) error) error {
	name := s.doasFile(m.Root)
	if err := m.Root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return bad(err)
	}
	rule := "permit " + s.User + "\n"
	if s.NoPassword {
		rule = "permit nopass " + s.User + "\n"
	}
	perm := fs.FileMode(0o600)
	if fi, err := m.Root.Stat(name); err == nil {
		perm = fi.Mode().Perm() &^ 0o022 // doas refuses a file that others may write
	}
	old, err := m.Root.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bad(err)
	}
	next := linesWithout(string(old), func(f []string) bool { return doasRule(f, s.User) })
	if next != "" && !strings.HasSuffix(next, "\n") {
		next += "\n"
	}
	if err := m.Root.WriteFile(name, []byte(next+rule), perm); err != nil {
		return bad(err)
	}
	return nil
}

// doasRule reports whether a line is a rule of the user as Sudo.doas writes
// it.
func doasRule(f []string, user string) bool {
	return slices.Equal(f, []string{"permit", user}) || slices.Equal(f, []string{"permit", "nopass", user})
}

package provisioning

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// SSHDValue is the value of a keyword in the sshd configuration at top
// level, and whether something sets it. Includes are followed.
func (m *Machine) SSHDValue(key string) (string, bool) {
	r, o := m.Root, m.Options
	for _, main := range []string{path.Join(o.SSHDir, "sshd_config"), "/usr/etc/ssh/sshd_config"} {
		if !r.Exists(main) {
			continue
		}
		d, ok := effective(readSSHD(r, main, o.SSHDir, nil), strings.ToLower(key))
		return strings.Join(d.Args, " "), ok
	}
	return "", false
}

// SSHDTraces lists the files in which provisioning has left sshd settings.
func (m *Machine) SSHDTraces() []string {
	r, o := m.Root, m.Options
	var out []string
	if n := dropIn(o.SSHDir); r.Exists(n) {
		out = append(out, n)
	}
	if b, err := r.ReadFile(path.Join(o.SSHDir, "sshd_config")); err == nil && string(withoutBlock(b)) != string(b) {
		out = append(out, path.Join(o.SSHDir, "sshd_config"))
	}
	return out
}

// ForgetSSHD removes these settings.
func (m *Machine) ForgetSSHD() error {
	r, o := m.Root, m.Options
	name := path.Join(o.SSHDir, "sshd_config")
	b, err := r.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if next := withoutBlock(b); string(next) != string(b) {
			if err := r.WriteFile(name, next, 0o644); err != nil {
				return err
			}
		}
	}
	return r.Remove(dropIn(o.SSHDir))
}

// ForgetSudo removes the rule of a user from the sudoers file and from that of
// doas. A file that is then empty is removed. Only lines that name exactly
// this user are changed.
func (m *Machine) ForgetSudo(user string) error {
	r, o := m.Root, m.Options
	main, _ := doasReads(r)
	return errors.Join(
		forgetLines(r, main, 0o600, func(f []string) bool { return doasRule(f, user) }),
		forgetLines(r, path.Join(o.SudoersDir, "waagent"), 0o440, func(f []string) bool { return sudoLine(f, user) }),
		forgetLines(r, path.Join(o.SudoersDir, lastFile), 0o440, func(f []string) bool { return sudoLine(f, user) }),
		forgetDataRules(r, path.Join(o.SudoersDir, DataSudoers), user),
		forgetLines(r, path.Join(doasDir, doasFile), 0o600, func(f []string) bool { return doasRule(f, user) }))
}

// forgetDataRules removes a user's block from the file with the rules of user
// data, and the file if no rule is left.
func forgetDataRules(r host.Root, name, user string) error {
	b, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	out := SudoersWithout(string(b), user)
	if strings.TrimSpace(linesWithout(out, func(f []string) bool { return len(f) > 0 && f[0][0] == '#' })) == "" {
		return r.Remove(name)
	}
	if out == string(b) {
		return nil
	}
	return r.WriteFile(name, []byte(out), sudoersMode)
}

func forgetLines(r host.Root, name string, perm fs.FileMode, gone func(fields []string) bool) error {
	b, err := r.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	out := linesWithout(string(b), gone)
	switch {
	case strings.TrimSpace(out) == "":
		return r.Remove(name)
	case out == string(b):
		return nil
	}
	return r.WriteFile(name, []byte(out), perm)
}

func linesWithout(text string, gone func(fields []string) bool) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !gone(strings.Fields(line)) {
			out.WriteString(line)
		}
	}
	return out.String()
}

package provisioning

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/go-crypt/crypt/algorithm/shacrypt"

	"github.com/azguest/azguest/agent/host"
)

// SetPassword sets the user's password, byte for byte as given. Without a
// password it makes sure that the account is not locked: a password field that
// is empty or begins with "!" becomes "*", which matches no password and with
// which every sshd accepts keys.
type SetPassword struct {
	User     string
	Password host.Secret
	Keep     bool   // redacted document: another program has set the password
	Spare    bool   // sshd is to refuse passwords, and there are keys
	Crypt    string // "5" or "6", the method id of crypt(5)
	Salt     int    // characters
	Chpasswd bool
	Shadow   string
	// Given means that the document gives the account to the person: what
	// else keeps them out of it is undone, see open.
	Given bool
}

// ID implements Step.
func (SetPassword) ID() string { return StepPassword }

func (s SetPassword) String() string {
	switch {
	case s.Keep:
		return "keep the password of " + s.User
	case s.Password.Empty():
		return "leave " + s.User + " without a password"
	}
	return "set the password of " + s.User
}

// Apply implements Step.
func (s SetPassword) Apply(ctx context.Context, m *Machine) error {
	bad := func(err error) error {
		return fail(CodePassword, "failed to provision password", err, Pair{"user", s.User})
	}
	if err := s.set(ctx, m, bad); err != nil {
		return err
	}
	if s.Given {
		if err := s.open(ctx, m); err != nil {
			return warn(CodePassword, "open the account: %w", err)
		}
	}
	return nil
}

// open undoes what else closes an account that the document gives to a person:
// an expiry, a change of the password that is due, failures that the image
// brought along, and, where nobody has a password, its age.
func (s SetPassword) open(ctx context.Context, m *Machine) error {
	if _, local, err := m.Root.Account(s.User); err != nil || !local {
		return err
	}
	if err := m.Root.OpenAccount(ctx, s.Shadow, s.User, s.Password.Empty() && !s.Keep); err != nil {
		return err
	}
	for _, dir := range []string{"/run/faillock", "/var/run/faillock", "/var/lib/faillock"} {
		if m.Root.Exists(path.Join(dir, s.User)) {
			_, err := m.Run.Run(ctx, host.Cmd{Name: "faillock", Args: []string{"--dir", m.Root.Path(dir), "--user", s.User, "--reset"}, Timeout: toolTimeout})
			if err != nil {
				m.Log.Debug().Err(err).Str("user", s.User).Msg("could not reset failures to log in")
			}
		}
	}
	return nil
}

// set sets the password, or leaves the account without one.
func (s SetPassword) set(ctx context.Context, m *Machine, bad func(error) error) error {
	if s.Keep {
		return nil
	}
	have, found, err := m.Root.PasswordField(s.Shadow, s.User)
	if err != nil {
		return bad(err)
	}
	if s.Password.Empty() {
		if _, local, err := m.Root.Account(s.User); err == nil && !local && !found {
			return nil // an account of another source, which has what it has there
		}
		if found && have != "" && !strings.HasPrefix(have, "!") {
			return nil // "*", or a password set in the image
		}
		return s.put(ctx, m, "*", bad)
	}
	if strings.ContainsAny(s.Password.Reveal(), "\x00") {
		return bad(errors.New("the password contains a NUL byte"))
	}
	if found && matches(have, s.Password) {
		return nil
	}
	hash, err := s.hash()
	if err != nil {
		return bad(err)
	}
	return s.put(ctx, m, hash, bad)
}

// put passes the field to chpasswd. If there is no chpasswd, or it did not
// change the field (no PAM, a read-only helper, an incomplete account), put
// writes the field itself.
func (s SetPassword) put(ctx context.Context, m *Machine, field string, bad func(error) error) error {
	var toolErr error
	if s.Chpasswd {
		_, toolErr = m.Run.Run(ctx, host.Cmd{Name: "chpasswd", Args: []string{"-e"}, Stdin: []byte(s.User + ":" + field + "\n"), Timeout: toolTimeout})
		if now, _, err := m.Root.PasswordField(s.Shadow, s.User); err == nil && now == field {
			return nil
		}
	}
	if _, local, err := m.Root.Account(s.User); err != nil || !local {
		if s.Chpasswd && toolErr == nil && err == nil {
			return nil // chpasswd has changed an account that comes from NSS
		}
		return bad(errors.Join(toolErr, err, fmt.Errorf("%s is no account of /etc/passwd", s.User))) //nolint:err113 // a message
	}
	if err := m.Root.EditPasswordField(ctx, s.Shadow, s.User, true, func(string, bool) string { return field }); err != nil {
		return bad(errors.Join(toolErr, err))
	}
	return nil
}

// SetPasswordField sets an account's password field, as shadow(5) has it,
// without judging it.
func (m *Machine) SetPasswordField(ctx context.Context, user string, field host.Secret) error {
	s := SetPassword{User: user, Shadow: m.Options.Shadow, Chpasswd: Which(m.Root, "chpasswd") != ""}
	return s.put(ctx, m, field.Reveal(), func(err error) error { return fmt.Errorf("set the password of %s: %w", user, err) })
}

// HashPassword hashes a password as the machine's configuration says.
func (m *Machine) HashPassword(password host.Secret) (host.Secret, error) {
	s := planPassword(Input{Password: password}, Facts{}, m.Options)
	hash, err := s.hash()
	return host.NewSecret(hash), err
}

// PasswordMatches reports whether a password field is a hash of this password,
// of a kind that HashPassword makes.
func PasswordMatches(field string, password host.Secret) bool { return matches(field, password) }

// saltAlphabet has 64 characters, so that random bytes map onto it evenly.
const saltAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// hash returns a SHA-crypt hash with the default of 5000 rounds, which every
// crypt(3) supports and which takes a few milliseconds.
func (s SetPassword) hash() (string, error) {
	salt := make([]byte, s.Salt)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("generate salt: %w", err)
	}
	for i := range salt {
		salt[i] = saltAlphabet[salt[i]&63]
	}
	h, err := shacrypt.New(shacrypt.WithVariantName(s.Crypt), shacrypt.WithIterations(shacrypt.IterationsDefaultOmitted))
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	d, err := h.HashWithSalt(s.Password.Reveal(), salt)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	return d.Encode(), nil
}

func matches(field string, password host.Secret) bool {
	if !strings.HasPrefix(field, "$5$") && !strings.HasPrefix(field, "$6$") {
		return false
	}
	d, err := shacrypt.Decode(field)
	if err != nil {
		return false
	}
	return d.Match(password.Reveal())
}

// LockRoot sets root's password field to "*", which matches no password.
// Password ageing stays.
type LockRoot struct{ Shadow string }

// ID implements Step.
func (LockRoot) ID() string { return StepRoot }

func (LockRoot) String() string { return "lock the root password" }

// Apply implements Step.
func (s LockRoot) Apply(ctx context.Context, m *Machine) error {
	have, found, err := m.Root.PasswordField(s.Shadow, "root")
	if err != nil {
		return fail(CodeRoot, "failed to lock the root password", err)
	}
	if found && (strings.HasPrefix(have, "*") || strings.HasPrefix(have, "!")) {
		return nil
	}
	if err := m.Root.EditPasswordField(ctx, s.Shadow, "root", false, func(string, bool) string { return "*" }); err != nil {
		return fail(CodeRoot, "failed to lock the root password", err)
	}
	return nil
}

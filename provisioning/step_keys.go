package provisioning

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/azguest/azguest/agent/host"
)

// AuthorizeKeys adds public keys to the files that sshd reads. The home
// belongs to the user, so nothing in it is trusted: see host.Dir.
type AuthorizeKeys struct {
	User       string
	HomeDir    string // replaces $HOME in a Path: the parent of the home directories
	Lib        string // directory of the certificates
	SSHDir     string
	SSHDMain   string // read for AuthorizedKeysFile; may be empty
	Keys       []Key
	Required   bool // there is no other way to log in: an unusable key is a failure
	Restorecon string
}

// ID implements Step.
func (AuthorizeKeys) ID() string { return StepKeys }

func (s AuthorizeKeys) String() string {
	return fmt.Sprintf("authorize %d public keys for %s", len(s.Keys), s.User)
}

// Apply implements Step.
func (s AuthorizeKeys) Apply(ctx context.Context, m *Machine) error {
	bad := func(err error) error {
		return fail(CodeKeys, "failed to provision ssh keys", err, Pair{"user", s.User})
	}
	accounts, err := m.Root.Accounts()
	if err != nil {
		return bad(err)
	}
	acct, ok := find(accounts, s.User)
	if !ok {
		return bad(fmt.Errorf("no local account %s", s.User))
	}
	var problems []error
	files := map[string][]authKey{}
	usable := 0
	for i, k := range s.Keys {
		keys, err := s.read(m, k)
		if err != nil {
			problems = append(problems, fmt.Errorf("key %d: %w", i+1, err))
		}
		if len(keys) == 0 {
			continue
		}
		usable++
		name := s.target(accounts, acct, k.Path)
		files[name] = append(files[name], keys...)
	}
	// sshd may read other files than those in the document.
	if main := s.lookedAt(m.Root, acct, files); main != "" {
		for _, name := range sortedKeys(files) {
			if owner(accounts, name, acct).Name == acct.Name {
				files[main] = append(files[main], files[name]...)
			}
		}
	}
	if s.noFile(m.Root) {
		problems = append(problems, errors.New("sshd of this image reads no key files (AuthorizedKeysFile none)"))
	}
	for _, name := range sortedKeys(files) {
		if err := s.write(ctx, m, owner(accounts, name, acct), name, files[name]); err != nil {
			problems = append(problems, err)
			usable = 0
		}
	}
	if err := errors.Join(problems...); err != nil {
		if s.Required && usable == 0 {
			return bad(err)
		}
		return &Warning{ID: CodeKeys, Err: err}
	}
	return nil
}

// read returns the keys of one element: by value, else from the certificate.
func (s AuthorizeKeys) read(m *Machine, k Key) ([]authKey, error) {
	if strings.TrimSpace(k.Value) != "" {
		return parseAuthKeys(k.Value)
	}
	if k.Fingerprint == "" {
		return nil, errors.New("neither a value nor a fingerprint")
	}
	fp, err := fingerprint(k.Fingerprint)
	if err != nil {
		return nil, err
	}
	b, err := m.Root.ReadFile(path.Join(s.Lib, fp+".crt"))
	if err != nil {
		return nil, fmt.Errorf("certificate %s not delivered by the platform: %w", fp, err)
	}
	key, err := certKey(b)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", fp, err)
	}
	return []authKey{key}, nil
}

// fingerprint converts to upper-case hex, so that the result can be a file
// name.
func fingerprint(s string) (string, error) {
	s = strings.ToUpper(strings.TrimSpace(s))
	if s == "" || len(s) > 128 || strings.Trim(s, "0123456789ABCDEF") != "" {
		return "", fmt.Errorf("%q is not a fingerprint", printable(s))
	}
	return s, nil
}

// target returns the file that a Path means. A Path that is in no account's
// home becomes the user's own file: a key where sshd does not look would leave
// the VM unreachable.
func (s AuthorizeKeys) target(all []host.Account, acct host.Account, p string) string {
	own := path.Join(acct.Home, ".ssh/authorized_keys")
	p = expandHome(p, s.HomeDir)
	if !path.IsAbs(p) {
		return own
	}
	for _, a := range all {
		if a.Home != "" && a.Home != "/" && strings.HasPrefix(p, a.Home+"/") {
			return p
		}
	}
	return own
}

// expandHome replaces $HOME by the parent of the home directories. A path with
// ".." or NUL becomes empty.
func expandHome(p, homes string) string {
	p = strings.TrimSpace(p)
	p = strings.ReplaceAll(strings.ReplaceAll(p, "${HOME}", homes), "$HOME", homes)
	if p == "" || strings.Contains(p, "\x00") || slices.Contains(strings.Split(p, "/"), "..") {
		return ""
	}
	return path.Clean(p)
}

// owner returns the account in whose home a file is, the one with the longest
// path if homes are nested; def if there is none.
func owner(all []host.Account, name string, def host.Account) host.Account {
	best := def
	length := 0
	for _, a := range all {
		if len(a.Home) > length && a.Home != "/" && strings.HasPrefix(name, a.Home+"/") {
			best, length = a, len(a.Home)
		}
	}
	return best
}

// lookedAt returns the file that sshd reads for the user if it reads none of
// the files; empty if it does.
func (s AuthorizeKeys) lookedAt(r host.Root, a host.Account, files map[string][]authKey) string {
	if s.SSHDMain == "" {
		return ""
	}
	d, ok := effective(readSSHD(r, s.SSHDMain, s.SSHDir, nil), "authorizedkeysfile")
	if !ok || len(d.Args) == 0 || strings.EqualFold(d.Args[0], "none") {
		return ""
	}
	var names []string
	for _, pattern := range d.Args {
		n := keysFile(pattern, a)
		if _, ok := files[n]; ok {
			return ""
		}
		names = append(names, n)
	}
	return names[0]
}

// keysFile expands a pattern of AuthorizedKeysFile for an account.
func keysFile(pattern string, a host.Account) string {
	n := strings.NewReplacer("%%", "%", "%h", a.Home, "%u", a.Name, "%U", fmt.Sprint(a.UID)).Replace(pattern)
	if !path.IsAbs(n) {
		n = path.Join(a.Home, n)
	}
	return path.Clean(n)
}

// authorizedKeysFiles returns the files that sshd reads for this account and
// for no other, according to any line of its configuration.
func (m *Machine) authorizedKeysFiles(a host.Account) []string {
	r, o := m.Root, m.Options
	patterns := []string{".ssh/authorized_keys", ".ssh/authorized_keys2"}
	for _, main := range []string{path.Join(o.SSHDir, "sshd_config"), "/usr/etc/ssh/sshd_config"} {
		if !r.Exists(main) {
			continue
		}
		for _, d := range readSSHD(r, main, o.SSHDir, nil) {
			if d.Key == "authorizedkeysfile" && !strings.EqualFold(strings.Join(d.Args, " "), "none") {
				patterns = append(patterns, d.Args...)
			}
		}
		break
	}
	var out []string
	for _, p := range patterns {
		own := !path.IsAbs(p) || strings.Contains(strings.ReplaceAll(p, "%%", ""), "%") // %h, %u, %U
		if n := keysFile(p, a); own && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// noFile reports whether sshd reads no key files: keys of this image come from
// a command or a certificate authority.
func (s AuthorizeKeys) noFile(r host.Root) bool {
	if s.SSHDMain == "" {
		return false
	}
	d, ok := effective(readSSHD(r, s.SSHDMain, s.SSHDir, nil), "authorizedkeysfile")
	return ok && len(d.Args) > 0 && strings.EqualFold(d.Args[0], "none")
}

const maxAuthorizedKeys = 1 << 20

func (s AuthorizeKeys) write(ctx context.Context, m *Machine, a host.Account, name string, keys []authKey) error {
	inHome := strings.HasPrefix(name, a.Home+"/")
	dirPerm, filePerm, uid, gid := fs.FileMode(0o700), fs.FileMode(0o600), a.UID, a.GID
	if !inHome {
		// sshd reads the file as the user, and StrictModes requires root or
		// the user as owner.
		dirPerm, filePerm, uid, gid = 0o755, 0o644, 0, 0
	}
	d, err := m.Root.OpenDir(path.Dir(name), func(dir string) (host.Make, bool) {
		if inHome && !strings.HasPrefix(dir, a.Home) && !strings.HasPrefix(a.Home, dir) && !underResolved(m.Root, a.Home, dir) {
			return host.Make{}, false
		}
		return host.Make{Perm: dirPerm, UID: uid, GID: gid}, true
	})
	if err != nil {
		return fmt.Errorf("authorized keys of %s: %w", a.Name, err)
	}
	defer func() { _ = d.Close() }()
	if inHome && path.Dir(name) != a.Home {
		if err := d.SetOwner(uid, gid, 0o700); err != nil {
			return fmt.Errorf("authorized keys of %s: %w", a.Name, err)
		}
	}
	base := path.Base(name)
	old, err := d.ReadFile(base, a.UID, maxAuthorizedKeys)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, host.ErrUnsafe):
		// Replaced below, without following or reading it.
		m.Log.Warn().Str("file", name).Err(err).Msg("existing file replaced")
		old = nil
	case err != nil:
		return fmt.Errorf("authorized keys of %s: %w", a.Name, err)
	}
	next, changed := mergeKeys(old, keys)
	if !changed && err == nil {
		if st, serr := d.Stat(base); serr == nil && int(st.Uid) == uid && fs.FileMode(st.Mode&0o777) == filePerm {
			return nil
		}
	}
	if err := d.WriteFile(base, next, filePerm, uid, gid); err != nil {
		return fmt.Errorf("authorized keys of %s: %w", a.Name, err)
	}
	m.restorecon(ctx, s.Restorecon, "-R", path.Dir(name))
	return nil
}

// underResolved reports whether dir is below home after resolving links of
// root (/home -> /var/home).
func underResolved(r host.Root, home, dir string) bool {
	d, err := r.OpenDir(home, nil)
	if err != nil {
		return false
	}
	defer func() { _ = d.Close() }()
	return strings.HasPrefix(dir, d.Name())
}

func sortedKeys[V any](m map[string]V) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// InstallKeyPairs writes private keys from the platform, and their public
// halves, to the paths in the document.
type InstallKeyPairs struct {
	User, HomeDir, Lib string
	Pairs              []KeyPair
	Restorecon         string
}

// ID implements Step.
func (InstallKeyPairs) ID() string { return StepKeyPairs }

func (s InstallKeyPairs) String() string {
	return fmt.Sprintf("install %d key pairs for %s", len(s.Pairs), s.User)
}

// Apply implements Step.
func (s InstallKeyPairs) Apply(ctx context.Context, m *Machine) error {
	accounts, err := m.Root.Accounts()
	if err != nil {
		return fail(CodeKeyPair, "failed to provision ssh keys", err)
	}
	acct, ok := find(accounts, s.User)
	if !ok {
		return fail(CodeKeyPair, "failed to provision ssh keys", fmt.Errorf("no local account %s", s.User))
	}
	var problems []error
	for i, p := range s.Pairs {
		if err := s.install(ctx, m, accounts, acct, p); err != nil {
			problems = append(problems, fmt.Errorf("key pair %d: %w", i+1, err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return &Warning{ID: CodeKeyPair, Err: err}
	}
	return nil
}

func (s InstallKeyPairs) install(ctx context.Context, m *Machine, all []host.Account, acct host.Account, p KeyPair) error {
	fp, err := fingerprint(p.Fingerprint)
	if err != nil {
		return err
	}
	key, err := m.Root.ReadFile(path.Join(s.Lib, fp+".prv"))
	if err != nil {
		return fmt.Errorf("key %s not delivered by the platform: %w", fp, err)
	}
	pub, err := publicHalf(key)
	if err != nil {
		return fmt.Errorf("key %s: %w", fp, err)
	}
	name := expandHome(p.Path, s.HomeDir)
	a := owner(all, name, acct)
	if !path.IsAbs(name) || !strings.HasPrefix(name, a.Home+"/") {
		return fmt.Errorf("path %q is not in a home directory", printable(p.Path))
	}
	d, err := m.Root.OpenDir(path.Dir(name), func(string) (host.Make, bool) {
		return host.Make{Perm: 0o700, UID: a.UID, GID: a.GID}, true
	})
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := d.WriteFile(path.Base(name), key, 0o600, a.UID, a.GID); err != nil {
		return err
	}
	if err := d.WriteFile(path.Base(name)+".pub", pub, 0o644, a.UID, a.GID); err != nil {
		return err
	}
	m.restorecon(ctx, s.Restorecon, "-R", path.Dir(name))
	return nil
}

// publicHalf returns the OpenSSH line of the public key of a PEM private key.
func publicHalf(key []byte) ([]byte, error) {
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	signer, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	return append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey())), '\n'), nil
}

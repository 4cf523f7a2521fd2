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
	acct, err := m.accountOf(ctx, accounts, s.User)
	if err != nil {
		return bad(err)
	}
	var problems []error
	files := map[string][]authKey{}
	var all []authKey
	for i, k := range s.Keys {
		keys, err := s.read(m, k)
		if err != nil {
			problems = append(problems, fmt.Errorf("key %d: %w", i+1, err))
		}
		if len(keys) == 0 {
			continue
		}
		all = append(all, keys...)
		name := s.target(accounts, acct, k.Path)
		files[name] = append(files[name], keys...)
	}
	looks, err := s.lookedAt(ctx, m, acct)
	if err != nil {
		problems = append(problems, err)
	}
	s.whereSSHDLooks(accounts, acct, looks, files, all)
	open := false // one of the user's own files has the keys
	for _, name := range sortedKeys(files) {
		a := owner(accounts, name, acct)
		if a.Name == acct.Name && (slices.Contains(looks, name) || len(looks) == 0 && name == path.Join(a.Home, ".ssh/authorized_keys")) {
			putAside(m, a, name)
		}
		if err := s.write(ctx, m, a, name, files[name]); err != nil {
			problems = append(problems, err)
			continue
		}
		open = open || a.Name == acct.Name && (len(looks) == 0 || slices.Contains(looks, name))
	}
	if err := errors.Join(problems...); err != nil {
		if !open {
			return bad(err)
		}
		return &Warning{ID: CodeKeys, Err: err}
	}
	return nil
}

// whereSSHDLooks makes sure that the keys are in a file that sshd reads for the
// user, also if the document names others: another account's, or one where
// sshd of this image does not look.
func (s AuthorizeKeys) whereSSHDLooks(accounts []host.Account, acct host.Account, looks []string, files map[string][]authKey, all []authKey) {
	if len(all) == 0 {
		return
	}
	if len(looks) == 0 {
		looks = []string{path.Join(acct.Home, ".ssh/authorized_keys")}
	}
	names := sortedKeys(files)
	if slices.ContainsFunc(names, func(n string) bool { return slices.Contains(looks, n) }) {
		return
	}
	var theirs []authKey
	for _, n := range names {
		if owner(accounts, n, acct).Name == acct.Name {
			theirs = append(theirs, files[n]...)
		}
	}
	if len(theirs) == 0 {
		theirs = all
	}
	files[looks[0]] = theirs
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

// lookedAt returns the files that sshd reads for this user and for nobody else.
// It is empty, with an error that says why, if there are none: the keys then go
// to ~/.ssh all the same, and never into a file that opens other accounts, root
// among them (DESIGN.md, decision 105). It is empty without an error if there
// is no sshd to ask.
func (s AuthorizeKeys) lookedAt(ctx context.Context, m *Machine, a host.Account) ([]string, error) {
	if s.SSHDMain == "" {
		return nil, nil
	}
	patterns := m.keyFilePatterns(ctx, s, a.Name)
	if len(patterns) == 0 {
		return nil, nil
	}
	if strings.EqualFold(patterns[0], "none") {
		return nil, errors.New("sshd of this image reads no key files (AuthorizedKeysFile none)")
	}
	var names []string
	for _, p := range patterns {
		if n := keysFile(p, a); ownPattern(p, a) && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("sshd of this image reads keys from %s, which is the same file for every account: keys are written to ~/.ssh/authorized_keys only (AuthorizedKeysFile must contain %%u, %%U or %%h)", strings.Join(patterns, " "))
	}
	return names, nil
}

// keyFilePatterns returns AuthorizedKeysFile as sshd applies it to the user,
// Match blocks included; without an answer of sshd, as its files say for
// everybody.
func (m *Machine) keyFilePatterns(ctx context.Context, s AuthorizeKeys, user string) []string {
	if answer, err := m.AskSSHD(ctx, Login{User: user}); err == nil && len(answer.Words("authorizedkeysfile")) > 0 {
		return answer.Words("authorizedkeysfile")
	}
	if d, ok := effective(readSSHD(m.Root, s.SSHDMain, s.SSHDir, nil), "authorizedkeysfile"); ok {
		return d.Args
	}
	return nil
}

// ownPattern reports whether a pattern of AuthorizedKeysFile means another file
// for each account, or one below the account's home. sshd expands "~" when it
// reads its configuration, as root, so such a pattern means root's file for
// everybody.
func ownPattern(pattern string, a host.Account) bool {
	if strings.HasPrefix(pattern, "~") {
		return false
	}
	p := strings.ReplaceAll(pattern, "%%", "")
	return !path.IsAbs(pattern) || strings.Contains(p, "%u") || strings.Contains(p, "%U") || strings.Contains(p, "%h") ||
		a.Home != "" && a.Home != "/" && strings.HasPrefix(path.Clean(pattern), a.Home+"/")
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
		if n := keysFile(p, a); ownPattern(p, a) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
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
	if inHome {
		if err := closeHome(m, a); err != nil {
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
	m.Restorecon(ctx, s.Restorecon, "-R", path.Dir(name))
	return nil
}

// putAside renames what a home has where the directory of a file that sshd
// reads belongs, if it is none: a file, or a link that is not followed. The
// skeleton of an image may have made it, and it must not keep the person out.
func putAside(m *Machine, a host.Account, name string) {
	base, _, below := strings.Cut(strings.TrimPrefix(name, a.Home+"/"), "/")
	if !below || !strings.HasPrefix(name, a.Home+"/") {
		return
	}
	if d, err := m.Root.OpenDir(path.Join(a.Home, base), nil); err == nil {
		_ = d.Close()
		return
	}
	home, err := m.Root.OpenDir(a.Home, nil)
	if err != nil {
		return
	}
	defer func() { _ = home.Close() }()
	if fi, err := home.Lstat(base); err != nil || fi.IsDir() {
		return
	}
	for i := range 10 {
		aside := fmt.Sprintf("%s.aside%d", base, i+1)
		if err = home.RenameNew(base, home, aside); !errors.Is(err, fs.ErrExist) {
			m.Log.Warn().Err(err).Str("name", path.Join(a.Home, base)).Str("aside", path.Join(a.Home, aside)).Msg("not a directory, put aside for the keys")
			return
		}
	}
}

// closeHome closes the home of an account of the image to others, unless sshd
// does not mind.
func closeHome(m *Machine, a host.Account) error {
	if v, ok := m.SSHDValue("StrictModes"); ok && strings.EqualFold(v, "no") {
		return nil
	}
	d, err := m.Root.OpenDir(a.Home, nil)
	if err != nil {
		return err
	}
	return errors.Join(closeToOthers(d, a), d.Close())
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
	acct, err := m.accountOf(ctx, accounts, s.User)
	if err != nil {
		return fail(CodeKeyPair, "failed to provision ssh keys", err)
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
	m.Restorecon(ctx, s.Restorecon, "-R", path.Dir(name))
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

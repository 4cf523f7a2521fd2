package generalize

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// Profile is a set of requirements for an image.
type Profile string

const (
	Marketplace Profile = "marketplace"
	CIS         Profile = "cis"
	Immutable   Profile = "immutable"
)

// Profiles lists all profiles.
func Profiles() []Profile { return []Profile{Marketplace, CIS, Immutable} }

// A Finding is something about an image that its author should know.
type Finding struct {
	// Code is stable: the name of an entry of the table, or one of VerifyCodes.
	Code  string `json:"code"`
	Fatal bool   `json:"fatal"` // the image must not be published like this
	Path  string `json:"path,omitempty"`
	Text  string `json:"text"`
	Group Group  `json:"group,omitempty"` // of the table
	Harm  Harm   `json:"harm,omitempty"`  // of the table
	Fix   string `json:"fix,omitempty"`
}

// VerifyCodes are the codes of findings that are not in the table.
func VerifyCodes() []string {
	return []string{
		"private-key", "authorized-keys-unread", "not-checked", "empty-password", "shared-password", "uid-0", "mode", "empty-passwords-allowed",
		"client-alive-interval", "swap", "no-agent", "missing-directory", "state-in-usr", "sshd-config-link",
	}
}

func (f Finding) String() string {
	s := f.Text
	if f.Path != "" {
		s = f.Path + ": " + s
	}
	if f.Fix != "" {
		s += " (to do: " + f.Fix + ")"
	}
	if f.Fatal {
		return "FAIL " + s
	}
	return "note " + s
}

// Verify checks the root file system of an image, mounted or unpacked
// anywhere, and changes nothing. Everything that generalize would remove is a
// finding, and so is every secret.
func Verify(r host.Root, o Options, profile Profile) ([]Finding, error) {
	o.Machine.DeleteRootPassword, o.User = true, true
	if !slices.Contains(Profiles(), profile) {
		return nil, fmt.Errorf("unknown profile %q (available: marketplace, cis, immutable)", profile)
	}
	if !r.Exists("/etc") || !r.Exists("/usr") {
		return nil, errors.New("not a root file system: /etc or /usr is missing")
	}
	v := &verifier{r: r, m: o.machine(&provisioning.System{Root: r})}
	s := newSurvey(r, o, false)
	for _, t := range s.all() {
		v.out = append(v.out, Finding{Code: t.Name, Fatal: t.Harm != Stale, Path: t.path, Text: t.Why, Group: t.Group, Harm: t.Harm, Fix: t.Fix})
	}
	v.secrets(s.homes)
	v.accounts()
	switch profile {
	case Marketplace:
		v.marketplace()
	case CIS:
		v.cis()
	case Immutable:
		v.immutable()
	}
	return v.out, nil
}

type verifier struct {
	r   host.Root
	m   *provisioning.Machine
	out []Finding
}

func (v *verifier) bad(code, path, format string, args ...any) {
	v.out = append(v.out, Finding{Code: code, Fatal: true, Path: path, Text: fmt.Sprintf(format, args...)})
}

func (v *verifier) note(code, path, format string, args ...any) {
	v.out = append(v.out, Finding{Code: code, Path: path, Text: fmt.Sprintf(format, args...)})
}

// has reports whether there is a fault about a file already.
func (v *verifier) has(path string) bool {
	return slices.ContainsFunc(v.out, func(f Finding) bool { return f.Fatal && f.Path == path })
}

// Limits of the search for secrets: files below one directory of the image,
// bytes in total, size of one file.
const (
	verifyFiles = 50_000
	verifyBytes = 2 << 30
	secretSize  = 1 << 20 // a key is smaller
)

// secrets searches for private keys and tokens where administrators put them.
// The image may have been changed by others and may be in use: links are not
// followed, nothing is waited for, and files larger than a key are not read.
func (v *verifier) secrets(homes []string) {
	left := int64(verifyBytes)
	tops := []string{"/root", "/home", "/etc", "/tmp", "/var/tmp", "/opt", "/srv", "/usr/local/etc", "/var/www", "/var/lib/cloud"}
	for _, h := range homes {
		if h != "/root" && path.Dir(h) != "/home" {
			tops = append(tops, h)
		}
	}
	for _, top := range tops {
		err := v.r.Walk(top, verifyFiles, func(rel string, in *host.Dir, fi fs.FileInfo, err error) error {
			if err != nil || !fi.Mode().IsRegular() {
				return nil //nolint:nilerr // a directory that can't be read is not a finding
			}
			name, base := path.Join(top, rel), path.Base(rel)
			if v.has(name) {
				return nil
			}
			keys := base == "authorized_keys" || base == "authorized_keys2"
			if fi.Size() > secretSize {
				if keys {
					v.bad("authorized-keys-unread", name, "too large to check (%d bytes); it may allow logins to every VM of this image", fi.Size())
				}
				return nil
			}
			if left -= fi.Size(); left < 0 {
				return errEnough
			}
			b, _, err := in.ReadBounded(base, secretSize)
			switch {
			case err != nil:
				return nil //nolint:nilerr // replaced or removed meanwhile
			case keys && len(bytes.TrimSpace(b)) > 0:
				v.bad("authorized-keys", name, "allows logins to every VM of this image")
			case !keys && looksSecret(b):
				v.bad("private-key", name, "contains a private key")
			}
			return nil
		})
		switch {
		case errors.Is(err, host.ErrTooMany):
			v.note("not-checked", top, "only the first %d files were checked", verifyFiles)
		case errors.Is(err, errEnough):
			v.note("not-checked", top, "not checked completely: more than %d MiB of small files", verifyBytes>>20)
			return
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			v.note("not-checked", top, "not checked: %v", err)
		}
	}
}

var errEnough = errors.New("enough was read")

// privateKey matches the lines around a private key (RFC 7468, and the older
// forms of OpenSSL and OpenSSH).
var privateKey = regexp.MustCompile(`(?s)-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----(.*?)-----END ([A-Z0-9 ]*PRIVATE KEY)-----`)

// keyHeader matches a header of an encrypted key (RFC 1421).
var keyHeader = regexp.MustCompile(`(?m)^[ \t]*[A-Za-z0-9-]+:[ \t].*$`)

// looksSecret reports whether a text has a private key: base64 between the two
// lines, also indented or as a string of a program or of JSON. A program or a
// guide has these lines as well, with something else in between, and a binary
// is not a key.
func looksSecret(b []byte) bool {
	if bytes.Contains(b, []byte{0}) {
		return false
	}
	for _, m := range privateKey.FindAllSubmatch(b, -1) {
		body := keyHeader.ReplaceAllString(string(m[2]), "")
		body = strings.NewReplacer(`\r`, "", `\n`, "", `"`, "", "'", "", `\`, "", ",", "").Replace(body)
		body = strings.TrimRight(strings.Join(strings.Fields(body), ""), "=")
		// Not the word between two strings of a program.
		lines := bytes.IndexAny(m[2], "\r\n") == 0 || bytes.HasPrefix(m[2], []byte(`\n`)) || len(body) >= shortestKey
		if bytes.Equal(m[1], m[3]) && lines && body != "" && strings.Trim(body, base64Alphabet) == "" {
			return true
		}
	}
	return false
}

// shortestKey is fewer characters than any private key has in base64.
const shortestKey = 40

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

func (v *verifier) accounts() {
	all, err := v.r.Accounts()
	if err != nil {
		v.note("not-checked", "/etc/passwd", "%v", err)
		return
	}
	for _, a := range all {
		f, ok, err := v.r.PasswordField(v.m.Options.Shadow, a.Name)
		switch {
		case err != nil || !ok:
		case f == "":
			v.bad("empty-password", v.m.Options.Shadow, "%s can log in without a password", a.Name)
		case strings.HasPrefix(f, "$") && a.Name != "root":
			v.bad("shared-password", v.m.Options.Shadow, "%s has the same password in every VM", a.Name)
		}
		if a.UID == 0 && a.Name != "root" {
			v.bad("uid-0", "/etc/passwd", "%s has uid 0", a.Name)
		}
	}
}

// marketplace checks what the certification for the marketplace requires.
func (v *verifier) marketplace() {
	if s, ok := v.m.SSHDValue("ClientAliveInterval"); ok {
		if n, err := strconv.Atoi(s); err != nil || n < 30 || n > 235 {
			v.bad("client-alive-interval", "", "sshd: ClientAliveInterval is %s, certification requires 30 to 235", s)
		}
	} else {
		v.note("client-alive-interval", "", "sshd: ClientAliveInterval is not set; the agent sets it during provisioning")
	}
	if b, err := v.r.ReadFile("/etc/fstab"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 2 && f[0][0] != '#' && f[2] == "swap" {
				v.bad("swap", "/etc/fstab", "swap on the OS disk")
			}
		}
	}
	if slices.ContainsFunc([]string{"/usr/sbin/azguest", "/usr/bin/azguest", "/usr/sbin/waagent", "/usr/bin/waagent"}, v.r.Exists) {
		return
	}
	v.bad("no-agent", "", "no guest agent installed")
}

func (v *verifier) cis() {
	for name, most := range map[string]fs.FileMode{"/etc/shadow": 0o640, "/etc/gshadow": 0o640, "/etc/passwd": 0o644, "/etc/ssh/sshd_config": 0o644} {
		if fi, err := v.r.Stat(name); err == nil && fi.Mode().Perm()&^most != 0 {
			v.bad("mode", name, "mode is %04o, at most %04o is allowed", fi.Mode().Perm(), most)
		}
	}
	if s, ok := v.m.SSHDValue("PermitEmptyPasswords"); ok && strings.EqualFold(s, "yes") {
		v.bad("empty-passwords-allowed", "", "sshd: PermitEmptyPasswords is on")
	}
	slices.SortFunc(v.out, func(a, b Finding) int { return strings.Compare(a.Path+a.Text, b.Path+b.Text) })
}

// immutable checks images whose /usr cannot be written: the agent needs other
// directories.
func (v *verifier) immutable() {
	for _, dir := range []string{"/var/lib", "/var/log", "/run"} {
		if !v.r.Exists(dir) {
			v.note("missing-directory", dir, "does not exist; the unit must create it")
		}
	}
	if names, err := v.r.Glob("/usr/lib/waagent/*.state"); err == nil && len(names) > 0 {
		v.bad("state-in-usr", names[0], "state in /usr")
	}
	if fi, err := v.r.Lstat("/etc/ssh/sshd_config"); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		v.note("sshd-config-link", "/etc/ssh/sshd_config", "symbolic link; provisioning replaces it with a file unless drop-ins are supported")
	}
}

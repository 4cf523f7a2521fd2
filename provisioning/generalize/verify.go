package generalize

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
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
	Fatal bool   `json:"fatal"` // the image must not be published like this
	Path  string `json:"path,omitempty"`
	Text  string `json:"text"`
}

func (f Finding) String() string {
	s := f.Text
	if f.Path != "" {
		s = f.Path + ": " + s
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
	actions, _ := Plan(r, o)
	for _, a := range actions {
		v.bad(a.Path, "%s", a.Why)
	}
	v.secrets()
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

func (v *verifier) bad(path, format string, args ...any) {
	v.out = append(v.out, Finding{Fatal: true, Path: path, Text: fmt.Sprintf(format, args...)})
}

func (v *verifier) note(path, format string, args ...any) {
	v.out = append(v.out, Finding{Path: path, Text: fmt.Sprintf(format, args...)})
}

// Limits of the search for secrets: files below one directory of the image,
// bytes in total, size of one file.
const (
	verifyFiles = 50_000
	verifyBytes = 2 << 30
	secretSize  = 1 << 20 // a key is smaller
)

// secrets searches for private keys and tokens in the usual directories. The
// image may have been changed by others and may be in use: links are not
// followed, nothing is waited for, and files larger than a key are not read.
func (v *verifier) secrets() {
	left := int64(verifyBytes)
	for _, top := range []string{"/root", "/home", "/etc/ssl/private", "/etc/pki/tls/private", "/tmp", "/var/tmp", "/opt", "/srv", "/var/lib/cloud"} {
		err := v.r.Walk(top, verifyFiles, func(rel string, in *host.Dir, fi fs.FileInfo, err error) error {
			if err != nil || !fi.Mode().IsRegular() {
				return nil //nolint:nilerr // a directory that can't be read is not a finding
			}
			name, base := path.Join(top, rel), path.Base(rel)
			keys := base == "authorized_keys" || base == "authorized_keys2"
			if fi.Size() > secretSize {
				if keys {
					v.bad(name, "too large to check (%d bytes); it may allow logins to every VM of this image", fi.Size())
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
				v.bad(name, "allows logins to every VM of this image")
			case !keys && looksSecret(b):
				v.bad(name, "contains a private key")
			}
			return nil
		})
		switch {
		case errors.Is(err, host.ErrTooMany):
			v.note(top, "only the first %d files were checked", verifyFiles)
		case errors.Is(err, errEnough):
			v.note(top, "not checked completely: more than %d MiB of small files", verifyBytes>>20)
			return
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			v.note(top, "not checked: %v", err)
		}
	}
}

var errEnough = errors.New("enough was read")

func looksSecret(b []byte) bool {
	i := bytes.Index(b, []byte("-----BEGIN "))
	if i < 0 {
		return false
	}
	line, _, _ := bytes.Cut(b[i:], []byte("\n"))
	// A binary program that contains this text is not a key.
	return bytes.Contains(line, []byte("PRIVATE KEY-----")) && !bytes.Contains(b, []byte{0}) && bytes.Contains(b, []byte("-----END "))
}

func (v *verifier) accounts() {
	all, err := v.r.Accounts()
	if err != nil {
		v.note("/etc/passwd", "%v", err)
		return
	}
	for _, a := range all {
		f, ok, err := v.r.PasswordField(v.m.Options.Shadow, a.Name)
		switch {
		case err != nil || !ok:
		case f == "":
			v.bad(v.m.Options.Shadow, "%s can log in without a password", a.Name)
		case strings.HasPrefix(f, "$") && a.Name != "root":
			v.bad(v.m.Options.Shadow, "%s has the same password in every VM", a.Name)
		}
		if a.UID == 0 && a.Name != "root" {
			v.bad("/etc/passwd", "%s has uid 0", a.Name)
		}
	}
}

// marketplace checks what the certification for the marketplace requires.
func (v *verifier) marketplace() {
	if s, ok := v.m.SSHDValue("ClientAliveInterval"); ok {
		if n, err := strconv.Atoi(s); err != nil || n < 30 || n > 235 {
			v.bad("", "sshd: ClientAliveInterval is %s, certification requires 30 to 235", s)
		}
	} else {
		v.note("", "sshd: ClientAliveInterval is not set; the agent sets it during provisioning")
	}
	if b, err := v.r.ReadFile("/etc/fstab"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 2 && f[0][0] != '#' && f[2] == "swap" {
				v.bad("/etc/fstab", "swap on the OS disk")
			}
		}
	}
	if slices.ContainsFunc([]string{"/usr/sbin/azguest", "/usr/bin/azguest", "/usr/sbin/waagent", "/usr/bin/waagent"}, v.r.Exists) {
		return
	}
	v.bad("", "no guest agent installed")
}

func (v *verifier) cis() {
	for name, most := range map[string]fs.FileMode{"/etc/shadow": 0o640, "/etc/gshadow": 0o640, "/etc/passwd": 0o644, "/etc/ssh/sshd_config": 0o644} {
		if fi, err := v.r.Stat(name); err == nil && fi.Mode().Perm()&^most != 0 {
			v.bad(name, "mode is %04o, at most %04o is allowed", fi.Mode().Perm(), most)
		}
	}
	if s, ok := v.m.SSHDValue("PermitEmptyPasswords"); ok && strings.EqualFold(s, "yes") {
		v.bad("", "sshd: PermitEmptyPasswords is on")
	}
	slices.SortFunc(v.out, func(a, b Finding) int { return strings.Compare(a.Path+a.Text, b.Path+b.Text) })
}

// immutable checks images whose /usr cannot be written: the agent needs other
// directories.
func (v *verifier) immutable() {
	for _, dir := range []string{"/var/lib", "/var/log", "/run"} {
		if !v.r.Exists(dir) {
			v.note(dir, "does not exist; the unit must create it")
		}
	}
	if names, err := v.r.Glob("/usr/lib/waagent/*.state"); err == nil && len(names) > 0 {
		v.bad(names[0], "state in /usr")
	}
	if fi, err := v.r.Lstat("/etc/ssh/sshd_config"); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		v.note("/etc/ssh/sshd_config", "symbolic link; provisioning replaces it with a file unless drop-ins are supported")
	}
}

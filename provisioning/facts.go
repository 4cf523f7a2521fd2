package provisioning

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// Facts is what Plan needs to know about the machine. It is read from files
// alone: no process is started, and distributions are not distinguished by
// name.
type Facts struct {
	Accounts []host.Account
	Groups   []host.Group
	// ShortLived are the names of short-lived accounts, even if their comment
	// was changed.
	ShortLived []string
	HalfMade   []string // those of them that are incomplete
	Leaving    []string // accounts whose removal has begun and not ended
	UIDMin     int
	HomeBase   string   // parent of the homes that useradd makes, if not /home
	Shells     []string // shells of /etc/shells that exist

	// Names of the programs, empty if absent.
	Useradd, Adduser, Chpasswd string
	Visudo, Sudo, Doas         string
	SSHD                       string
	Restorecon                 string // only if SELinux is on
	Systemctl                  string // only if systemd runs

	SudoersDir      bool // exists
	SudoersIncluded bool // some sudoers file reads it

	SSHDMain         string            // the main configuration file
	SSHDDropInWorks  bool              // keywords in the agent's drop-in would take effect
	SSHDSet          map[string]string // keywords that others set at top level, lower case
	SSHDHostKeyTypes []string          // types of the HostKey lines; empty: none given
	SSHDHostKeyFiles []string          // host keys that sshd reads elsewhere than at <SSHDir>/ssh_host_<type>_key
	SSHDAgentKeys    []string          // HostKey files that are public keys: an agent has the private ones (HostKeyAgent)
	SSHDHostCerts    []string          // HostCertificate files
	HostKeyTypes     []string          // types of the private host keys on disk

	HostName     string
	ResolvesSelf bool // nss-myhostname resolves the machine's own name
	SELinux      bool
	Systemd      bool
	FIPS         bool
	EtcReadOnly  bool
}

func (f Facts) shortLived(a host.Account) bool {
	return jitComment(a) || slices.Contains(f.ShortLived, a.Name)
}

// Gather reads the facts. An error means that the machine cannot be examined;
// missing programs and files are facts, not errors.
func (m *Machine) Gather(ctx context.Context) (Facts, error) {
	r, o := m.Root, m.Options
	var f Facts
	var err error
	if f.Accounts, err = r.Accounts(); err != nil {
		return f, fail(CodeInternal, "failed to read the accounts", err)
	}
	if f.Groups, err = r.Groups(); err != nil {
		return f, fail(CodeInternal, "failed to read the groups", err)
	}
	ledger := m.readJITLedger()
	for _, a := range f.Accounts {
		if !ledger.has(a) {
			continue
		}
		f.ShortLived = append(f.ShortLived, a.Name)
		if m.halfMade(a) {
			f.HalfMade = append(f.HalfMade, a.Name)
		}
	}
	for _, a := range m.HalfRemoved() {
		f.Leaving = append(f.Leaving, a.Name)
	}
	f.UIDMin = 1000
	if n, err := strconv.Atoi(r.LoginDefs()["UID_MIN"]); err == nil {
		f.UIDMin = n
	}
	f.Shells = shells(r)

	f.HomeBase = useraddHome(r)
	f.Useradd, f.Chpasswd = Which(r, "useradd"), Which(r, "chpasswd")
	if p := Which(r, "adduser"); p != "" {
		// Debian's adduser is another program with other options.
		if busybox(r, "adduser") {
			f.Adduser = p
		}
	}
	f.Visudo, f.Sudo, f.Doas = Which(r, "visudo"), Which(r, "sudo"), Which(r, "doas")
	f.SSHD = Which(r, "sshd")
	f.SELinux = r.Exists("/sys/fs/selinux/enforce")
	if f.SELinux {
		f.Restorecon = Which(r, "restorecon")
	}
	f.Systemd = r.Exists("/run/systemd/system")
	if f.Systemd {
		f.Systemctl = Which(r, "systemctl")
	}
	if b, err := r.ReadFile("/proc/sys/crypto/fips_enabled"); err == nil {
		f.FIPS = strings.TrimSpace(string(b)) == "1"
	}
	if etc, err := r.OpenDir("/etc", nil); err == nil {
		st, err := etc.Statfs()
		f.EtcReadOnly = err == nil && st.Flags&unix.ST_RDONLY != 0
		_ = etc.Close()
	}

	f.SudoersDir = r.Exists(o.SudoersDir)
	f.SudoersIncluded = sudoersIncluded(r, o.SudoersDir)

	m.gatherSSHD(&f)

	if m.Kernel.HostName != nil {
		if name, err := m.Kernel.HostName(); err == nil {
			f.HostName = name
		}
	}
	f.ResolvesSelf = nssMyHostname(r)
	return f, context.Cause(ctx)
}

func (m *Machine) gatherSSHD(f *Facts) {
	r, o := m.Root, m.Options
	for _, name := range []string{path.Join(o.SSHDir, "sshd_config"), "/usr/etc/ssh/sshd_config"} {
		if r.Exists(name) {
			f.SSHDMain = name
			break
		}
	}
	if names, err := r.Glob(path.Join(o.SSHDir, "ssh_host_*_key")); err == nil {
		for _, n := range names {
			if t := hostKeyType(n); t != "" {
				f.HostKeyTypes = append(f.HostKeyTypes, t)
			}
		}
	}
	// Types of the image whose keys an interrupted attempt has removed.
	var led hostKeyLedger
	if readJSON(r, path.Join(o.Dir(), "hostkeys.json"), &led) {
		for _, t := range led.Want {
			if !slices.Contains(f.HostKeyTypes, t) {
				f.HostKeyTypes = append(f.HostKeyTypes, t)
			}
		}
	}
	if f.SSHDMain == "" {
		return
	}
	conf := readSSHD(r, f.SSHDMain, o.SSHDir, nil)
	f.SSHDSet = map[string]string{}
	if d, ok := effective(conf, "hostkeyagent"); ok && len(d.Args) > 0 {
		f.SSHDSet["hostkeyagent"] = d.Args[0]
	}
	for _, d := range conf {
		if d.Match != "" {
			continue
		}
		// A plan must not depend on settings of an earlier run.
		if _, ok := f.SSHDSet[d.Key]; !ok && !d.Ours {
			f.SSHDSet[d.Key] = strings.Join(d.Args, " ")
		}
		switch {
		case d.Key == "hostkey" && len(d.Args) > 0:
			m.gatherHostKey(f, d.Args[0], led)
		case d.Key == "hostcertificate" && len(d.Args) > 0:
			f.SSHDHostCerts = append(f.SSHDHostCerts, path.Clean(d.Args[0]))
		}
	}
	// The command line of sshd may name more.
	for opts := m.sshdOptions(); len(opts) > 1; opts = opts[1:] {
		if opts[0] == "-h" {
			m.gatherHostKey(f, strings.TrimPrefix(opts[1], strings.TrimSuffix(string(r), "/")), led)
		}
	}
	f.SSHDDropInWorks = dropInDecides(r, f.SSHDMain, o.SSHDir)
}

// gatherHostKey enters a file that sshd reads a host key from.
func (m *Machine) gatherHostKey(f *Facts, name string, led hostKeyLedger) {
	name = path.Clean(name)
	if agent := f.SSHDSet["hostkeyagent"]; agent != "" && agent != "none" {
		pub := name
		if !m.Root.Exists(name) {
			pub += ".pub" // where sshd looks as well
		}
		if isPublicKey(m.Root, pub) {
			f.SSHDAgentKeys = append(f.SSHDAgentKeys, pub)
			return
		}
	}
	t := hostKeyType(name)
	if t == "" || name != hostKeyFile(m.Options.SSHDir, t) {
		if t = typeOfHostKey(m.Root, name, led); t == "" {
			return // no key of a type that is made
		}
		if !slices.Contains(f.SSHDHostKeyFiles, name) {
			f.SSHDHostKeyFiles = append(f.SSHDHostKeyFiles, name)
		}
	}
	if !slices.Contains(f.SSHDHostKeyTypes, t) {
		f.SSHDHostKeyTypes = append(f.SSHDHostKeyTypes, t)
	}
}

// hostKeyType returns the type in the name ssh_host_<type>_key.
func hostKeyType(file string) string {
	t, ok := strings.CutPrefix(path.Base(file), "ssh_host_")
	if !ok {
		return ""
	}
	t, ok = strings.CutSuffix(t, "_key")
	if !ok {
		return ""
	}
	return t
}

// Which finds a program where host.Exec will look for it.
func Which(r host.Root, name string) string {
	for dir := range strings.SplitSeq(host.DefaultPath, ":") {
		p := dir + "/" + name
		// Lstat: an absolute link leads out of a test root.
		if fi, err := r.Lstat(p); err == nil && !fi.IsDir() {
			return p
		}
	}
	return ""
}

// useraddHome returns the parent of the home directories in the defaults of
// useradd (HOME=, useradd(8)); empty if there is none or it is the usual one.
func useraddHome(r host.Root) string {
	base := ""
	for _, file := range []string{"/usr/etc/default/useradd", "/etc/default/useradd"} {
		b, err := r.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "HOME="); ok {
				base = strings.Trim(strings.TrimSpace(v), `"'`)
			}
		}
	}
	if !path.IsAbs(base) || path.Clean(base) == "/" || path.Clean(base) == "/home" {
		return ""
	}
	return path.Clean(base)
}

// busybox reports whether a program is part of busybox.
func busybox(r host.Root, name string) bool {
	target, err := r.Readlink(Which(r, name))
	return err == nil && strings.Contains(path.Base(target), "busybox")
}

// shells lists the login shells that exist; without /etc/shells it tries bash
// and sh.
func shells(r host.Root) []string {
	var names []string
	for _, file := range []string{"/etc/shells", "/usr/share/defaults/etc/shells", "/usr/etc/shells"} {
		b, err := r.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
				names = append(names, line)
			}
		}
		break
	}
	if names == nil {
		names = []string{"/bin/bash", "/bin/sh"}
	}
	return slices.DeleteFunc(names, func(s string) bool { return !r.Exists(s) })
}

// nssMyHostname reports whether nss-myhostname resolves the machine's own
// name.
func nssMyHostname(r host.Root) bool {
	for _, file := range []string{"/etc/nsswitch.conf", "/usr/etc/nsswitch.conf"} {
		b, err := r.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "hosts:"); ok {
				return slices.Contains(strings.Fields(rest), "myhostname")
			}
		}
		return false
	}
	return false
}

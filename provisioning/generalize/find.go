package generalize

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/provisioning"
)

// Functions of the table that look for things without a fixed path.

func documentUser(r host.Root, lib string) []string {
	b, err := r.ReadFile(lib + "/ovf-env.xml")
	if err != nil {
		return nil
	}
	env, err := ovf.Parse(b)
	if err != nil {
		return nil
	}
	return []string{strings.TrimSpace(env.UserName)}
}

func provisionedAccounts(s *survey) []item {
	if !s.o.User {
		return nil
	}
	var out []item
	users := s.users()
	for _, u := range users {
		out = append(out, item{path: u, kind: DelUser})
	}
	if dir := s.m.Options.Dir(); len(users) > 0 && !s.r.Exists(dir) {
		// The deletion of an account keeps notes in this directory.
		out = append(out, item{path: dir, kind: Remove, why: "state of this VM"})
	}
	for _, p := range []string{"{sudoers}/90-cloud-init-users", "{sudoers}/azure-init-user", "{sudoers}/zzzz-azguest"} {
		for _, n := range s.expand(p) {
			out = append(out, item{path: n, kind: Remove, why: "sudo rights of the provisioned account"})
		}
	}
	return out
}

// ourSudoFiles are the files that provisioning programs make for one account.
var ourSudoFiles = []string{provisioning.DataSudoers, "90-cloud-init-users", "azure-init-user", "waagent", "zzzz-azguest"}

// unknownSudoers finds rules for accounts that are gone, where sudo-rule does
// not remove them.
func unknownSudoers(s *survey) []item {
	var out []item
	for _, n := range append(s.expand("/etc/sudoers"), s.expand("{sudoers}/*")...) {
		text := s.text(n)
		if slices.Contains(ourSudoFiles, path.Base(n)) {
			text = withoutGoneSudoers(s, text)
		}
		// sudo skips such names (sudoers(5), @includedir).
		if base := path.Base(n); n != "/etc/sudoers" && strings.ContainsAny(base, ".~") {
			continue
		}
		if goneSudoers(s, text) {
			out = append(out, item{path: n})
		}
	}
	return out
}

// afterDeletion returns a find function for files that the deletion of an
// account makes, so that they need not be there yet.
func afterDeletion(names ...string) func(*survey) []item {
	return func(s *survey) []item {
		if len(s.doomed) == 0 {
			return nil
		}
		var out []item
		for _, n := range names {
			out = append(out, item{path: s.place(n)})
		}
		return out
	}
}

func rootPassword(s *survey) []item {
	o := s.m.Options
	if !o.DeleteRootPassword {
		return nil
	}
	f, ok, err := s.r.PasswordField(o.Shadow, "root")
	if err != nil || !ok || strings.HasPrefix(f, "*") || strings.HasPrefix(f, "!") {
		return nil
	}
	return []item{{path: o.Shadow, kind: LockRoot}}
}

// stateOfGone finds files that are named after an account that is gone.
func stateOfGone(s *survey) []item {
	var out []item
	for _, dir := range []string{"/var/lib/systemd/linger", "/var/lib/AccountsService/users", "/var/lib/AccountsService/icons"} {
		for _, n := range s.expand(dir + "/*") {
			if s.gone(path.Base(n)) {
				out = append(out, item{path: n})
			}
		}
	}
	return out
}

// localName is the host name of an image.
const localName = "localhost.localdomain\n"

// ownNames returns the names in the content of /etc/hostname, which may be a
// full name: it and its first part. The names of every machine are none.
func ownNames(text string) []string {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if isLocalName(line) {
			return nil
		}
		short, _, _ := strings.Cut(line, ".")
		return slices.Compact([]string{line, short})
	}
	return nil
}

func isLocalName(name string) bool {
	short, _, _ := strings.Cut(strings.ToLower(name), ".")
	return short == "" || short == "localhost" || short == "ip6-localhost" || short == "localhost4" || short == "localhost6"
}

func hostNames(s *survey) []item {
	var out []item
	for _, name := range []string{"/etc/hostname", "/etc/HOSTNAME"} {
		if fi, err := s.r.Lstat(name); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		if len(ownNames(s.text(name))) > 0 {
			out = append(out, item{path: name, kind: Write, content: localName})
		}
	}
	return out
}

// oldBootEntries finds boot loader entries that are named after a machine ID
// (kernel-install(8)).
func oldBootEntries(s *survey) []item {
	var out []item
	id := regexp.MustCompile(`^[0-9a-f]{32}-.*\.conf$`)
	for _, n := range s.expand("/boot/loader/entries/*.conf") {
		if id.MatchString(path.Base(n)) {
			out = append(out, item{path: n})
		}
	}
	return out
}

// dbusMachineID finds D-Bus's machine ID if it is a file; a link is to that of
// the machine.
func dbusMachineID(s *survey) []item {
	const name = "/var/lib/dbus/machine-id"
	if fi, err := s.r.Lstat(name); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	return []item{{path: name}}
}

func sshdTraces(s *survey) []item {
	var out []item
	for _, f := range s.m.SSHDTraces() {
		out = append(out, item{path: f, kind: SSHD})
	}
	return out
}

// cloudInitState finds what cloud-init has recorded about this VM.
func cloudInitState(s *survey) []item {
	var out []item
	for _, p := range []string{
		"/var/lib/cloud/instance", "/var/lib/cloud/instances", "/var/lib/cloud/data", "/var/lib/cloud/sem",
		"/var/lib/cloud/handlers", "/var/log/cloud-init.log*", "/var/log/cloud-init-output.log*", "/run/cloud-init/*.json",
	} {
		for _, n := range s.expand(p) {
			// A package may have made the directory.
			if fi, err := s.r.Lstat(n); err == nil && fi.IsDir() {
				if list, err := s.r.ReadDir(n); err == nil && len(list) == 0 {
					continue
				}
			}
			out = append(out, item{path: n})
		}
	}
	return out
}

// cloudInitRuns reports whether cloud-init will write network configuration on
// a clone: it is installed, and neither it nor its network part is disabled.
func (s *survey) cloudInitRuns() bool {
	if !s.exists("/usr/bin/cloud-init") && !s.exists("/usr/local/bin/cloud-init") || s.exists("/etc/cloud/cloud-init.disabled") {
		return false
	}
	off := regexp.MustCompile(`(?m)^\s*network:\s*\{?\s*config:\s*['"]?disabled|^\s+config:\s*['"]?disabled`)
	for _, n := range append(s.expand("/etc/cloud/cloud.cfg.d/*.cfg"), "/etc/cloud/cloud.cfg") {
		if off.MatchString(s.text(n)) {
			return false
		}
	}
	return true
}

// cloudInitNetwork finds the network configuration that cloud-init has
// generated. If cloud-init does not make it again on a clone, it is kept: a
// clone without any network configuration would be worse.
func cloudInitNetwork(s *survey) []item {
	runs := s.cloudInitRuns()
	var out []item
	for _, p := range []string{
		"/etc/netplan/50-cloud-init.yaml", "/etc/NetworkManager/conf.d/99-cloud-init.conf", "/etc/NetworkManager/conf.d/30-cloud-init-ip6-addr-gen-mode.conf",
		"/etc/NetworkManager/system-connections/cloud-init-*.nmconnection", "/etc/systemd/network/10-cloud-init-*", "/etc/systemd/network/50-cloud-init-*.link", "/etc/network/interfaces.d/50-cloud-init*",
	} {
		for _, n := range s.expand(p) {
			if runs {
				out = append(out, item{path: n})
			}
		}
	}
	return out
}

// resolvConf finds /etc/resolv.conf if it is a regular file. A link belongs to
// resolved, resolvconf or NetworkManager.
func resolvConf(s *survey) []item {
	const name = "/etc/resolv.conf"
	if fi, err := s.r.Lstat(name); err != nil || !fi.Mode().IsRegular() || !hasLines(s, s.text(name)) {
		return nil
	}
	return []item{{path: name}}
}

// hostKeysElsewhere finds the host keys and certificates that sshd's
// configuration names, wherever they are.
func hostKeysElsewhere(s *survey) []item {
	var out []item
	add := func(name string) {
		if !s.exists(name) {
			return
		}
		if fi, err := s.r.Stat(name); err == nil && fi.Mode().IsRegular() {
			out = append(out, item{path: name})
		}
	}
	for _, name := range append(s.m.SSHDNames("HostKey"), s.o.hostKeys...) {
		if !strings.HasPrefix(name, "/") {
			continue
		}
		name = path.Clean(name)
		private := strings.TrimSuffix(name, ".pub")
		text := s.text(private)
		switch {
		case looksSecret([]byte(text)):
			add(private)
			add(private + ".pub")
		case text == "" && s.exists(name): // the private part is in HostKeyAgent
			out = append(out, item{path: name, keep: true, why: "host key in an agent: every VM of the image has it"})
		}
	}
	for _, name := range s.m.SSHDNames("HostCertificate") {
		if strings.HasPrefix(name, "/") {
			add(path.Clean(name))
		}
	}
	return out
}

// sharedKeyFiles finds the key files that sshd's configuration names outside
// of homes.
func sharedKeyFiles(s *survey) []item {
	var out []item
	for _, p := range s.m.SSHDNames("AuthorizedKeysFile") {
		if !strings.HasPrefix(p, "/") {
			continue // below the home
		}
		p = strings.NewReplacer("%u", "*", "%U", "*", "%h", "*", "%%", "%").Replace(p)
		for _, n := range s.expand(p) {
			if hasLines(s, s.text(n)) {
				out = append(out, item{path: n})
			}
		}
	}
	return out
}

// iscsiInitiator finds a generated or given initiator name. Debian's start
// script makes one if the file says so, other distributions if there is none.
func iscsiInitiator(s *survey) []item {
	const name = "/etc/iscsi/initiatorname.iscsi"
	if !lineMatches(`^\s*InitiatorName\s*=`)(s, s.text(name)) {
		return nil
	}
	if slices.ContainsFunc([]string{"/usr/lib/open-iscsi/startup-checks.sh", "/lib/open-iscsi/startup-checks.sh"}, s.exists) {
		return []item{{path: name, kind: Write, content: "GenerateName=yes\n"}}
	}
	return []item{{path: name}}
}

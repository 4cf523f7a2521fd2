package access

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Results of modules, as controls name them.
const (
	yes     = "success"
	no      = "perm_denied"
	nobody  = "user_unknown"
	missing = "module_unknown"
	skip    = "ignore"
	unknown = "" // it decides by what this check does not read
)

// A module answers as a module of PAM would for the person.
type module func(j *judge, r rule) (result string, why refusal)

// modules are those of Linux-PAM and of distributions that can refuse, or that
// are known to let a person in. The names are without pam_ and .so.
func modules() map[string]module {
	fine := func(*judge, rule) (string, refusal) { return yes, refusal{} }
	ignored := func(*judge, rule) (string, refusal) { return skip, refusal{} }
	elsewhere := func(j *judge, _ rule) (string, refusal) {
		if _, local, err := j.m.Root.Account(j.p.Name); err == nil && local {
			return nobody, refusal{CodePAM, "it does not know accounts of /etc/passwd", "put pam_localuser.so with sufficient in front of it"}
		}
		return yes, refusal{}
	}
	m := map[string]module{
		"deny": func(*judge, rule) (string, refusal) {
			return no, refusal{CodePAM, "it refuses everybody", "take it out"}
		},
		"rootok":  pamRootOK,
		"nologin": pamNologin, "access": pamAccess, "listfile": pamListfile, "succeed_if": pamSucceedIf,
		"shells": pamShells, "faillock": pamFaillock, "localuser": pamLocal, "usertype": pamUsertype,
		"google_authenticator": pamTOTP, "exec": pamExec, "time": pamTime, "limits": pamLimits, "securetty": pamSecureTTY,
		"permit": fine, "unix": fine, "unix2": fine, "unix_auth": fine, "unix_acct": fine, "unix_session": fine, "tcb": fine,
	}
	// About sessions, records and the environment.
	for name := range strings.FieldsSeq(`cap debug echo env faildelay filter gnome_keyring group issue keyinit kwallet5 lastlog
		lastlog2 loginuid mail mkhomedir oddjob_mkhomedir motd namespace pwhistory pwquality cracklib selinux
		sepermit setquota stress systemd systemd_home timestamp tty_audit umask userdb warn wtmpdb xauth ck_connector
		apparmor ecryptfs fprintd elogind openrc rundir turnstile ssh_agent_auth`) {
		m[name] = ignored
	}
	for name := range strings.FieldsSeq("sss ldap krb5 winbind aad himmelblau oslogin_login oslogin_admin lsass centrifydc vas3") {
		m[name] = elsewhere
	}
	return m
}

// module answers for one rule.
func (j *judge) module(w *walk, r rule) (string, refusal) {
	name := strings.TrimSuffix(strings.TrimPrefix(path.Base(r.module), "pam_"), ".so")
	if !j.installed(r.module) {
		if r.mayMiss {
			return skip, refusal{}
		}
		return missing, refusal{CodePAM, "the module is not installed", "install the package of " + path.Base(r.module) + ", or take the line out"}
	}
	result, says := unknown, refusal{}
	if f, ok := modules()[name]; ok {
		result, says = f(j, r)
	}
	switch {
	case result != unknown:
		return result, says
	case r.mayRefuse():
		w.unknown = append(w.unknown, strings.TrimSpace(path.Base(r.module)+" "+says.why))
		return yes, refusal{}
	}
	return skip, refusal{}
}

// installed reports whether a module exists; true where modules are in a place
// that is not known.
func (j *judge) installed(name string) bool {
	if path.IsAbs(name) {
		return j.m.Root.Exists(name)
	}
	known := false
	for _, pattern := range []string{"/lib/security", "/lib64/security", "/usr/lib/security", "/usr/lib64/security", "/lib/*/security", "/usr/lib/*/security", "/usr/lib/pam"} {
		dirs, err := j.m.Root.Glob(pattern)
		if err != nil {
			continue
		}
		for _, dir := range dirs {
			known = known || j.m.Root.Exists(path.Join(dir, "pam_deny.so"))
			if j.m.Root.Exists(path.Join(dir, name)) {
				return true
			}
		}
	}
	return !known
}

// option returns the value of an argument "name=value".
func (r rule) option(name string) string {
	for _, a := range r.args {
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			return v
		}
	}
	return ""
}

func pamRootOK(j *judge, _ rule) (string, refusal) {
	if j.acct.UID == 0 {
		return yes, refusal{}
	}
	return "auth_err", refusal{CodePAM, "it lets root in only", "take it out"}
}

func pamNologin(j *judge, _ rule) (string, refusal) {
	switch f, ok := j.nologin(true); {
	case ok && len(f.Shuts) == 0: // a note, whatever the stack makes of it
		if !slices.ContainsFunc(j.found, func(o Finding) bool { return o.Code == f.Code }) {
			j.found = append(j.found, f)
		}
	case ok:
		return "auth_err", refusal{f.Code, f.Evidence, f.Fix}
	}
	return skip, refusal{}
}

func pamLocal(j *judge, _ rule) (string, refusal) {
	if _, ok, err := j.m.Root.Account(j.p.Name); err == nil && !ok {
		return no, refusal{CodePAM, "it lets accounts of /etc/passwd in only", "take it out"}
	}
	return yes, refusal{}
}

func pamUsertype(j *judge, r rule) (string, refusal) {
	least := 1000
	if n, err := strconv.Atoi(j.m.Root.LoginDefs()["UID_MIN"]); err == nil {
		least = n
	}
	regular := j.acct.UID >= least
	if slices.Contains(r.args, "isregular") != regular {
		return "auth_err", refusal{CodePAM, fmt.Sprintf("uid %d, UID_MIN %d", j.acct.UID, least), "take it out"}
	}
	return yes, refusal{}
}

func pamShells(j *judge, _ rule) (string, refusal) {
	b, err := j.m.Root.ReadFile("/etc/shells")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if strings.TrimSpace(line) == j.acct.Shell {
				return yes, refusal{}
			}
		}
	}
	return "auth_err", refusal{CodePAM, "/etc/shells does not have " + j.acct.Shell, "echo " + j.acct.Shell + " >>/etc/shells"}
}

func pamTOTP(j *judge, r rule) (string, refusal) {
	file := ".google_authenticator"
	if s := r.option("secret"); s != "" {
		file = strings.NewReplacer("${HOME}", j.acct.Home, "~", j.acct.Home, "${USER}", j.p.Name).Replace(s)
	}
	if !path.IsAbs(file) {
		file = path.Join(j.acct.Home, file)
	}
	if slices.Contains(r.args, "nullok") || j.m.Root.Exists(file) {
		return skip, refusal{}
	}
	return "auth_err", refusal{CodePAM, "it wants a second factor, and " + file + " does not exist", "add nullok to its line until the person has enrolled"}
}

// pamExec knows only what pam_exec cannot run; what the program says, it says to
// the person.
func pamExec(j *judge, r rule) (string, refusal) {
	for _, a := range r.args {
		if !path.IsAbs(a) {
			continue
		}
		if fi, err := j.m.Root.Stat(a); err != nil || fi.Mode()&0o111 == 0 {
			return "system_err", refusal{CodePAM, a + " is not there, or no program", "take the line out"}
		}
		return unknown, refusal{why: a}
	}
	return unknown, refusal{}
}

// pamTime names the first line of time.conf(5) that is about the person.
func pamTime(j *judge, _ rule) (string, refusal) {
	b, err := j.m.Root.ReadFile("/etc/security/time.conf")
	if err != nil {
		return yes, refusal{}
	}
	for line := range strings.Lines(strings.ReplaceAll(string(b), "\\\n", " ")) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Split(strings.TrimSpace(line), ";")
		if len(f) == 4 && timeList(f[0], j.service) && timeList(f[2], j.p.Name) {
			return unknown, refusal{why: "(/etc/security/time.conf has " + strconv.Quote(strings.TrimSpace(line)) + ")"}
		}
	}
	return yes, refusal{}
}

// timeList matches a logic list: names or patterns with |, & and !. Netgroups
// match.
func timeList(list, name string) bool {
	for alternative := range strings.SplitSeq(list, "|") {
		all := true
		for item := range strings.SplitSeq(alternative, "&") {
			pattern, not := strings.CutPrefix(strings.TrimSpace(item), "!")
			all = all && (strings.HasPrefix(pattern, "@") || wildcard(pattern, name) != not)
		}
		if all {
			return true
		}
	}
	return false
}

// pamLimits looks for limits that leave nothing to a log-in (limits.conf(5)):
// that of a user is stronger than that of a group, and this than that of all.
func pamLimits(j *judge, r rule) (string, refusal) {
	files := j.securityFiles(r.option("conf"), "limits")
	strength, lines := map[string]int{}, map[string]string{}
	for _, file := range files {
		b, err := j.m.Root.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "#")
			f := strings.Fields(line)
			if len(f) != 4 || !slices.Contains([]string{"maxlogins", "maxsyslogins", "nproc"}, f[2]) {
				continue
			}
			if s := j.limitsDomain(f[0]); s > 0 && s >= strength[f[2]] {
				strength[f[2]], lines[f[2]] = s, ""
				if f[3] == "0" {
					lines[f[2]] = file + " has " + strconv.Quote(strings.Join(f, " "))
				}
			}
		}
	}
	for _, item := range []string{"maxlogins", "maxsyslogins", "nproc"} {
		if why := lines[item]; why != "" && j.acct.UID != 0 {
			return no, refusal{CodePAM, why, "take the line out"}
		}
	}
	return skip, refusal{}
}

// securityFiles returns the files that a module of PAM reads: the one that its line
// names, else NAME.conf in /etc/security and those in NAME.d.
func (j *judge) securityFiles(named, name string) []string {
	if named != "" {
		return []string{named}
	}
	more, _ := j.m.Root.Glob("/etc/security/" + name + ".d/*.conf") // the pattern is valid
	return append([]string{"/etc/security/" + name + ".conf"}, more...)
}

// limitsDomain returns how strongly a domain is about the person; 0: it is not.
func (j *judge) limitsDomain(d string) int {
	group, isGroup := strings.CutPrefix(d, "@")
	switch {
	case d == j.p.Name:
		return 3
	case isGroup && slices.Contains(j.groups, group):
		return 2
	case d == "*":
		return 1
	}
	return 0
}

// pamSecureTTY refuses root where there is no terminal of the list.
func pamSecureTTY(j *judge, _ rule) (string, refusal) {
	if j.acct.UID == 0 && j.m.Root.Exists("/etc/securetty") {
		return unknown, refusal{}
	}
	return yes, refusal{}
}

func pamListfile(j *judge, r rule) (string, refusal) {
	file, sense := r.option("file"), r.option("sense")
	subjects := map[string][]string{"user": {j.p.Name}, "group": j.groups, "shell": {j.acct.Shell}, "rhost": {j.from}}[r.option("item")]
	if subjects == nil {
		return skip, refusal{}
	}
	b, err := j.m.Root.ReadFile(file)
	if err != nil {
		if r.option("onerr") == "succeed" {
			return yes, refusal{}
		}
		return "auth_err", refusal{CodePAM, file + " cannot be read", "echo " + j.p.Name + " >>" + file}
	}
	listed := slices.ContainsFunc(strings.Split(string(b), "\n"), func(l string) bool { return slices.Contains(subjects, strings.TrimSpace(l)) })
	if listed == (sense == "allow") {
		return yes, refusal{}
	}
	if sense == "allow" {
		return "auth_err", refusal{CodePAM, file + " does not have " + some(subjects), "echo " + j.p.Name + " >>" + file}
	}
	return "auth_err", refusal{CodePAM, file + " has " + some(subjects), "take " + j.p.Name + " out of " + file}
}

// pamSucceedIf judges the conditions of pam_succeed_if(8), of which all must
// hold. One that is not understood holds.
func pamSucceedIf(j *judge, r rule) (string, refusal) {
	var words []string
	for _, a := range r.args {
		if !slices.Contains([]string{"debug", "use_uid", "quiet", "quiet_fail", "quiet_success", "audit"}, a) {
			words = append(words, a)
		}
	}
	for ; len(words) >= 3; words = words[3:] {
		if !j.holds(words[0], words[1], words[2]) {
			return "auth_err", refusal{CodePAM, strings.Join(words[:3], " ") + " does not hold", "usermod or the line must change"}
		}
	}
	return yes, refusal{}
}

func (j *judge) holds(left, op, right string) bool {
	text := map[string]string{
		"user": j.p.Name, "uid": strconv.Itoa(j.acct.UID), "gid": strconv.Itoa(j.acct.GID),
		"shell": j.acct.Shell, "home": j.acct.Home, "service": j.service, "rhost": j.from,
	}
	have, known := text[left]
	if !known {
		return true
	}
	in := func(list []string) bool {
		return slices.ContainsFunc(strings.Split(right, ":"), func(g string) bool { return slices.Contains(list, g) })
	}
	a, err1 := strconv.Atoi(have)
	b, err2 := strconv.Atoi(right)
	numbers := err1 == nil && err2 == nil
	switch op {
	case "ingroup":
		return in(j.groups)
	case "notingroup":
		return !in(j.groups)
	case "=":
		return have == right
	case "!=":
		return have != right
	case "=~":
		return wildcard(right, have)
	case "!~":
		return !wildcard(right, have)
	case "in":
		return in([]string{have})
	case "notin":
		return !in([]string{have})
	case "eq":
		return !numbers || a == b
	case "ne":
		return !numbers || a != b
	case "lt", "<":
		return !numbers || a < b
	case "le", "<=":
		return !numbers || a <= b
	case "gt", ">":
		return !numbers || a > b
	case "ge", ">=":
		return !numbers || a >= b
	}
	return true
}

// pamAccess judges access.conf(5): the first line that fits decides.
func pamAccess(j *judge, r rule) (string, refusal) {
	files := j.securityFiles(r.option("accessfile"), "access")
	seps := ", \t"
	if s := r.option("listsep"); s != "" {
		seps = s
	}
	for _, file := range files {
		b, err := j.m.Root.ReadFile(file)
		if err != nil {
			continue // granted, unless another file refuses
		}
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			f := strings.SplitN(line, ":", 3)
			if len(f) < 3 || line[0] == '#' {
				continue
			}
			split := func(s string) []string {
				return strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(seps, c) })
			}
			if !matchList(split(f[1]), func(t string) bool { return j.accessUser(t, !slices.Contains(r.args, "nodefgroup")) }) || !matchList(split(f[2]), j.accessOrigin) {
				continue
			}
			if strings.TrimSpace(f[0]) == "+" {
				return yes, refusal{}
			}
			return no, refusal{CodePAM, file + " has " + strconv.Quote(line), "add a line in front of it: +:" + j.p.Name + ":ALL"}
		}
	}
	return yes, refusal{}
}

// matchList matches a list with EXCEPT.
func matchList(list []string, match func(string) bool) bool {
	i := slices.Index(list, "EXCEPT")
	if i < 0 {
		return slices.ContainsFunc(list, match)
	}
	return slices.ContainsFunc(list[:i], match) && !matchList(list[i+1:], match)
}

func (j *judge) accessUser(token string, groups bool) bool {
	if g, ok := strings.CutPrefix(token, "("); ok {
		return slices.Contains(j.groups, strings.TrimSuffix(g, ")"))
	}
	return token == "ALL" || token == j.p.Name || groups && slices.Contains(j.groups, token)
}

func (j *judge) accessOrigin(token string) bool {
	if token == "ALL" {
		return true
	}
	addr, err := netip.ParseAddr(j.from)
	if n, perr := netip.ParsePrefix(token); perr == nil && err == nil {
		return n.Contains(addr)
	}
	return token == j.from || strings.HasSuffix(token, ".") && strings.HasPrefix(j.from, token)
}

// pamFaillock asks faillock for the failures of the person. It is checked
// before the password, with the argument preauth, or afterwards without one.
func pamFaillock(j *judge, r rule) (string, refusal) {
	if r.kind != "auth" || slices.Contains(r.args, "authsucc") {
		return yes, refusal{}
	}
	if slices.Contains(r.args, "authfail") {
		return "auth_err", refusal{CodePAM, "the stack reaches the module for wrong passwords", "mend the order of the stack"}
	}
	deny, unlock := j.faillock(r, "deny", 3), j.faillock(r, "unlock_time", 600)
	args := []string{"--user", j.p.Name}
	if dir := r.option("dir"); dir != "" {
		args = append([]string{"--dir", dir}, args...)
	}
	out, err := j.run1(j.ctx, nil, "faillock", args...)
	if err != nil {
		return yes, refusal{} // without the tool there is no tally that anybody could read
	}
	failures, last := 0, time.Time{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || f[len(f)-1] != "V" {
			continue
		}
		failures++
		if t, err := time.ParseInLocation(time.DateTime, f[0]+" "+f[1], time.Local); err == nil && t.After(last) {
			last = t
		}
	}
	if failures < deny || unlock > 0 && j.now.Sub(last) > time.Duration(unlock)*time.Second {
		return yes, refusal{}
	}
	return "auth_err", refusal{CodeLocked, fmt.Sprintf("faillock --user %s has %d failures, and %d lock the account", j.p.Name, failures, deny), "faillock --user " + j.p.Name + " --reset"}
}

// faillock returns a number of faillock's configuration; "never" is 0.
func (j *judge) faillock(r rule, name string, def int) int {
	value := r.option(name)
	if b, err := j.m.Root.ReadFile("/etc/security/faillock.conf"); err == nil && value == "" {
		for line := range strings.Lines(string(b)) {
			k, v, _ := strings.Cut(line, "=")
			if strings.TrimSpace(k) == name {
				value = strings.TrimSpace(v)
			}
		}
	}
	if value == "never" {
		return 0
	}
	if n, err := strconv.Atoi(value); err == nil {
		return n
	}
	return def
}

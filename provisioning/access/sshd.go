package access

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// sshd asks sshd what it does with the person, from the Internet and from the
// network of the machine, and reports whether it uses PAM.
func (c *check) sshd(ctx context.Context) (pam bool) {
	froms := []string{provisioning.FromInternet, provisioning.FromNetwork}
	var found [][]Finding
	pam = true
	for _, from := range froms {
		a, err := c.m.AskSSHD(ctx, provisioning.Login{User: c.p.Name, From: from})
		switch {
		case host.NotFound(err):
			c.server(ctx, "no program sshd is installed")
			return pam
		case err != nil:
			c.add(Finding{Code: CodeSSHD, Evidence: "sshd -T: " + err.Error(), Fix: "sshd -t shows the line; mend it, then: systemctl restart ssh sshd"})
			return pam
		}
		pam, c.listen = a.Value("usepam") != "no", listenAt(a)
		j := &judge{check: c, ctx: ctx, a: a, from: from}
		j.run(ctx)
		found = append(found, j.found)
	}
	for i, list := range found {
		for _, f := range list {
			same := slices.ContainsFunc(found[1-i], func(o Finding) bool { return o.Code == f.Code && o.Evidence == f.Evidence })
			switch {
			case same && i == 0:
				c.add(f)
			case !same:
				f.From = froms[i]
				f.Evidence += " (log-ins from " + map[string]string{provisioning.FromInternet: "the Internet", provisioning.FromNetwork: "a private network"}[f.From] + ", asked as " + f.From + ")"
				c.add(f)
			}
		}
	}
	return pam
}

// A judge judges sshd's answer for one origin.
type judge struct {
	*check
	ctx   context.Context //nolint:containedctx // of the one call of run, for the modules of PAM
	a     provisioning.SSHDAnswer
	from  string
	found []Finding

	service string // of PAM, whose stack is walked through
}

func (j *judge) add(code, fix string, shuts []Way, format string, args ...any) {
	j.found = append(j.found, Finding{Code: code, Shuts: shuts, Evidence: fmt.Sprintf(format, args...), Fix: fix})
}

var login = []Way{Key, Password}

func (j *judge) run(ctx context.Context) {
	j.wrappers()
	j.lists()
	j.methods()
	j.session()
	j.keyTypes()
	j.keyFiles(ctx)
	j.revoked(ctx)
	if j.a.Value("usepam") != "no" {
		j.pam()
	} else if f, ok := j.nologin(false); ok {
		j.found = append(j.found, f)
	}
}

// lists judges AllowUsers and its relatives in sshd's order (allowed_user in
// its auth.c).
func (j *judge) lists() {
	const where = "; grep -rE '^ *(Allow|Deny)(Users|Groups)' /etc/ssh shows the line"
	if pat, ok := matchUser(j.a["denyusers"], j.p.Name, j.from); ok {
		j.add(CodeDenied, "take "+j.p.Name+" out of DenyUsers"+where, login, "sshd -T: DenyUsers %s", pat)
	}
	if allow := j.a["allowusers"]; len(allow) > 0 {
		if _, ok := matchUser(allow, j.p.Name, j.from); !ok {
			j.add(CodeDenied, "add "+j.p.Name+" to AllowUsers"+where, login, "sshd -T: AllowUsers has %s only", some(allow))
		}
	}
	if pat, ok := matchGroup(j.a["denygroups"], j.groups); ok {
		j.add(CodeDenied, "take the group out of DenyGroups"+where, login, "sshd -T: DenyGroups %s; id -Gn: %s", pat, some(j.groups))
	}
	if allow := j.a["allowgroups"]; len(allow) > 0 {
		if _, ok := matchGroup(allow, j.groups); !ok {
			j.add(CodeDenied, "usermod -aG "+allow[0]+" "+j.p.Name, login, "sshd -T: AllowGroups has %s only; id -Gn: %s", some(allow), some(j.groups))
		}
	}
	if j.acct.UID == 0 {
		switch v := j.a.Value("permitrootlogin"); v {
		case "no", "forced-commands-only":
			j.add(CodeDenied, "set PermitRootLogin yes", login, "sshd -T: PermitRootLogin %s", v)
		case "prohibit-password", "without-password":
			j.add(CodeDenied, "set PermitRootLogin yes", []Way{Password}, "sshd -T: PermitRootLogin %s", v)
		}
	}
}

// some lists a few words.
func some(words []string) string {
	if len(words) > 8 {
		return strings.Join(words[:8], " ") + " …"
	}
	return strings.Join(words, " ")
}

// methods judges which ways sshd accepts, and which it wants together.
func (j *judge) methods() {
	on := func(key string) bool { return j.a.Value(key) == "yes" }
	kbd := on("kbdinteractiveauthentication") || on("challengeresponseauthentication")
	enabled := map[string]bool{
		"publickey": on("pubkeyauthentication"), "password": on("passwordauthentication"),
		"keyboard-interactive": kbd && on("usepam"), "none": false,
	}
	has := map[string]bool{"publickey": j.p.Key, "password": j.p.Password, "keyboard-interactive": j.p.Password}
	keys := max(1, len(j.keys))
	lists := j.a.Words("authenticationmethods")
	if len(lists) == 0 || lists[0] == "any" {
		lists = []string{"publickey", "password", "keyboard-interactive"}
	}
	open := map[Way]bool{}
	for _, list := range lists {
		fine, used, n := true, map[Way]bool{}, 0
		for method := range strings.SplitSeq(list, ",") {
			method, _, _ = strings.Cut(method, ":")
			fine = fine && enabled[method] && has[method]
			way := Password
			if method == "publickey" {
				way = Key
				n++
			}
			used[way] = true
		}
		if fine && n <= keys {
			maps.Copy(open, used)
		}
	}
	for _, w := range j.p.Ways() {
		if open[w] {
			continue
		}
		keyword := map[Way]string{Key: "PubkeyAuthentication", Password: "PasswordAuthentication"}[w]
		fix := "set " + keyword + " yes; grep -ri " + keyword + " /etc/ssh shows the line"
		if v := j.a.Value("authenticationmethods"); v != "" && v != "any" {
			fix = "change AuthenticationMethods; grep -ri AuthenticationMethods /etc/ssh shows the line"
		}
		j.add(CodeMethod, fix, []Way{w}, "sshd -T: PubkeyAuthentication %s, PasswordAuthentication %s, KbdInteractiveAuthentication %s, AuthenticationMethods %s",
			j.a.Value("pubkeyauthentication"), j.a.Value("passwordauthentication"), cmp.Or(j.a.Value("kbdinteractiveauthentication"), j.a.Value("challengeresponseauthentication")), cmp.Or(j.a.Value("authenticationmethods"), "any"))
	}
}

// session judges what a log-in gets.
func (j *judge) session() {
	if cmd := j.a.Value("forcecommand"); cmd != "" && cmd != "none" {
		name, _, _ := strings.Cut(cmd, " ")
		j.add(CodeSession, "grep -ri ForceCommand /etc/ssh shows the line", login, "sshd -T: ForceCommand %s: no shell", name)
	}
	if j.a.Value("permittty") == "no" {
		j.add(CodeSession, "set PermitTTY yes", nil, "sshd -T: PermitTTY no: commands run, but without a terminal")
	}
	if n, err := strconv.Atoi(j.a.Value("maxsessions")); err == nil && n == 0 {
		j.add(CodeSession, "set MaxSessions 10", login, "sshd -T: MaxSessions 0: no shell")
	}
	if dir := j.a.Value("chrootdirectory"); dir != "" && dir != "none" {
		j.chroot(j.expand(dir))
	}
}

// chroot judges a ChrootDirectory: every directory on the way must be root's
// alone (safely_chroot in sshd's session.c), and the shell must be in it.
func (j *judge) chroot(dir string) {
	for d := dir; ; d = path.Dir(d) {
		uid, mode, err := j.look(d)
		if err != nil || uid != 0 || mode&0o022 != 0 {
			j.add(CodeSession, "chown root: "+d+" && chmod go-w "+d+"; or take ChrootDirectory out", login, "sshd -T: ChrootDirectory %s: %s must be root's and writable by root alone", dir, d)
			return
		}
		if d == "/" {
			break
		}
	}
	if sh := cmp.Or(j.acct.Shell, "/bin/sh"); !j.m.Root.Exists(path.Join(dir, sh)) {
		j.add(CodeSession, "take ChrootDirectory out", login, "sshd -T: ChrootDirectory %s: there is no %s in it", dir, sh)
	}
}

// expand replaces the % tokens of sshd_config(5) that name an account.
func (j *judge) expand(s string) string {
	return strings.NewReplacer("%%", "%", "%h", j.acct.Home, "%u", j.p.Name, "%U", strconv.Itoa(j.acct.UID)).Replace(s)
}

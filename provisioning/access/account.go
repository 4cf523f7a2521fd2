package access

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// sameAccount says if the name means another account to the C library than to
// the files that provisioning has changed.
func (c *check) sameAccount() {
	local, ok, err := c.m.Root.Account(c.p.Name)
	if err == nil && ok && local.UID != c.acct.UID {
		c.add(Finding{
			Code: CodeName, Shuts: []Way{Key, Password, Root},
			Evidence: fmt.Sprintf("getent passwd %s has uid %d, /etc/passwd has %d", c.p.Name, c.acct.UID, local.UID),
			Fix:      "put files first in the line passwd: of /etc/nsswitch.conf",
		})
	}
}

// aging is a line of shadow(5). -1 is an empty field; days are counted from
// 1970.
type aging struct {
	field                         string
	changed, max, inactive, until int
}

func (c *check) aging(ctx context.Context) (aging, bool) {
	out, err := c.run1(ctx, nil, "getent", "shadow", c.p.Name)
	if err != nil {
		b, rerr := c.m.Root.ReadFile(c.m.Options.Shadow)
		if rerr != nil {
			return aging{}, false
		}
		out = string(b)
	}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 8 || f[0] != c.p.Name {
			continue
		}
		day := func(s string) int {
			if n, err := strconv.Atoi(s); err == nil {
				return n
			}
			return -1
		}
		return aging{field: f[1], changed: day(f[2]), max: day(f[4]), inactive: day(f[6]), until: day(f[7])}, true
	}
	return aging{}, false
}

// hasHash reports whether some password matches the field.
func (a aging) hasHash() bool {
	return a.field != "" && a.field[0] != '*' && a.field[0] != '!' && a.field != "x"
}

// account judges the dates of the account as pam_unix does
// (check_shadow_expiry in its passverify.c), and its lock as sshd does without
// PAM.
func (c *check) account(ctx context.Context, pam bool) {
	a, ok := c.aging(ctx)
	if !ok {
		return // accounts of a directory have no such line
	}
	both, name := []Way{Key, Password}, c.p.Name
	if c.p.Password && !a.hasHash() {
		c.add(Finding{Code: CodeLocked, Shuts: []Way{Password}, Evidence: "no password matches the field of " + name + " in the shadow file", Fix: "passwd " + name})
	}
	if !pam && strings.HasPrefix(a.field, "!") {
		c.add(Finding{Code: CodeLocked, Shuts: both, Evidence: "the account is locked (!), and UsePAM no makes sshd refuse its keys, too", Fix: "usermod -p '*' " + name})
	}
	today := int(c.now.Unix() / 86400)
	switch {
	case a.until >= 0 && today >= a.until:
		c.add(Finding{Code: CodeAccount, Shuts: both, Evidence: "the account expired on " + day(a.until), Fix: "chage -E -1 " + name})
	case a.changed == 0:
		c.add(Finding{Code: CodeChange, Shuts: both, Evidence: "the password must be changed at the next log-in (day of the last change 0)", Fix: "chage -d \"$(date +%F)\" " + name})
	case a.changed < 0 || a.max < 0 || today < a.changed:
	case a.inactive >= 0 && today-a.changed > a.max+a.inactive:
		c.add(Finding{Code: CodeAccount, Shuts: both, Evidence: fmt.Sprintf("the password is older than %d days, and %d days after that the account was closed", a.max, a.inactive), Fix: "chage -I -1 -d \"$(date +%F)\" " + name})
	case today-a.changed > a.max:
		c.add(Finding{Code: CodeChange, Shuts: both, Evidence: fmt.Sprintf("the password is older than %d days and must be changed first", a.max), Fix: "chage -d \"$(date +%F)\" " + name})
	case !a.hasHash() && a.max < 10000:
		c.add(Finding{Code: CodeChange, Evidence: fmt.Sprintf("on %s a password must be changed that nobody has", day(a.changed+a.max)), Fix: "chage -M -1 -I -1 " + name})
	}
}

func day(n int) string { return time.Unix(int64(n)*86400, 0).UTC().Format(time.DateOnly) }

// shell lets the shell run a command, as sshd does for a log-in with a
// command.
func (c *check) shell(ctx context.Context) {
	sh := c.acct.Shell
	if sh == "" {
		sh = "/bin/sh"
	}
	if _, err := c.run1(ctx, &c.person, sh, "-c", "exit 0"); err != nil {
		c.add(Finding{
			Code: CodeShell, Shuts: []Way{Key, Password}, Evidence: sh + " -c 'exit 0' as " + c.p.Name + ": " + err.Error(),
			Fix: "usermod -s /bin/sh " + c.p.Name,
		})
	}
}

// awaitBoot waits until the machine lets users in: systemd removes
// /run/nologin with systemd-user-sessions.service, which may wait for a mount
// from the network.
func (c *check) awaitBoot(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for c.m.Root.Exists("/run/nologin") {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// nologin says if a file keeps users out; both are read by sshd without PAM
// and by pam_nologin.
func (c *check) nologin() (Finding, bool) {
	if c.acct.UID == 0 {
		return Finding{}, false
	}
	for name, fix := range map[string]string{
		"/etc/nologin": "rm /etc/nologin",
		"/run/nologin": "systemctl start systemd-user-sessions.service; systemctl list-jobs shows what it waits for",
	} {
		if c.m.Root.Exists(name) {
			return Finding{Code: CodeNologin, Shuts: []Way{Key, Password}, Evidence: name + " exists, so all users but root are refused", Fix: fix}, true
		}
	}
	return Finding{}, false
}

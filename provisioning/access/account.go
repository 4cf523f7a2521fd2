package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
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

// unknownToPAM says if the C library finds no password entry of an account
// that is in the files: pam_unix then refuses every log-in.
func (c *check) unknownToPAM(ctx context.Context) bool {
	_, err := c.run1(ctx, nil, "getent", "shadow", c.p.Name)
	ex, ended := errors.AsType[*host.ExitError](err)
	if !ended || ex.Code != 2 { // 2: not found
		return false
	}
	_, found, err := c.m.Root.PasswordField(c.m.Options.Shadow, c.p.Name)
	return err == nil && found
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
	if pam && c.unknownToPAM(ctx) {
		c.add(Finding{
			Code: CodeName, Shuts: []Way{Key, Password, Root}, Evidence: "getent shadow " + name + ": not found, although " + c.m.Options.Shadow + " has it",
			Fix: "put files first in the line shadow: of /etc/nsswitch.conf",
		})
	}
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

// shellSaid is what the shell is told to say.
const shellSaid = "azguest-log-in"

// shell lets the shell run a command, as sshd does for a log-in with a command:
// bash then reads its start-up files, which may end it. One that ends only such
// log-ins, as "case $- in *i*) ;; *) exit;; esac" does, shuts nobody out.
func (c *check) shell(ctx context.Context) {
	sh := cmp.Or(c.acct.Shell, "/bin/sh")
	ask := func(args ...string) string {
		res, err := c.m.Run.Run(ctx, host.Cmd{
			Name: sh, Args: append(args, "echo "+shellSaid), As: &c.person, Timeout: askTimeout,
			Env: []string{"LC_ALL=C", "SHLVL=0", "SSH_CLIENT=" + provisioning.FromInternet + " 22 22", "SSH_CONNECTION=" + provisioning.FromInternet + " 22 " + provisioning.FromNetwork + " 22"},
		})
		switch {
		case strings.Contains(string(res.Stdout), shellSaid):
			return ""
		case err != nil:
			return err.Error()
		}
		return "ends without a word"
	}
	why := ask("-c")
	if why == "" {
		return
	}
	f := Finding{
		Code: CodeShell, Shuts: login, Evidence: sh + " -c 'echo …' as " + c.p.Name + ", as sshd runs it: " + why,
		Fix: "usermod -s /bin/sh " + c.p.Name + "; or mend the start-up files of the shell (~/.bashrc, /etc/bash.bashrc)",
	}
	if ask("-i", "-c") == "" {
		f.Shuts = nil
		f.Evidence += "; a log-in without a command works"
	}
	c.add(f)
}

// awaitBoot waits until the machine lets users in: systemd makes /run/nologin
// early in the boot and removes it with systemd-user-sessions.service, which may
// wait for a mount from the network. Nothing is waited for where nothing will
// remove the file.
func (c *check) awaitBoot(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, bootPatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	if !c.m.Root.Exists(bootNologin) {
		return
	}
	c.booting(ctx)
	for c.passes && c.m.Root.Exists(bootNologin) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const (
	// imageNologin refuses users until somebody removes it. pam_nologin and,
	// without PAM, sshd itself read it.
	imageNologin = "/etc/nologin"
	// bootNologin refuses users while the machine boots, and before it is shut
	// down. Only pam_nologin reads it.
	bootNologin = "/run/nologin"
)

// booting finds out whether bootNologin will go by itself: systemd is going to
// start the unit that removes it.
func (c *check) booting(ctx context.Context) {
	const unit = "systemd-user-sessions.service"
	out, err := c.run1(ctx, nil, "systemctl", "show", "-p", "ActiveState", "-p", "Job", unit)
	if err != nil {
		return
	}
	for line := range strings.Lines(out) {
		switch k, v, _ := strings.Cut(strings.TrimSpace(line), "="); {
		case k == "ActiveState" && v == "activating", k == "Job" && v != "" && v != "0":
			c.passes = true
		}
	}
	if !c.passes {
		return
	}
	// What it waits for is what runs now.
	if out, err = c.run1(ctx, nil, "systemctl", "list-jobs", "--no-legend", "--no-pager"); err != nil {
		return
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "running" && len(c.jobs) < 5 {
			c.jobs = append(c.jobs, f[1])
		}
	}
}

// nologin says if a file keeps users out. One that goes away by itself, shuts
// nothing. pam is whether pam_nologin asks.
func (c *check) nologin(pam bool) (Finding, bool) {
	f := Finding{Code: CodeNologin, Shuts: login}
	switch {
	case c.acct.UID == 0:
		return Finding{}, false
	case c.m.Root.Exists(imageNologin):
		f.Evidence, f.Fix = imageNologin+" exists, so all users but root are refused", "rm "+imageNologin
	case !pam || !c.m.Root.Exists(bootNologin):
		return Finding{}, false
	case c.passes:
		f.Shuts = nil
		f.Evidence = bootNologin + " exists: all users but root are refused until the machine has booted"
		if len(c.jobs) > 0 {
			f.Evidence += "; systemctl list-jobs: running are " + strings.Join(c.jobs, ", ")
		}
		f.Fix = "wait; systemctl list-jobs shows what the boot waits for"
	default:
		f.Evidence = bootNologin + " exists, and systemd-user-sessions.service, which removes it, is not going to be started: all users but root are refused until the next boot"
		f.Fix = "systemctl restart systemd-user-sessions.service, or, if a shutdown is planned: shutdown -c"
	}
	return f, true
}

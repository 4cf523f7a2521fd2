package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// TestJustInTimeUsers: somebody who has lost access gets a new, short-lived
// account without a reboot; it is deleted at its expiry time, without a new
// goal state (protocol/SPEC.md §12.2).
func TestJustInTimeUsers(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	p := c.StartAgent(t)
	c.WaitReady(t)
	c.Sh(t, "useradd -m -c Somebody taken && echo taken:x | chpasswd -e")
	before := c.Sh(t, "getent shadow taken; getent passwd taken")

	users := []fabric.User{
		{Name: "jit1", Password: "Pass w0rd: ünï"},
		{Name: "jit2", Password: "Pass w0rd 2", Expires: time.Now().Add(time.Hour)},
		{Name: "taken", Password: "Not y0urs", Expires: time.Now().Add(time.Hour)},
		{Name: "late", Password: "Too late 1", Expires: time.Now().Add(-time.Hour)},
	}
	var right string
	// How long an account must live to be seen depends on the speed of the
	// machine.
	for life := 20 * time.Second; ; life *= 3 {
		over := time.Now().Add(life)
		users[0].Expires = over
		now := slices.Clone(users)
		c.VM.Configure(func(cfg *fabric.Config) { cfg.Users = now })
		await(t, "both accounts", func() bool {
			got := c.Sh(t, "getent passwd jit1 jit2 || :; sudo -l -U jit2 2>/dev/null | tail -n 1")
			return strings.Contains(got, "jit1:") && strings.Contains(got, "(ALL) ALL") || time.Now().After(over)
		})
		right = c.Sh(t, `perl -e '$h = (getpwnam "jit1")[1]; print crypt("Pass w0rd: \xc3\xbcn\xc3\xaf", $h) eq $h ? "right" : "wrong"'; chage -l jit2 | grep -c never || :`)
		if time.Now().Before(over) {
			break
		}
	}
	if !strings.HasPrefix(right, "right") {
		t.Errorf("password of jit1: %s", right)
	}
	if got := c.Sh(t, "getent shadow taken; getent passwd taken; grep -c taken /etc/sudoers.d/waagent || :"); got != before+"\n0" {
		t.Errorf("an account of somebody else was touched: %q became %q", before, got)
	}
	if got := c.Sh(t, "getent passwd late || echo none"); got != "none" {
		t.Errorf("an expired user was added: %s", got)
	}
	await(t, "the end of jit1's time", func() bool {
		return c.Sh(t, "getent passwd jit1 || test -d /home/jit1 && echo there || echo gone") == "gone"
	})
	if got := c.Sh(t, "getent passwd jit2 | cut -d: -f1; visudo -cq && echo valid"); got != "jit2\nvalid" {
		t.Errorf("after jit1 went: %q", got)
	}
	// Accounts also expire while the host does not answer and the agent has
	// been restarted.
	var over time.Time
	for life, made := 15*time.Second, false; !made; life *= 3 {
		over = time.Now().Add(life).Truncate(time.Second) // with the precision of the document
		now := []fabric.User{{Name: "jit3", Password: "Pass w0rd 3", Expires: over}, users[1]}
		c.VM.Configure(func(cfg *fabric.Config) { cfg.Users = now })
		await(t, "a third account", func() bool {
			made = c.Sh(t, "getent passwd jit3 || :") != ""
			return made || time.Now().After(over)
		})
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fabric.Fail(fabric.Fault{Kind: "*", Reset: true}); err != nil {
		t.Fatal(err)
	}
	c.StartAgent(t)
	await(t, "the end of jit3's time", func() bool { return c.Sh(t, "getent passwd jit3 || echo gone") == "gone" })
	if early := time.Until(over); early > 0 {
		t.Errorf("jit3 was removed %v too early", early)
	}
	if got := c.Sh(t, "getent passwd jit2 | cut -d: -f1"); got != "jit2" {
		t.Errorf("an account whose time is not over went while the host was away: %q", got)
	}
	c.Fabric.RemoveFault(0)
	// Without the document there are no accounts.
	c.VM.Configure(func(cfg *fabric.Config) { cfg.Users = nil })
	await(t, "the end of jit2", func() bool { return c.Sh(t, "getent passwd jit2 || echo gone") == "gone" })
	if got := c.Sh(t, "getent shadow taken; getent passwd taken"); got != before {
		t.Errorf("an account of somebody else was touched: %q became %q", before, got)
	}
	if strings.Contains(c.Log.String(), "w0rd") {
		t.Error("a password is in the log")
	}
	c.objections(t)
}

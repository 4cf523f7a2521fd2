package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// TestFirewallHasNoGap: while the agent is killed and restarted repeatedly, an
// ordinary user who keeps trying never gets a connection to the platform, and
// root always does. AZGUEST_RESTARTS is the number of restarts.
func TestFirewallHasNoGap(t *testing.T) {
	t.Parallel()
	restarts := 25
	if n, err := strconv.Atoi(os.Getenv("AZGUEST_RESTARTS")); err == nil {
		restarts = n
	}
	c := newAgentCloud(t, blank())
	c.Sh(t, "nft add table ip admin && mkdir -p /etc/waagent.conf.d && echo OS.EnableFirewall=y >/etc/waagent.conf.d/firewall.conf")
	p := c.StartAgent(t)
	c.WaitReady(t)
	await(t, "the rules", func() bool { return strings.Contains(c.Sh(t, "nft list tables"), "ip azguest") })
	try := `i=0; j=0
while [ ! -e /tmp/stop ]; do
	if timeout $2 bash -c "exec 3<>/dev/tcp/168.63.129.16/$1" 2>/dev/null; then i=$((i+1)); fi
	j=$((j+1))
done
echo $i $j`
	c.Sh(t, "chmod 1777 /tmp; rm -f /tmp/stop")
	// A user that must succeed gets all the time that a busy machine may need.
	start := func(as []string, port, patience string) (*sandbox.Process, *machine.Buffer) {
		out := &machine.Buffer{}
		q, err := c.Start(sandbox.Cmd{Args: append(as, "sh", "-c", try, "try", port, patience), Stdout: out, Stderr: out})
		if err != nil {
			t.Fatal(err)
		}
		return q, out
	}
	nobody := []string{"setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"}
	user, userOut := start(nobody, "80", "0.3")
	plugin, pluginOut := start(nobody, "32526", "0.3")
	root, rootOut := start([]string{"setpriv", "--reuid=0"}, "80", "30")
	for range restarts {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		p = c.StartAgent(t)
		pid := strconv.Itoa(p.PID)
		// The status of the agent that was killed is still there.
		await(t, "the agent's first look at the rules", func() bool {
			return c.shown().Firewall.Verified.After(began) || !alive(pid)
		})
	}
	c.Sh(t, "touch /tmp/stop")
	for _, q := range []*sandbox.Process{user, plugin, root} {
		_ = q.Wait()
	}
	for who, out := range map[string]*machine.Buffer{"uid 1234 to the WireServer": userOut, "uid 1234 to the HostGAPlugin": pluginOut} {
		f := strings.Fields(out.String())
		if len(f) != 2 || f[0] != "0" || f[1] == "0" {
			t.Errorf("%s: %q (connections, tries), want none of several", who, out.String())
		}
	}
	if f := strings.Fields(rootOut.String()); len(f) != 2 || f[0] != f[1] || f[0] == "0" {
		t.Errorf("root: %q (connections, tries), want all", rootOut.String())
	}
	// The last agent may still be replacing its table, with a stand-in beside
	// it; a stand-in that a killed agent has left is removed by the next.
	await(t, "the agent's table and no stand-in", func() bool {
		return c.Sh(t, "nft list tables | sort") == "table ip admin\ntable ip azguest"
	})
	// Another firewall that loads its rules deletes the agent's. They are
	// restored at once, not at the next check, which is five minutes away.
	c.Sh(t, "nft flush ruleset; nft add table ip admin")
	await(t, "the rules after another firewall's reload", func() bool { return strings.Contains(c.Sh(t, "nft list tables"), "ip azguest") })
	c.screen(t, 0, "ordinary users: blocked")
	// Switched off, the rules are removed at the next start.
	c.Sh(t, "echo OS.EnableFirewall=n >/etc/waagent.conf.d/firewall.conf")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	c.StartAgent(t)
	await(t, "the end of the rules", func() bool { return c.Sh(t, "nft list tables") == "table ip admin" })
}

func alive(pid string) bool {
	_, err := os.Stat("/proc/" + pid)
	return err == nil
}

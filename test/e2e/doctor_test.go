package e2e

import (
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// TestDoctor injects typical faults of machines and runs agentctl doctor. Each
// fault must be reported with a code that agentctl explain knows, and no longer
// be reported once it is fixed.
func TestDoctor(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	c.Sh(t, `mkdir -p /var/lib/waagent && mount -t tmpfs -o size=80m,nr_inodes=2000,mode=700 tmpfs /var/lib/waagent
echo nameserver 192.0.2.53 >/etc/resolv.conf
cp /usr/sbin/azguest /usr/sbin/azguest.new`)
	p := c.StartAgent(t)
	c.WaitReady(t)
	restart := func(t testing.TB) {
		_ = p.Kill() // it may have ended
		p = c.StartAgent(t)
		await(t, "the agent", func() bool {
			r, _ := c.Run(t.Context(), "agentctl", "status", "--wait=ready", "--timeout", "30s")
			return r.Code < 3
		})
	}
	// Findings that this machine always has.
	base := c.codes(t)
	if strings.Contains(base, " error ") {
		t.Fatalf("before the first fault: %s", base)
	}
	const platform = "168.63.129.16"
	drop := func(rule string) string {
		return "nft add table ip admin; nft add chain ip admin o '{ type filter hook output priority 0; }'; nft add rule ip admin o " + rule
	}
	const undrop = "nft delete table ip admin"
	for _, tc := range []struct {
		name, fault, want, undo string
		set                     *fabric.Fault
		again                   bool // the agent has to be restarted before and after
	}{
		{name: "no route", fault: "ip route save table main >/tmp/routes; ip route flush table main", want: "route error AZ-NET-NOROUTE", undo: "ip route restore </tmp/routes"},
		{name: "administrator's rule", fault: drop("ip daddr " + platform + " drop"), want: "wireserver error AZ-FW-BLOCKED", undo: undrop},
		{name: "administrator's rule about one port", fault: drop("ip daddr " + platform + " tcp dport 32526 drop"), want: "hostplugin warn AZ-FW-BLOCKED", undo: undrop},
		{name: "administrator's rule about the metadata", fault: drop("ip daddr 169.254.169.254 reject with tcp reset"), want: "imds warn AZ-FW-BLOCKED", undo: undrop},
		{name: "HostGAPlugin silent", set: &fabric.Fault{Kind: "hostga.*", Reset: true}, want: "hostplugin warn AZ-NET-HOSTPLUGIN"},
		{name: "metadata silent", set: &fabric.Fault{Kind: fabric.Metadata, Reset: true}, want: "imds warn AZ-NET-IMDS"},
		{name: "WireServer silent", set: &fabric.Fault{Kind: "*", Reset: true}, want: "wireserver error AZ-NET-WIRESERVER"},
		{name: "proxy that catches everything", set: &fabric.Fault{Kind: "*", Status: 407}, want: "wireserver error AZ-NET-PROXY"},
		{name: "clock", set: &fabric.Fault{Kind: "*", Set: map[string]string{"Date": "Wed, 25 Nov 2020 12:00:00 GMT"}}, want: "time warn AZ-CLOCK-SKEW"},
		{name: "no name server", fault: "cp /etc/resolv.conf /tmp/; : >/etc/resolv.conf", want: "names warn AZ-NET-DNS", undo: "cat /tmp/resolv.conf >/etc/resolv.conf"},
		{name: "disk full", fault: "head -c 100m /dev/zero >/var/lib/waagent/big 2>/dev/null || :", want: "disk error AZ-DISK-FULL", undo: "rm /var/lib/waagent/big"},
		{name: "disk low", fault: "head -c 60m /dev/zero >/var/lib/waagent/big", want: "disk warn AZ-DISK-LOW", undo: "rm /var/lib/waagent/big"},
		{name: "no inodes", fault: "mkdir /var/lib/waagent/many; cd /var/lib/waagent/many; seq 3000 | xargs touch 2>/dev/null || :", want: "disk error AZ-DISK-INODES", undo: "rm -r /var/lib/waagent/many"},
		{name: "read-only", fault: "mount -o remount,ro /var/lib/waagent", want: "mounts error AZ-DISK-READONLY", undo: "mount -o remount,rw /var/lib/waagent"},
		{name: "noexec", fault: "mount -o remount,noexec /var/lib/waagent", want: "mounts error AZ-EXEC-NOEXEC", undo: "mount -o remount,exec /var/lib/waagent"},
		{name: "open to others", fault: "chmod 777 /var/lib/waagent", want: "permissions error AZ-DISK-PERM", undo: "chmod 700 /var/lib/waagent"},
		{name: "disk of another machine", fault: "cp /var/lib/waagent/provisioned /tmp/; echo 11111111-2222-3333-4444-555555555555 >/var/lib/waagent/provisioned", want: "identity warn AZ-VM-CLONED", undo: "cp /tmp/provisioned /var/lib/waagent/"},
		{name: "told to do nothing", fault: "touch /var/lib/waagent/disable_agent", want: "switch error AZ-AGENT-DISABLED", undo: "rm /var/lib/waagent/disable_agent"},
		{name: "misspelt key", fault: "echo Provisoning.Agent=auto >/etc/waagent.conf.d/y.conf", want: "configuration warn AZ-CONF-UNKNOWN", undo: "rm /etc/waagent.conf.d/y.conf"},
		{name: "bad value", fault: "echo Status.HeartbeatPeriod=often >/etc/waagent.conf.d/y.conf", want: "configuration warn AZ-CONF-VALUE", undo: "rm /etc/waagent.conf.d/y.conf"},
		{name: "classic agent beside us", fault: "mkdir -p /opt/x && echo 'sleep 600' >/opt/x/waagent && (setsid sh /opt/x/waagent -daemon >/dev/null 2>&1 </dev/null & echo $! >/tmp/other)", want: "other agent error AZ-AGENT-OTHER", undo: "kill $(pgrep -f '[x]/waagent -daemon')"},
		{name: "replaced on the disk", fault: "mv /usr/sbin/azguest /usr/sbin/azguest.old; cp /usr/sbin/azguest.new /usr/sbin/azguest; rm /usr/sbin/azguest.old", want: "binary warn AZ-AGENT-OLDBINARY", again: true},
		{name: "status refused", set: &fabric.Fault{Kind: "*.[ps][tu]*t*", Status: 403}, fault: "agentctl report || :", want: "platform warn AZ-PLAT-REJECTED"},
		{name: "masked", fault: "mkdir -p /run/systemd/system /etc/systemd/system; ln -s /dev/null /etc/systemd/system/azguest.service", want: "unit error AZ-AGENT-MASKED", undo: "rm -r /run/systemd/system /etc/systemd/system/azguest.service"},
		{name: "hung", fault: `pkill -STOP -x azguest; sed -i 's/"written_at": "20../"written_at": "2020/' /run/azguest/status*.json`, want: "agent error AZ-AGENT-HUNG", undo: "pkill -CONT -x azguest; agentctl report"},
		{name: "down", fault: "pkill -TERM -x azguest; while pgrep -x azguest; do sleep 0.05; done", want: "agent error AZ-AGENT-DOWN", again: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.Sh(t, "mkdir -p /etc/waagent.conf.d")
			id := 0
			if tc.set != nil {
				id = fail(t, c, *tc.set)
			}
			if tc.fault != "" {
				c.Sh(t, tc.fault)
			}
			if tc.again && tc.name != "down" && tc.name != "replaced on the disk" {
				restart(t)
			}
			got := ""
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("doctor: %s", got)
				}
			})
			await(t, tc.want, func() bool { got = c.codes(t); return strings.Contains(got, tc.want) })
			if tc.undo != "" {
				c.Sh(t, tc.undo)
			}
			if id != 0 {
				c.Fabric.RemoveFault(id)
			}
			if tc.again {
				restart(t)
			}
			await(t, "the end of "+tc.want, func() bool { got = c.codes(t); return !strings.Contains(got, tc.want) })
		})
	}
	t.Run("crash loop", func(t *testing.T) {
		lives := func() string { return c.Sh(t, "cat /run/azguest/lives") }
		for range 4 {
			before := lives()
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			p = c.StartAgent(t)
			// agentctl reads the number of starts from the snapshot.
			await(t, "the start to be counted", func() bool { return lives() != before })
		}
		if got := c.codes(t); !strings.Contains(got, "agent warn AZ-AGENT-CRASHLOOP") {
			t.Errorf("while it runs: %s", got)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		if got := c.codes(t); !strings.Contains(got, "agent error AZ-AGENT-CRASHLOOP") {
			t.Errorf("between two starts: %s", got)
		}
	})
}

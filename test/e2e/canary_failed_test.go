package e2e

import (
	"maps"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/canary"
	"github.com/azguest/azguest/test/fabric"
)

// TestCanariesOfFailures: reports of a failed provisioning contain no secret,
// whatever has failed, in any channel: platform, key-value pool, logs,
// terminals.
func TestCanariesOfFailures(t *testing.T) {
	secrets := map[string]string{"password": `canary01-Pass&<x>"w0rd`, "custom data": "canary02-customdata"}
	tool := func(name, body string) string {
		return "rm -f /usr/sbin/" + name + "; printf '#!/bin/sh\\n" + body + "\\n' >/usr/sbin/" + name + "; chmod 755 /usr/sbin/" + name
	}
	without := func(old, now string) func(*fabric.Medium) {
		return func(m *fabric.Medium) {
			doc, err := fabric.OVFEnvironment(m.Provisioning, m.Spelling)
			if err != nil {
				t.Fatal(err)
			}
			if m.Raw = []byte(strings.Replace(string(doc), old, now, 1)); string(m.Raw) == string(doc) {
				t.Fatalf("nothing to replace: %s", doc)
			}
		}
	}
	for name, tc := range map[string]struct {
		medium func(*fabric.Medium)
		before string
		failed bool
	}{
		"password not escaped":     {without("&amp;", "&"), "", true},
		"password in a tag":        {without("<UserPassword>", "<UserPassword "), "", true},
		"two passwords":            {without("<UserPassword>", "<UserPassword>canary03-another</UserPassword><UserPassword>"), "", true},
		"password in latin 1":      {without("<UserPassword>", "<UserPassword>\xe4"), "", true},
		"custom data of two kinds": {without("<CustomData>", "<CustomData>%%canary02-customdata%%"), "", false},
		"useradd talks":            {nil, tool("useradd", "set; echo \"$@\" >&2; exit 3"), true},
		"chpasswd talks":           {nil, tool("chpasswd", "cat; cat >&2; env; exit 3"), false},
		"chpasswd repeats":         {nil, tool("chpasswd", "cat >&2; exit 3") + "; mount --bind /etc/shadow /etc/shadow && mount -o remount,bind,ro /etc/shadow", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := blank()
			o.Medium, o.NoIMDS = tc.medium, true
			o.Provisioning.Password = secrets["password"]
			o.Provisioning.CustomData = []byte("#!/bin/sh\n# canary02-customdata\n")
			c := newAgentCloud(t, o)
			c.Sh(t, "mkdir -p /var/lib/hyperv /etc/waagent.conf.d; echo Logs.Verbose=y >/etc/waagent.conf.d/v.conf; "+tc.before)
			c.StartAgent(t)
			await(t, "the end", func() bool {
				h := c.VM.Health()
				return h.State == "Ready" || h.State == "NotReady" && h.SubStatus == "ProvisioningFailed"
			})
			if h := c.VM.Health(); tc.failed != (h.State != "Ready") {
				t.Errorf("%s %s: %s", h.State, h.SubStatus, h.Description)
			} else if tc.failed {
				t.Log(h.Description)
			}
			all := maps.Clone(secrets)
			all["another"] = "canary03-another"
			for line := range strings.Lines(c.Sh(t, "grep -F 'azureuser:$' /etc/shadow || :")) {
				all["hash"] = strings.Split(line, ":")[1]
			}
			places := map[string]string{
				"agentctl":            c.Sh(t, "agentctl status; agentctl status -o json; agentctl doctor -o json; agentctl logs -n 10000") + c.collected(t),
				"output of the agent": c.Log.String(),
			}
			maps.Copy(places, c.sent())
			for file := range strings.SplitSeq(c.Sh(t, `find / /run /tmp -xdev \( -path /proc -o -path /sys \) -prune -o -type f -size -8192k -newer /usr/sbin/azguest -print 2>/dev/null`), "\n") {
				if b, err := c.ReadFile(file); err == nil {
					places[file] = string(b)
				}
			}
			s := canary.New(all)
			for place, text := range places {
				for _, hit := range s.In(text) {
					switch {
					case hit.Secret == "hash" && strings.HasPrefix(place, "/etc/shadow"), hit.Secret == "custom data" && place == "/var/lib/waagent/CustomData":
					default:
						t.Errorf("%s in %s: …%q…", hit.Secret, place, hit.Around)
					}
				}
			}
		})
	}
}

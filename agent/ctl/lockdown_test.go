package ctl

import (
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/status"
)

// TestSEC12SEC15StatusShowsWhatIsOff: the screen shows a firewall that is off
// and a policy that is not enforced, and which setting decides it.
func TestSEC12SEC15StatusShowsWhatIsOff(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*status.Snapshot)
		want   []string
	}{
		"firewall off": {
			func(s *status.Snapshot) {
				s.Firewall = status.Firewall{State: status.Off, Message: "OS.EnableFirewall=n in /etc/waagent.conf:7"}
			},
			[]string{"firewall   off", "OS.EnableFirewall=n in /etc/waagent.conf:7"},
		},
		"policy enforced": {
			func(s *status.Snapshot) {
				s.Policy = status.Policy{Mode: "enforce", Why: "default: a policy file is enforced if it exists", Source: "/etc/waagent_policy.json"}
			},
			[]string{"policy     enforce  (default: a policy file is enforced if it exists)"},
		},
		"policy off": {
			func(s *status.Snapshot) {
				s.Policy = status.Policy{Mode: "off", Why: "Debug.EnableExtensionPolicy=n in /etc/waagent.conf:9", Source: "/etc/waagent_policy.json"}
			},
			[]string{"policy     off  (Debug.EnableExtensionPolicy=n in /etc/waagent.conf:9)", "not enforced: /etc/waagent_policy.json"},
		},
		"policy audited": {
			func(s *status.Snapshot) { s.Policy = status.Policy{Mode: "audit", Source: "/etc/waagent_policy.json"} },
			[]string{"audited, not enforced: /etc/waagent_policy.json"},
		},
		"no policy": {
			func(s *status.Snapshot) { s.Policy = status.Policy{Mode: "enforce", Why: "default"} },
			nil,
		},
	} {
		s := status.Snapshot{WrittenAt: time.Now()}
		tc.change(&s)
		var out strings.Builder
		view{snap: s, life: status.Life{Known: true, Running: true}, now: time.Now()}.render(&out)
		for _, w := range tc.want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: no %q in\n%s", name, w, out.String())
			}
		}
		if tc.want == nil && strings.Contains(out.String(), "policy") {
			t.Errorf("%s:\n%s", name, out.String())
		}
	}
}

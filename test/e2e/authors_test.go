package e2e

import (
	"strings"
	"testing"
)

// TestAgentctlForAuthors: the agentctl commands that administrators and authors
// of extensions use, on a machine with an extension.
func TestAgentctlForAuthors(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages = samples(t)
	c := newAgentCloud(t, o)
	p := c.StartAgent(t)
	c.WaitReady(t)
	if got := c.follow(t, c.put(t, helloExtension)); got != "" {
		t.Fatal(got)
	}
	c.Sh(t, "agentctl status --wait=converged --timeout 30s")
	const settings = "/var/lib/waagent/Azguest.Samples.Hello-1.1.0/config/0.settings"
	const asUser = "setpriv --reuid=1000 --regid=1000 --clear-groups "
	for _, tc := range []struct {
		do   string
		code int
		want string // in the output
	}{
		{"agentctl ext decrypt " + settings, 0, `{"secret":"s3cret"}`},
		{"agentctl ext decrypt - <" + settings, 0, `{"secret":"s3cret"}`},
		{`f=` + settings + `; sed -n 's/.*"protectedSettings": "\([^"]*\)".*/\1/p' $f | agentctl ext decrypt --cert $(sed -n 's/.*Thumbprint": "\([^"]*\)".*/\1/p' $f) -`, 0, `{"secret":"s3cret"}`},
		{"agentctl ext decrypt --cert ../../etc/shadow " + settings, 64, "not a thumbprint"},
		{"agentctl ext decrypt --cert " + strings.Repeat("0", 40) + " " + settings, 1, "no such file"},
		{"agentctl ext decrypt /etc/hostname", 1, "not a settings file"},
		{asUser + "agentctl ext decrypt " + settings, 1, "permission denied"},
		{"agentctl policy explain hello", 0, "Azguest.Samples.Hello 1.1.0: allowed"},
		{`mkdir -p /etc/azguest/policy.d /etc/waagent.conf.d; echo Extensions.PolicyMode=audit >/etc/waagent.conf.d/p.conf
echo '{"rules":[{"effect":"deny","publisher":"Bad*","reason":"nobody asked for it"}]}' >/etc/azguest/policy.d/a.json; agentctl policy explain Bad.Thing`, 0, "the policy is audited, not enforced"},
		{"echo Extensions.PolicyMode=enforce >/etc/waagent.conf.d/p.conf; agentctl policy explain Bad.Thing", 1, "nobody asked for it"},
		{"agentctl policy explain Bad.Thing -o json", 1, `"allowed": false`},
		{"echo '{' >/etc/azguest/policy.d/a.json; agentctl policy explain hello", 1, "InvalidPolicyError"},
		{"rm /etc/azguest/policy.d/a.json /etc/waagent.conf.d/p.conf; agentctl doctor network", 0, "wireserver"},
		{"agentctl endpoints -o json", 0, `"status reports`},
		{"agentctl status --prometheus", 0, "azguest_up 1"},
		{"agentctl cancel hello", 1, "nothing is running"},
		{"agentctl ext orphans", 0, "no leftovers found"},
		{"mkdir /var/lib/waagent/Contoso.Old-1.2; agentctl ext orphans", 1, "/var/lib/waagent/Contoso.Old-1.2"},
		{"agentctl ext history hello", 0, "-> 1.1.0 seq 0 enabled"},
		{"agentctl disable-extensions --for 1h --reason maintenance", 0, " UTC"},
		{asUser + "agentctl resume", 4, "AZ-CTL-DENIED"},
	} {
		r, _ := c.Run(t.Context(), "sh", "-c", tc.do)
		if r.Code != tc.code || !strings.Contains(r.Stdout+r.Stderr, tc.want) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s%s", tc.do, r.Code, tc.code, tc.want, r.Stdout, r.Stderr)
		}
	}
	// The hold survives a restart of the agent: 59 minutes are left, or fewer on a
	// slow machine.
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	c.StartAgent(t)
	c.screen(t, 0, "hold       no extension is started for another 5", "maintenance")
	op := c.put(t, extension{name: "hello", publisher: "Azguest.Samples", kind: "Hello", version: "1.0", settings: map[string]any{"greeting": "later"}})
	c.screen(t, 0, "waiting for the end of the hold (")
	if got := c.Sh(t, "grep -c greeting.:.*later /var/lib/waagent/Azguest.Samples.Hello-1.1.0/config/1.settings 2>/dev/null || :"); strings.TrimSpace(got) == "1" {
		t.Error("the handler got its settings during the hold")
	}
	c.Sh(t, "agentctl resume")
	if got := c.follow(t, op); got != "" {
		t.Error(got)
	}
	c.screen(t, 0, "last change", "Azguest.Samples.Hello 1.1.0 seq 0 enabled -> 1.1.0 seq 1 enabled")
}

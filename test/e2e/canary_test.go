package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
)

// chatty prints addresses with signatures wherever a handler can, and fails.
const chatty = `
case $op in
enable)
	echo "fetching https://st.example/c/b?sv=1&sig=canary25%2Fout0000000000"
	echo "error at http://st.example/c/b?se=2030&sig=canary26%2Ferr0000000000&sp=r" >&2
	say error 7 "failed: https://st.example/c/b?sp=r&sig=canary27%2Fmsg0000000000"
	exit 9 ;;
esac
`

// TestCanaries: secrets are planted wherever the agent gets any; then
// everything that it writes, sends or starts is searched for them (asks S3).
// They may be in the files whose purpose it is to hold them, and nowhere else.
func TestCanaries(t *testing.T) {
	o := blank()
	o.telemetry = true
	o.provisioning.Password = "canary01-Passw0rd!"
	o.provisioning.CustomData = []byte("#!/bin/sh\n# canary02-customdata\n")
	o.provisioning.UserData = []byte("canary03-userdata")
	o.packages = samples(t)
	o.packages["Azguest.E2E.Chatty/1.0.0"] = handler(t, chatty)
	o.packages["Azguest.E2E.Damaged/1.0.0"] = []byte("PK\x03\x04 no zip")
	c := newAgentCloud(t, o)
	c.sh(t, `mkdir -p /etc/waagent.conf.d && printf 'Logs.Verbose=y\nTelemetry.Period=1\nHttpProxy.Host=http://joe:canary04-proxy@192.0.2.99\nHttpProxy.Port=3128\nDownload.Order=direct\n' >/etc/waagent.conf.d/canary.conf`)

	secrets := map[string]string{
		"password": "canary01-Passw0rd!", "custom data": "canary02-customdata", "user data": "canary03-userdata", "proxy": "canary04-proxy",
		"output": "canary25", "error output": "canary26", "message": "canary27",
	}
	var users []fabric.User
	for i, name := range []string{"jit", "jit2", "late"} {
		u := fabric.User{Name: name, Password: fmt.Sprintf("canary%02d-Jit-Pass", 5+i), Expires: time.Now().Add(time.Duration(1-i) * time.Hour)}
		users = append(users, u)
		secrets["just-in-time password of "+name] = u.Password
	}

	seen := &buffer{} // command lines and environments of all processes, as often as they can be looked at
	watch := func() {
		r, _ := c.Run(t.Context(), "sh", "-c", `for p in /proc/[0-9]*; do [ "$p" = "/proc/$$" ] || cat $p/cmdline $p/environ 2>/dev/null; done`)
		_, _ = seen.Write([]byte(r.Stdout))
	}
	c.agent(t)
	c.ready(t)
	watch()
	c.vm.Configure(func(cfg *fabric.Config) { cfg.Users = users })
	var ops []string
	for i, e := range []extension{
		helloExtension,
		{name: "chatty", publisher: "Azguest.E2E", kind: "Chatty", version: "1.0"},
		{name: "damaged", publisher: "Azguest.E2E", kind: "Damaged", version: "1.0"},
	} {
		e.settings, e.protected = map[string]any{"a": i}, map[string]any{}
		for j, key := range []string{"secret", "password", "storageAccountKey"} {
			word := fmt.Sprintf("canary%02d-protected", 10+3*i+j)
			e.protected[key], secrets[key+" of "+e.name] = word, word
		}
		ops = append(ops, c.put(t, e))
	}
	for _, op := range ops {
		watch()
		c.follow(t, op)
	}
	await(t, "the just-in-time account", func() bool { watch(); return c.sh(t, "getent passwd jit || :") != "" })

	// Documents that can't be read, with secrets in them.
	for i, kind := range []fabric.Kind{fabric.ExtensionsConfig, fabric.GoalState, fabric.VMSettings, fabric.Certificates, fabric.RemoteAccess, fabric.PluginStatus, fabric.Metadata, fabric.Telemetry} {
		word := fmt.Sprintf("canary%02dsas", 40+i)
		secrets["damaged "+string(kind)] = word
		body := "<x>https://st.example/c/b?sv=2&sig=" + word + "%2F0000000 <unclosed"
		fail(t, c, fabric.Fault{Kind: kind, Status: []int{200, 500}[i%2], Body: &body, Times: 3})
	}
	c.vm.Configure(func(cfg *fabric.Config) { cfg.StatusBlob = "PageBlob" })
	await(t, "the goal state after the damaged ones", func() bool {
		watch()
		r, _ := c.Run(t.Context(), "agentctl", "status", "-o", "json")
		return strings.Contains(r.Stdout, fmt.Sprintf(`"incarnation_%d"`, c.vm.Incarnation()))
	})
	await(t, "telemetry", func() bool { return c.vm.Requests(fabric.Telemetry) > 0 })

	// What the platform itself made up.
	sig := regexp.MustCompile(`sig=([A-Za-z0-9%+/=_-]{16,})`)
	for _, e := range c.f.Journal(fabric.Query{}) {
		for _, text := range append(slices.Collect(maps.Values(e.Header)), e.URL) {
			for _, m := range sig.FindAllStringSubmatch(text, -1) {
				secrets["signature "+m[1][:6]] = m[1]
			}
		}
	}
	for i, m := range sig.FindAllStringSubmatch(c.vm.StatusURL(), -1) {
		secrets[fmt.Sprint("status blob ", i)] = m[1]
	}
	for name := range strings.FieldsSeq(c.sh(t, "ls /var/lib/waagent/*.prv /var/lib/waagent/TransportPrivate.pem")) {
		if lines := strings.Split(c.sh(t, "cat "+name), "\n"); len(lines) > 4 {
			secrets["key "+path.Base(name)] = lines[3]
		}
	}
	if len(secrets) < 30 {
		t.Errorf("only %d secrets were planted", len(secrets))
	}

	// What people see.
	screens := &buffer{}
	for _, args := range [][]string{
		{"status"},
		{"status", "-o", "json"},
		{"doctor", "-a"},
		{"doctor", "-o", "json"},
		{"ext", "list"},
		{"ext", "history"},
		{"ext", "history", "-o", "json"},
		{"ext", "orphans"},
		{"ext", "show", "Azguest.E2E.Chatty"},
		{"logs", "Azguest.E2E.Chatty"},
		{"logs"},
		{"certs"},
		{"endpoints"},
		{"telemetry", "show"},
		{"diff"},
		{"inventory"},
	} {
		r, _ := c.Run(t.Context(), append([]string{"agentctl"}, args...)...)
		_, _ = screens.Write([]byte(strings.Join(args, " ") + "\n" + r.Stdout + r.Stderr))
	}
	places := map[string]string{"processes": seen.String(), "output of the agent": c.log.String(), "agentctl": screens.String()}
	for _, e := range c.f.Journal(fabric.Query{}) {
		switch e.Kind { //nolint:exhaustive // what the guest sends about itself
		case fabric.Status, fabric.PluginStatus, fabric.Health, fabric.Telemetry, fabric.HealthService, fabric.BlobPut, fabric.RoleProperties:
			text := e.Body
			var envelope struct{ Content string }
			if json.Unmarshal([]byte(e.Body), &envelope) == nil {
				if b, err := base64.StdEncoding.DecodeString(envelope.Content); err == nil {
					text = string(b) // the rest of the envelope is the address itself
				}
			}
			places[fmt.Sprintf("%s %d", e.Kind, e.Seq)] = text
		}
	}
	// Every file that the machine has got since, each by its name.
	for name := range strings.SplitSeq(c.sh(t, `find /var/log /var/lib/waagent /run /etc /tmp /var/tmp /home /root -xdev -type f -size -4096k -newer /usr/sbin/azguest 2>/dev/null`), "\n") {
		if b, err := c.ReadFile(name); err == nil {
			places[name] = string(b)
		}
	}
	// Files that are there to hold a secret: only root reads them, and either
	// the classic agent has them too or an administrator wrote them.
	contract := regexp.MustCompile(`^(/etc/waagent\.conf\.d/canary\.conf custom|/etc/waagent\.conf\.d/canary\.conf proxy|` +
		`/var/lib/waagent/Azguest\.E2E\.Chatty-1\.0\.0/(bin/handler|status/0\.status) .*|` + // the handler's own
		`/var/lib/waagent/azguest/ext/jobs/[0-9a-f]+/std(out|err) .*|` + // what it printed, as it printed it; redacted when shown
		`/var/lib/waagent/CustomData custom data|/var/lib/waagent/ovf-env\.xml custom data|` +
		`/var/lib/waagent/[0-9A-F]{40}\.prv key .*|/var/lib/waagent/TransportPrivate\.pem key .*|/var/lib/waagent/[^/]*\.pem key .*)$`)
	held := map[string]bool{}
	for place, text := range places {
		for what, word := range secrets {
			hit := hidden(text, word)
			if hit == "" {
				continue
			}
			if contract.MatchString(place + " " + what) {
				held[place] = true
			} else {
				i := strings.Index(text, hit)
				t.Errorf("%s in %s: …%q…", what, place, text[max(0, i-80):min(len(text), i+60)])
			}
		}
	}
	t.Logf("%d secrets, %d places", len(secrets), len(places))
	// The search itself has to find something.
	if !strings.Contains(places["/var/lib/waagent/CustomData"], "canary02") {
		t.Error("the search does not see the custom data where it has to be")
	}
	for place := range held {
		r, _ := c.Run(t.Context(), "setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "cat", place)
		if r.Code == 0 && !strings.HasPrefix(place, "/etc/waagent.conf") && !strings.Contains(place, "Azguest.E2E.Chatty") {
			t.Errorf("anybody can read %s (%s)", place, c.sh(t, "stat -c '%a %U' "+place))
		}
	}
}

// hidden is the form in which the word stands in a text, plain or in base64,
// or "".
func hidden(text, word string) string {
	if strings.Contains(text, word) {
		return word
	}
	for shift := range 3 {
		enc := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{' '}, shift), word...))
		if len(enc) < 16 {
			continue
		}
		if core := enc[4 : len(enc)-4]; strings.Contains(text, core) {
			return core
		}
	}
	return ""
}

package e2e

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/test/canary"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// chatty is a handler that prints secrets wherever it can, in the notations
// that handlers use, and fails: plain, in several forms of JSON, as a parameter
// of another URL, followed by different characters.
const chatty = `
leak() { # NUMBER: eight spellings
	echo "fetching https://st.example/c/b?sv=1&sig=canary$1a%2Fout0000000000&sp=r"
	echo "{\"u\":\"https:\/\/st.example\/c\/b?se=2\\u0026sig=canary$1b\\u002fout0000000000\"}"
	echo "to=https%3A%2F%2Fst.example%2Fc%3Fsv%3D1%26sig%3Dcanary$1c%252Fout00000000"
	echo "x=1\\u0026sig=canary$1d%2Fout0000000000"
	echo "AccountName=st;AccountKey=canary$1e/out0000000000+AAAABBBBCCCC==;EndpointSuffix=x"
	echo "Authorization: Bearer canary$1f.out0000000000"
	echo "clone https://joe:canary$1g-out@git.example/r"
	printf -- '-----BEGIN RSA PRIVATE KEY-----\nMIIEcanary%shAAAA\nBBBB\n-----END RSA PRIVATE KEY-----\n' $1
}
fill() { head -c $1 /dev/zero | tr '\0' "$2"; echo; }
case $op in
install|enable)
	logs=$(sed -n 's/.*"logFolder" *: *"\([^"]*\)".*/\1/p' "$home/HandlerEnvironment.json" | head -n 1)
	events=$(sed -n 's/.*"eventsFolder" *: *"\([^"]*\)".*/\1/p' "$home/HandlerEnvironment.json" | head -n 1)
	leak 25
	leak 26 >&2
	leak 27 >>"$logs/own.log"
	text=$(leak 28 | sed 's/\\/\\\\/g; s/"/\\"/g' | tr '\n' '~' | sed 's/~/\\n/g')
	printf '[{"version":"1.0","heartbeat":{"status":"notready","code":"0","formattedMessage":{"lang":"en","message":"%s"}}}]' "$text" >"$home/heartbeat.log"
	[ -z "$events" ] || printf '{"Version":"1","Timestamp":"%s","TaskName":"t","EventLevel":"Error","Message":"%s","EventPid":"1","EventTid":"1","OperationId":"o"}' \
		"$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$text" >"$events/$(date +%s).json"
	printf '[{"version":"1.0","timestampUTC":"%s","status":{"operation":"%s","status":"error","code":"%s","formattedMessage":{"lang":"en","message":"%s"},
"substatus":[{"name":"%s","status":"error","code":1,"formattedMessage":{"lang":"en","message":"%s"}}]}}]' \
		"$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$text" "$text" "$text" "$text" "$text" >"$status/$seq.status"
	# The ends of these are within what is shown, and within an address.
	echo "https://st.example/c/b?sv=1&sig=canary29outAAAABBBBCCCC/DDDDEEEE%2F/$(fill 4050 x)"
	echo "https://st.example/c/b?sv=1&sig=canary30outAAAABBBBCCCC/DDDDEEEE%2F/$(fill 1560 y)" >&2
	[ $op = install ] || exit 9 ;;
esac
`

// leaked adds the secrets that chatty prints.
func leaked(secrets map[string]string) {
	for number, what := range map[int]string{25: "output", 26: "error output", 27: "own log", 28: "status, heartbeat or event"} {
		for i, tail := range []string{"%2Fout0000000000", "", "%252Fout00000000", "%2Fout0000000000", "/out0000000000", ".out0000000000", "-out", ""} {
			letter := string(rune('a' + i))
			secrets[what+" "+letter] = fmt.Sprintf("canary%d%s%s", number, letter, tail)
		}
	}
	secrets["cut output"], secrets["cut error output"] = "canary29outAAAABBBBCCCC/DDDDEEEE", "canary30outAAAABBBBCCCC/DDDDEEEE"
}

// TestCanaries: secrets are planted in every input of the agent; then
// everything that it writes, sends or starts is searched for them. They may
// only be in the files whose purpose is to hold them.
func TestCanaries(t *testing.T) {
	t.Parallel()
	o := blank()
	o.telemetry = true
	o.Provisioning.Password = "canary01-Passw0rd!&<x>"
	o.Provisioning.CustomData = []byte("#!/bin/sh\n# canary02-customdata\n")
	o.Provisioning.UserData = []byte("canary03-userdata")
	o.Packages = samples(t)
	o.Packages["Azguest.E2E.Chatty/1.0.0"] = handler(t, chatty)
	o.Packages["Azguest.E2E.Damaged/1.0.0"] = []byte("no zip")
	c := newAgentCloud(t, o)
	c.Sh(t, `mkdir -p /etc/waagent.conf.d && printf 'Logs.Verbose=y\nTelemetry.Period=1\nHttpProxy.Host=http://joe:canary04-proxy@192.0.2.99\nHttpProxy.Port=3128\nDownload.Order=direct\n' >/etc/waagent.conf.d/canary.conf`)

	secrets := map[string]string{
		"password": o.Provisioning.Password, "custom data": "canary02-customdata", "user data": "canary03-userdata", "proxy": "canary04-proxy",
	}
	leaked(secrets)
	var users []fabric.User
	for i, name := range []string{"jit", "jit2", "late"} {
		u := fabric.User{Name: name, Password: fmt.Sprintf("canary%02d-Jit-Pass&<x>", 5+i), Expires: time.Now().Add(time.Duration(1-i) * time.Hour)}
		users = append(users, u)
		secrets["just-in-time password of "+name] = u.Password
	}

	seen := &machine.Buffer{} // command lines and environments of all processes, sampled continuously
	watch := func() {
		r, _ := c.Run(t.Context(), "sh", "-c", `for p in /proc/[0-9]*; do [ "$p" = "/proc/$$" ] || cat $p/cmdline $p/environ 2>/dev/null; done`)
		_, _ = seen.Write([]byte(r.Stdout))
	}
	agent := c.traced(t)
	c.WaitReady(t)
	watch()
	c.VM.Configure(func(cfg *fabric.Config) { cfg.Users = users })
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
	await(t, "the just-in-time account", func() bool { watch(); return c.Sh(t, "getent passwd jit || :") != "" })

	// Malformed documents that contain secrets.
	for i, kind := range []fabric.Kind{fabric.ExtensionsConfig, fabric.GoalState, fabric.VMSettings, fabric.Certificates, fabric.RemoteAccess, fabric.PluginStatus, fabric.Metadata, fabric.Telemetry} {
		word := fmt.Sprintf("canary%02dsas", 40+i)
		secrets["damaged "+string(kind)] = word
		body := "<x>https://st.example/c/b?sv=2&sig=" + word + "%2F0000000 <unclosed"
		fail(t, c, fabric.Fault{Kind: kind, Status: []int{200, 500}[i%2], Body: &body, Times: 3})
	}
	c.VM.Configure(func(cfg *fabric.Config) { cfg.StatusBlob = "PageBlob" })
	await(t, "the goal state after the damaged ones", func() bool {
		watch()
		r, _ := c.Run(t.Context(), "agentctl", "status", "-o", "json")
		return strings.Contains(r.Stdout, fmt.Sprintf(`"incarnation_%d"`, c.VM.Incarnation()))
	})
	await(t, "the event of the handler", func() bool {
		return len(c.Fabric.Journal(fabric.Query{Kind: fabric.Telemetry, Contains: "fetching"})) > 0
	})

	// Secrets that the platform itself has generated.
	sig := regexp.MustCompile(`sig=([A-Za-z0-9%+/=_-]{16,})`)
	for _, e := range c.Fabric.Journal(fabric.Query{}) {
		for _, text := range append(slices.Collect(maps.Values(e.Header)), e.URL) {
			for _, m := range sig.FindAllStringSubmatch(text, -1) {
				secrets["signature "+m[1][:6]] = m[1]
			}
		}
	}
	for i, m := range sig.FindAllStringSubmatch(c.VM.StatusURL(), -1) {
		secrets[fmt.Sprint("status blob ", i)] = m[1]
	}
	for name := range strings.FieldsSeq(c.Sh(t, "ls /var/lib/waagent/*.prv /var/lib/waagent/TransportPrivate.pem")) {
		if lines := strings.Split(c.Sh(t, "cat "+name), "\n"); len(lines) > 4 {
			secrets["key "+path.Base(name)] = lines[3]
		}
	}
	for line := range strings.Lines(c.Sh(t, "grep -F '$' /etc/shadow")) {
		f := strings.Split(line, ":")
		secrets["hash of the password of "+f[0]] = f[1]
	}
	if len(secrets) < 60 {
		t.Errorf("only %d secrets were planted", len(secrets))
	}

	places := map[string]string{"agentctl": c.screens(t), "bundle": c.collected(t)}
	for _, want := range []string{"own.log\n", "canary.conf\n", "waagent.log\n", "/ExtensionsConfig.xml\n", "CommandExecution.log\n"} {
		if !strings.Contains(places["bundle"], want) {
			t.Errorf("the bundle has no %q", want)
		}
	}
	// A goroutine dump of a hung agent, as the watchdog requests it.
	c.Sh(t, `kill -QUIT "$(pgrep -xo azguest)"`)
	select {
	case <-agent.Done():
	case <-t.Context().Done():
	}
	if !strings.Contains(c.Log.String(), "SIGQUIT: quit") {
		t.Error("the log has no goroutine dump after SIGQUIT")
	}
	if got := c.Sh(t, "find / -xdev -name 'core*' -newer /usr/sbin/azguest -type f -size +100k 2>/dev/null"); got != "" {
		t.Errorf("dumps of memory: %s", got)
	}
	places["output of the agent"], places["processes"] = c.Log.String(), seen.String()
	places["programs that were started"] = c.Sh(t, "cat "+trace+" 2>/dev/null || :")
	if text := places["programs that were started"]; text != "" && !strings.Contains(text, `/chpasswd", "-e"`) {
		t.Error("the trace does not show how the password was set")
	}
	maps.Copy(places, c.sent())
	// Every file that has been created since, by its name.
	for name := range strings.SplitSeq(c.Sh(t, `find / /run /tmp /dev/shm -xdev \( -path /proc -o -path /sys -o -path `+trace+` \) -prune -o -type f -size -8192k -newer /usr/sbin/azguest -print 2>/dev/null`), "\n") {
		if b, err := c.ReadFile(name); err == nil {
			places[name] = string(b)
		}
	}
	c.search(t, secrets, places)
}

const trace = "/var/exec.trace"

// traced starts the agent under strace, which records the arguments and
// environment of every program that it starts, however short-lived; without
// strace, processes are only sampled.
func (c *cloud) traced(t testing.TB) *sandbox.Process {
	t.Helper()
	if r, err := c.Run(t.Context(), "strace", "-V"); err != nil || r.Code != 0 {
		t.Log("no strace: programs are looked at while they run only")
		return c.StartAgent(t)
	}
	p, err := c.Start(sandbox.Cmd{
		Args:   []string{"strace", "--follow-forks", "--quiet=all", "--trace=execve", "--no-abbrev", "--string-limit=65536", "--seccomp-bpf", "--output=" + trace, "/usr/sbin/azguest", "run"},
		Stderr: &c.Log, Stdout: &c.Log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// screens returns what commands print for root and for other users.
func (c *cloud) screens(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, args := range [][]string{
		{"status"},
		{"status", "-o", "json"},
		{"status", "--prometheus"},
		{"doctor", "-a"},
		{"doctor", "-o", "json"},
		{"doctor", "network"},
		{"ext", "list"},
		{"ext", "list", "-o", "json"},
		{"ext", "history"},
		{"ext", "history", "-o", "json"},
		{"ext", "orphans"},
		{"ext", "show", "Azguest.E2E.Chatty"},
		{"ext", "show", "Azguest.E2E.Chatty", "-o", "json"},
		{"ext", "show", "Azguest.E2E.Damaged", "-o", "json"},
		{"logs", "-n", "100000"},
		{"logs", "-n", "100000", "Azguest.E2E.Chatty"},
		{"certs"},
		{"certs", "-o", "json"},
		{"endpoints"},
		{"endpoints", "-o", "json"},
		{"telemetry", "show"},
		{"telemetry", "show", "-o", "json"},
		{"config", "show", "--effective", "--origin"},
		{"config", "show", "-o", "json"},
		{"config", "check"},
		{"policy", "explain", "Azguest.E2E.Chatty"},
		{"disk"},
		{"events"},
		{"events", "-o", "json"},
		{"diff"},
		{"diff", "-o", "json"},
		{"inventory"},
		{"inventory", "-o", "json"},
		{"generalize", "--plan"},
		{"uninstall", "--plan"},
		{"waagent-compat", "-show-configuration"},
	} {
		for _, who := range [][]string{nil, {"setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"}} {
			r, _ := c.Run(t.Context(), append(append(who, "agentctl"), args...)...)
			b.WriteString(strings.Join(args, " ") + "\n" + r.Stdout + r.Stderr)
		}
	}
	return b.String()
}

// collected returns the content of the archive for support.
func (c *cloud) collected(t testing.TB) string {
	t.Helper()
	r, err := c.Run(t.Context(), "/usr/sbin/azguest", "waagent", "-collect-logs", "-full")
	if err != nil || r.Code != 0 {
		t.Fatalf("collect logs: %v %s", err, r.Stderr)
	}
	data, err := c.ReadFile("/var/lib/waagent/logcollector/logs.zip")
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(f.Name + "\n" + string(text))
	}
	return b.String()
}

// sent returns what the guest has sent. Blob URLs contain signatures where the
// request is for the blob itself, and in the headers that name a blob to the
// host.
func (c *cloud) sent() map[string]string {
	places := map[string]string{}
	for _, e := range c.Fabric.Journal(fabric.Query{}) {
		text := e.Body
		var envelope struct{ Content string }
		if e.Kind == fabric.PluginStatus && json.Unmarshal([]byte(e.Body), &envelope) == nil {
			if b, err := base64.StdEncoding.DecodeString(envelope.Content); err == nil {
				text = string(b) // the rest of the envelope is the URL itself
			}
		}
		if e.Kind != fabric.BlobGet && e.Kind != fabric.BlobPut {
			text += "\n" + e.URL
		}
		for name, value := range e.Header {
			if e.Kind != fabric.Artifact || !strings.HasPrefix(strings.ToLower(name), "x-ms-artifact-") {
				text += "\n" + name + ": " + value
			}
		}
		if e.Kind != fabric.Control && e.Kind != fabric.Change {
			places[fmt.Sprintf("%s %d", e.Kind, e.Seq)] = text
		}
	}
	return places
}

// search fails the test for each secret in a place where it must not be.
func (c *cloud) search(t testing.TB, secrets, places map[string]string) {
	t.Helper()
	// Files that must hold a secret: only root can read them, and either the
	// classic agent writes them, too, or an administrator has written them.
	contract := regexp.MustCompile(`^(/etc/waagent\.conf\.d/canary\.conf proxy|` +
		`/etc/g?shadow-? hash .*|` +
		`/var/lib/waagent/Azguest\.E2E\.Chatty-1\.0\.0/(bin/handler|heartbeat\.log|status/0\.status) .*|` + // the handler's own files
		`/var/log/azure/Azguest\.E2E\.Chatty/(own\.log|events/[0-9]+\.json) .*|` +
		`/var/lib/waagent/azguest/ext/jobs/[0-9a-f]+/std(out|err) .*|` + // the unmodified output of commands; redacted when shown
		`/var/lib/waagent/CustomData custom data|/var/lib/waagent/ovf-env\.xml custom data|` +
		`/var/lib/waagent/[0-9A-F]{40}\.prv key .*|/var/lib/waagent/TransportPrivate\.pem key .*|/var/lib/waagent/[^/]*\.pem key .*)$`)
	held := map[string]bool{}
	s := canary.New(secrets)
	for _, place := range slices.Sorted(maps.Keys(places)) {
		for _, hit := range s.In(places[place]) {
			if contract.MatchString(place + " " + hit.Secret) {
				held[place] = true
			} else {
				t.Errorf("%s in %s: …%q…", hit.Secret, place, hit.Around)
			}
		}
	}
	t.Logf("%d secrets, %d places", len(secrets), len(places))
	// The search must find the secrets that are there.
	for _, place := range []string{"/var/lib/waagent/CustomData", "/etc/shadow", "/etc/waagent.conf.d/canary.conf", "/var/log/azure/Azguest.E2E.Chatty/own.log"} {
		if !held[place] {
			t.Errorf("the search does not see the secret in %s, where it has to be", place)
		}
	}
	for place := range held {
		r, _ := c.Run(t.Context(), "setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "cat", place)
		if r.Code == 0 && !strings.HasPrefix(place, "/etc/waagent.conf") && !strings.Contains(place, "Azguest.E2E.Chatty") {
			t.Errorf("anybody can read %s (%s)", place, c.Sh(t, "stat -c '%a %U' "+place))
		}
	}
}

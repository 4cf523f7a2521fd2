package e2e

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/update/updatetest"
	"github.com/azguest/azguest/test/canary"
	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine/machinetest"
)

// A plant is a panic in a component of the agent, at the start of a function
// that has a secret in hand.
type plant struct {
	file, function string // from the top of the repository; a method as Type.name
	hand           string // an expression: what the function has in hand
	secret         string // what must be in it for the panic, "" if that is not known
	program        string // that has to meet it; "" for the agent
}

// plants are the components that have secrets. The value of a panic is a text,
// an error or the value itself, in turn.
var plants = map[string]plant{
	"configuration":       {"agent/config/load.go", "parse", "string(data)", "canary04-proxy", ""},
	"configuration shown": {"agent/config/load.go", "parse", "string(data)", "canary04-proxy", "agentctl"},
	"ovf":                 {"ovf/parse.go", "Parse", "string(doc)", "canary01-password", ""},
	"provisioning":        {"provisioning/step_password.go", "SetPassword.set", "s.Password.Reveal()", "", ""},
	"custom data":         {"provisioning/step_files.go", "SaveCustomData.Apply", "s.Data.Reveal()", "", ""},
	"wire":                {"protocol/wire/extensions.go", "ParseExtensions", "string(b)", "canary10-public", ""},
	"platform":            {"protocol/platform/documents.go", "openCertificates", "key", "", ""},
	"download":            {"protocol/platform/report.go", "Client.Package", "uris[0].Reveal()", "http", ""},
	"extension engine":    {"extensions/handler/files.go", "SettingsFile", "string(s.Public) + s.Protected.Reveal()", "canary10-public", ""},
	"supervisor":          {"agent/host/job/supervise.go", "run", "os.Environ()", "canary05-environment", "supervisor"},
	"what it bounds":      {"agent/host/job/output.go", "boundOutput", "os.Environ()", "canary05-environment", "supervisor"},
	"handler's status":    {"extensions/handler/status.go", "ParseStatus", "string(data)", "canary06-status", ""},
	"status":              {"protocol/platform/report.go", "Client.sendStatus", "blob.URL.Reveal() + string(doc)", "sig=", ""},
	"telemetry":           {"protocol/wire/telemetry.go", "Telemetry", "evs", "", ""},
	"remote access":       {"provisioning/jit.go", "AddJIT.create", "s.Password.Password.Reveal()", "canary03-jit", ""},
	"log":                 {"agent/log/log.go", "redactor.WriteLevel", "string(p)", "", ""},
	"decrypt":             {"agent/tool/decrypt.go", "Tool.open", "s.text", "", "one-shot"},
	"update":              {"agent/selfupdate.go", "Agent.updateFacts", "gs.Families[0].ManifestURIs[0].Reveal()", "http", ""},
}

// soil is a package that exists only in the build of this test, so that the
// agent has no switch for it. A plant strikes once on a machine, in each program
// that is named: it leaves what was in hand in a directory, and panics.
const soil = `package plant

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func Strike(number int, program, component, secret string, hand any) {
	me := "one-shot"
	switch {
	case filepath.Base(os.Args[0]) == "agentctl":
		me = "agentctl"
	case len(os.Args) > 1 && os.Args[1] == "run":
		me = ""
	case len(os.Args) > 1 && os.Args[1] == "supervise":
		me = "supervisor"
	}
	const plants = "/var/plants/"
	dir := plants + component
	if me != program {
		return
	}
	text := fmt.Sprintf("%+v", hand)
	if !strings.Contains(text, secret) || os.Mkdir(dir, 0o700) != nil {
		return
	}
	if err := os.WriteFile(dir+"/hand", []byte(text), 0o600); err != nil {
		os.Exit(99)
	}
	switch number % 3 {
	case 0:
		panic(component + " with " + text)
	case 1:
		panic(fmt.Errorf("%s with %w", component, errors.New(text)))
	default:
		panic(struct {
			Hand any
			At   time.Time
		}{hand, time.Now()})
	}
}
`

const module = "github.com/azguest/azguest/"

// planted builds programs with the plants in them, and returns their directory.
func planted(t *testing.T) string {
	t.Helper()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replace := map[string]string{}
	put := func(name, text string) {
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(top, name)] = to
	}
	put("test/plant/plant.go", soil)
	texts := map[string]string{}
	for number, name := range slices.Sorted(maps.Keys(plants)) {
		p := plants[name]
		if texts[p.file] == "" {
			b, err := os.ReadFile(filepath.Join(top, p.file))
			if err != nil {
				t.Fatal(err)
			}
			texts[p.file] = string(b)
		}
		texts[p.file] = p.in(t, texts[p.file], fmt.Sprintf("; azguestplant.Strike(%d, %q, %q, %q, %s);", number, p.program, name, p.secret, p.hand))
	}
	for name, text := range texts {
		head, rest, _ := strings.Cut(text, "\nimport")
		put(name, head+"\nimport azguestplant \""+module+"test/plant\"\nimport"+rest)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "nethttpomithttp2", "-overlay", name, "-o", dir+"/", agentPackage, module+"agent/cmd/agentctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with plants: %v\n%s", err, out)
	}
	return dir
}

// in adds a statement at the start of the plant's function.
func (p plant) in(t *testing.T, text, statement string) string {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, p.file, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := fn.Name.Name
		if fn.Recv != nil {
			kind := fn.Recv.List[0].Type
			if star, ok := kind.(*ast.StarExpr); ok {
				kind = star.X
			}
			if id, ok := kind.(*ast.Ident); ok {
				name = id.Name + "." + name
			}
		}
		if name == p.function {
			at := fset.Position(fn.Body.Lbrace).Offset + 1
			return text[:at] + statement + text[at:]
		}
	}
	t.Fatalf("%s has no function %s", p.file, p.function)
	return ""
}

// careless is a handler whose status has a secret in it.
const careless = `
case $op in
enable)
	printf '[{"version":"1.0","timestampUTC":"%s","status":{"operation":"Enable","status":"success","code":0,"formattedMessage":{"lang":"en","message":"password=canary06-status"}}}]' \
		"$(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$status/$seq.status" ;;
esac
`

// TestPanicsInEachComponent: each component of the agent that has secrets in hand
// panics once, on one machine. What the agent writes, sends and prints has none
// of them, nothing dumps memory, and in the end the machine is as it should be:
// one bug stops neither the rest nor the agent.
func TestPanicsInEachComponent(t *testing.T) {
	t.Parallel()
	machinetest.Need(t)
	dir := planted(t)
	ca := updatetest.NewAuthority()
	o := blank()
	o.Provisioning.Password = "canary01-password"
	o.Provisioning.CustomData = []byte("#!/bin/sh\n# canary02-customdata\n")
	o.Packages["Azguest.E2E.Careless/1.0.0"] = handler(t, careless)
	o.Conf = conf
	c := newCloud(t, o)
	c.prepareSSHD(t)
	for name, to := range map[string]string{"azguest": "/usr/sbin/azguest", "agentctl": "/usr/bin/agentctl"} {
		if err := c.Install(filepath.Join(dir, name), to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WriteFile("/etc/update-roots.pem", ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Sh(t, "mkdir -p /var/plants /etc/azguest /etc/waagent.conf.d; mv /etc/update-roots.pem /etc/azguest/; cat >/etc/waagent.conf.d/canary.conf <<'END'\n"+updateConf+
		"HttpProxy.Host=http://joe:canary04-proxy@192.0.2.99\nHttpProxy.Port=3128\nLogs.Verbose=y\nTelemetry.Period=1\nDownload.Order=host\nEND")
	c.publish(t, ca, "0.0.0.1", updatetest.Python("0.0.0.1"))
	secrets := map[string]string{
		"password": o.Provisioning.Password, "custom data": "canary02-customdata", "jit": "canary03-jit-Pass1", "proxy": "canary04-proxy",
		"environment": "canary05-environment", "status": "canary06-status", "public": "canary10-public", "protected": "canary11-protected",
	}
	c.VM.Configure(func(cfg *fabric.Config) {
		cfg.Users = []fabric.User{{Name: "jit", Password: secrets["jit"], Expires: time.Now().Add(time.Hour)}}
	})
	crashes := 0
	alive := func() {
		if c.Agent != nil {
			select {
			case <-c.Agent.Done():
				if crashes++; c.Agent.Code() != 2 {
					t.Errorf("the agent ended with %d", c.Agent.Code())
				}
			default:
				return
			}
		}
		c.StartAgent(t, "APP_TOKEN="+secrets["environment"])
	}
	await(t, "Ready", func() bool {
		alive()
		h := c.VM.Health()
		if h.SubStatus == "ProvisioningFailed" && strings.Contains(h.Description, "AZ-AGENT-FAULT") { // as an administrator would
			if err := c.KillAgent(); err != nil {
				t.Fatal(err)
			}
		}
		return h.State == "Ready"
	})
	c.put(t, extension{
		name: "careless", publisher: "Azguest.E2E", kind: "Careless", version: "1.0",
		settings: map[string]any{"a": secrets["public"]}, protected: map[string]any{"b": secrets["protected"]},
	})
	var printed strings.Builder
	await(t, "the end of all panics", func() bool {
		alive()
		for _, script := range []string{"agentctl status; agentctl config show", "azguest decrypt /var/lib/waagent/Azguest.E2E.Careless-*/config/0.settings", "ls /var/plants/*/hand | wc -l"} {
			r, _ := c.Run(t.Context(), "sh", "-c", script) // fails while there is nothing to show
			if !strings.HasPrefix(script, "azguest") || r.Code != 0 {
				printed.WriteString(r.Stdout + r.Stderr + "\n")
			}
			if strings.HasPrefix(script, "ls") && strings.TrimSpace(r.Stdout) == fmt.Sprint(len(plants)) {
				return true
			}
		}
		return false
	})
	// The operation has failed, and the handler works all the same.
	await(t, "a handler that is enabled", func() bool {
		alive()
		r, _ := c.Run(t.Context(), "agentctl", "status")
		return strings.Contains(r.Stdout, "extensions 1 ok")
	})

	places := map[string]string{
		"agentctl": printed.String() + c.Sh(t, "agentctl status; agentctl status -o json; agentctl doctor -o json || :; agentctl logs -n 10000; agentctl ext history"),
		"bundle":   c.collected(t), "output of the agent": c.Log.String(),
	}
	for name, p := range plants {
		b, err := c.ReadFile("/var/plants/" + name + "/hand")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), p.secret) {
			t.Errorf("%s had no secret in hand", name)
		}
		if i := strings.Index(string(b), "sig="); i >= 0 {
			secrets["signature of "+name] = strings.FieldsFunc(string(b[i+4:]), func(r rune) bool { return r == '&' || r < ' ' || r == '"' })[0]
		}
	}
	maps.Copy(places, c.sent())
	for name := range strings.SplitSeq(c.Sh(t, `find / /run /tmp /dev/shm -xdev \( -path /proc -o -path /sys -o -path /var/plants \) -prune -o -type f -size -8192k -newer /usr/sbin/azguest -print 2>/dev/null`), "\n") {
		if strings.HasSuffix(name, "/panic_test.go") {
			continue // the sources, which the sandbox shows, may have been edited meanwhile
		}
		if b, err := c.ReadFile(name); err == nil {
			places[name] = string(b)
		}
	}
	// What happened is known, and where. The row of a handler whose status can't be
	// read has the code only; the log of a supervisor goes with its job.
	for name, p := range plants {
		if name != "handler's status" && p.program != "supervisor" && !slices.ContainsFunc(slices.Collect(maps.Values(places)), func(text string) bool { return strings.Contains(text, p.file+":") }) {
			t.Errorf("nothing tells where %s has had a panic", name)
		}
	}
	// Files whose purpose it is; see search.
	purpose := regexp.MustCompile(`^(/etc/waagent\.conf\.d/canary\.conf proxy|/var/lib/waagent/CustomData custom data|` +
		`/var/lib/waagent/Azguest\.E2E\.Careless-1\.0\.0/(bin/handler|status/0\.status) status|` +
		`/var/lib/waagent/Azguest\.E2E\.Careless-1\.0\.0/config/0\.settings public|.* public)$`)
	look := canary.New(secrets)
	for place, text := range places {
		for _, hit := range look.In(text) {
			if !purpose.MatchString(place + " " + hit.Secret) {
				t.Errorf("%s in %s: …%q…", hit.Secret, place, hit.Around)
			}
		}
	}
	if got := c.Sh(t, "find / -xdev -name 'core*' -newer /usr/sbin/azguest -type f -size +100k 2>/dev/null"); got != "" {
		t.Errorf("dumps of memory: %s", got)
	}
	t.Logf("%d panics, %d of which ended the agent; %d places", len(plants), crashes, len(places))
}

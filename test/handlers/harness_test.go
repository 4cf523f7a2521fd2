package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/release"
	"github.com/azguest/azguest/test/sandbox"
)

// patience bounds every wait: it is not what is tested, and a slow machine must
// not meet it.
const patience = 5 * time.Minute

func TestMain(m *testing.M) {
	sandbox.Main()
	flag.Parse()
	code := m.Run()
	release.Remove()
	os.Exit(code)
}

// A machine is one VM with the agent installed, and the platform it sees.
type machine struct {
	*sandbox.Sandbox
	f     *fabric.Fabric
	vm    *fabric.VM
	log   buffer // what the agent printed
	agent *sandbox.Process
}

const (
	blobAddress = "192.0.2.10" // TEST-NET, never routed
	lib         = "/var/lib/waagent"
)

const conf = `Extensions.GoalStatePeriod=1
Provisioning.RegenerateSshHostKeyPair=n
Telemetry.Enabled=y
Telemetry.Period=1
Debug.EtpCollectionPeriod=2
`

// newMachine is a machine with the agent installed and not started.
func newMachine(t testing.TB, prov fabric.Provisioning, config func(*fabric.Config)) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	agent, ctl := release.Binary(t, "azguest"), release.Binary(t, "agentctl")
	m := &machine{}
	m.f = fabric.New(t, func(o *fabric.Options) { o.BlobURL = "http://" + blobAddress })
	if prov.User == "" {
		prov.User, prov.Password, prov.AllowPasswords = "azureuser", "C4nary-passw0rd!", true
	}
	if prov.HostName == "" {
		prov.HostName = "handlers"
	}
	options := []fabric.VMOption{fabric.Provision(prov)}
	if config != nil {
		options = append(options, fabric.WithConfig(config))
	}
	m.vm = m.f.CreateVM("vm-01", options...)
	img, err := m.vm.Medium().Image()
	if err != nil {
		t.Fatal(err)
	}
	dvd := filepath.Join(t.TempDir(), "dvd.img")
	if err := os.WriteFile(dvd, img, 0o600); err != nil {
		t.Fatal(err)
	}
	m.Sandbox, err = sandbox.New(t.Context(), sandbox.Options{
		DVD: dvd, DMI: sandbox.AzureDMI("7b1a2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"),
		Addresses: []string{sandbox.WireServer, sandbox.IMDS, blobAddress},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	for service, addr := range map[fabric.Service]string{
		fabric.Wire: sandbox.WireServer + ":80", fabric.HostGA: sandbox.WireServer + ":32526",
		fabric.IMDS: sandbox.IMDS + ":80", fabric.Blob: blobAddress + ":80",
	} {
		if err := m.InNetwork(func() error {
			_, err := m.f.Listen(service, addr, m.vm, false)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{agent: "/usr/sbin/azguest", ctl: "/usr/bin/agentctl"} {
		if err := m.Install(from, to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.write(t, "/etc/waagent.conf", conf, 0o644)
	m.sh(t, "mkdir -p -m 0777 /var/tmp/seen; ulimit -c 0; id nobody >/dev/null")
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("AZGUEST_TEST_LOG") != "" {
			doc, n := m.vm.StatusDocument()
			t.Logf("status document %d: %s\nagent:\n%s", n, doc, m.log.String())
		}
	})
	return m
}

// run starts the agent as its unit does.
func (m *machine) run(t testing.TB, env ...string) {
	t.Helper()
	p, err := m.Start(sandbox.Cmd{Args: []string{"/usr/sbin/azguest", "run"}, Env: env, Stdout: &m.log, Stderr: &m.log})
	if err != nil {
		t.Fatal(err)
	}
	m.agent = p
}

// up starts the agent and waits until the machine is Ready.
func (m *machine) up(t testing.TB, env ...string) *machine {
	t.Helper()
	m.run(t, env...)
	await(t, "Ready", func() bool {
		if h := m.vm.Health(); h.SubStatus == "ProvisioningFailed" {
			t.Fatalf("provisioning failed: %s", h.Description)
		}
		return m.vm.Health().State == "Ready"
	})
	return m
}

// restart kills the agent and starts it again.
func (m *machine) restart(t testing.TB) {
	t.Helper()
	if err := m.agent.Kill(); err != nil {
		t.Fatal(err)
	}
	m.run(t)
	m.alive(t)
}

// alive asks for a status document and waits for it. An agent with nothing
// new to say may be slow to repeat itself, so it gets a new goal state.
func (m *machine) alive(t testing.TB) {
	t.Helper()
	_, before := m.vm.StatusDocument()
	m.vm.Announce(false)
	await(t, "another status document", func() bool {
		select {
		case <-m.agent.Done():
			t.Fatalf("the agent ended, code %d:\n%s", m.agent.Code(), tail(m.log.String(), 4000))
		default:
		}
		_, n := m.vm.StatusDocument()
		return n > before
	})
}

// await asks again and again: what is waited for is seen from outside only.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// put asks the control plane for an extension.
func (m *machine) put(t testing.TB, x fabric.Extension) {
	t.Helper()
	if err := m.vm.Put(x); err != nil {
		t.Fatalf("put %s: %v", x.Handler, err)
	}
}

// settle waits for the end of operations and returns what became of them:
// Succeeded, gone, or the error.
func (m *machine) settle(t testing.TB, names ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, n := range names {
		await(t, "the end of "+n, func() bool {
			state, err := m.vm.ProvisioningState(n)
			switch {
			case err != nil:
				out[n] = err.Error()
			case state == "":
				out[n] = "gone"
			default:
				out[n] = state
			}
			return state == "" || state == "Succeeded" || state == "Failed"
		})
	}
	return out
}

// sh runs a script in the machine and returns what it printed.
func (m *machine) sh(t testing.TB, script string) string {
	t.Helper()
	r, err := m.Run(t.Context(), "sh", "-c", script)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return strings.TrimSpace(r.Stdout)
}

func (m *machine) write(t testing.TB, name, text string, mode os.FileMode) {
	t.Helper()
	if err := m.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) read(t testing.TB, name string) string {
	t.Helper()
	b, err := m.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// A line is one row of the last status document.
type line struct {
	HandlerName, HandlerVersion, Status string
	Code                                json.RawMessage
	FormattedMessage                    struct{ Message string }
	RuntimeSettingsStatus               *struct {
		SequenceNumber json.RawMessage
		ExtensionName  string
		SettingsStatus struct {
			Status struct {
				Name, Operation, Status string
				Code                    json.RawMessage
				FormattedMessage        struct{ Message string }
				Substatus               []json.RawMessage
			}
		}
	}
}

// word is the extension's status, or the handler's if it has none.
func (l line) word() string {
	if l.RuntimeSettingsStatus != nil {
		return l.RuntimeSettingsStatus.SettingsStatus.Status.Status
	}
	return l.Status
}

func (l line) message() string {
	if l.RuntimeSettingsStatus != nil {
		return l.RuntimeSettingsStatus.SettingsStatus.Status.FormattedMessage.Message
	}
	return l.FormattedMessage.Message
}

// rows are the rows of the last status document, by handler and extension.
func (m *machine) rows(t testing.TB) map[string]line {
	t.Helper()
	doc, n := m.vm.StatusDocument()
	out := map[string]line{}
	if n == 0 {
		return out
	}
	var d struct {
		AggregateStatus struct {
			HandlerAggregateStatus []line
		}
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatalf("status document: %v: %s", err, doc)
	}
	for _, l := range d.AggregateStatus.HandlerAggregateStatus {
		key := l.HandlerName
		if l.RuntimeSettingsStatus != nil && l.RuntimeSettingsStatus.ExtensionName != "" {
			key += "." + l.RuntimeSettingsStatus.ExtensionName
		}
		out[key] = l
	}
	return out
}

// row waits for a row of which ok is true.
func (m *machine) row(t testing.TB, key, what string, ok func(line) bool) line {
	t.Helper()
	var last line
	seen := false
	defer func() {
		if t.Failed() {
			t.Logf("last row of %s (seen %v): %+v", key, seen, last)
		}
	}()
	await(t, key+" to be "+what, func() bool {
		l, there := m.rows(t)[key]
		last, seen = l, there
		return there && ok(l)
	})
	return last
}

// buffer collects the output of processes.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

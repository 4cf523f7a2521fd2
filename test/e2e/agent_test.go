package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/sandbox"
)

// conf enables everything that is off by default, and the shortest polling
// intervals, so that tests wait less.
const conf = `
Provisioning.DeleteRootPassword=y
Provisioning.RegenerateSshHostKeyPair=y
Provisioning.SshHostKeyPairType=auto
Provisioning.DecodeCustomData=y
Extensions.GoalStatePeriod=1
`

const password = "Corr3ct-h0rse: <b&ttery>"

// blank is a new machine with all settings that a customer can request, and the
// DVD that the platform attaches.
func blank() setup {
	return setup{Options: machine.Options{
		Sandbox:      sandbox.Options{DMI: sandbox.AzureDMI(machine.VMUUID)},
		Provisioning: fabric.Provisioning{Password: password, CustomData: []byte("#!/bin/sh\n\x00\xff binary\n")},
		Packages:     map[string][]byte{},
	}}
}

// TestFirstBoot: a blank machine is provisioned, and Ready is reported once.
func TestFirstBoot(t *testing.T) {
	t.Parallel()
	c := newAgentCloud(t, blank())
	c.StartAgent(t)
	c.WaitReady(t)
	if got := c.Sh(t, "getent passwd azureuser | cut -d: -f1,6; hostname; cat /etc/hostname; echo; sudo -l -U azureuser | tail -n 1"); !strings.HasPrefix(got, "azureuser:/home/azureuser\nfirst-light\nfirst-light\n") || !strings.HasSuffix(got, "(ALL) ALL") {
		t.Errorf("the machine shows %q, want azureuser with sudo on first-light", got)
	}
	if got := c.ssh(t, "azureuser", "id -un; echo '"+password+"' | sudo -S -p '' id -u; hostname"); got != "azureuser\n0\nfirst-light" {
		t.Errorf("ssh shows %q, want azureuser, root by sudo, first-light", got)
	}
	if n := c.readyReports(); n != 1 {
		t.Errorf("%d Ready reports, want 1", n)
	}
	c.objections(t)
}

// TestExtension: an extension is installed and enabled, and its status is shown
// by the control plane and by agentctl.
func TestExtension(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages = samples(t)
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	c.WaitReady(t)
	if got := c.follow(t, c.put(t, helloExtension)); got != "" {
		t.Errorf("extension: %s, want success", got)
	}
	if v := c.view(t); !strings.Contains(v, "hello world from 1.1.0; protected settings decrypted") {
		t.Errorf("instance view: %s, want the handler's message", v)
	}
	r, err := c.Run(t.Context(), "agentctl", "status", "--output", "json")
	if err != nil {
		t.Error(err)
	}
	if !json.Valid([]byte(r.Stdout)) || !strings.Contains(r.Stdout, "Azguest.Samples.Hello") {
		t.Errorf("agentctl status: %s, want JSON with the extension", r.Stdout)
	}
	if n := c.readyReports(); n != 1 {
		t.Errorf("%d Ready reports, want 1", n)
	}
	c.objections(t)
}

// end returns the state of the machine after provisioning in a comparable form,
// without values that may differ, such as salts and dates.
func (c *cloud) end(t testing.TB) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, name := range []string{"/etc/passwd", "/etc/group", "/etc/gshadow", "/etc/hostname", "/etc/hosts", "/etc/subuid", "/etc/subgid", "/etc/ssh/sshd_config"} {
		b, err := c.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		state[name] = string(b)
	}
	b, err := c.ReadFile("/etc/shadow")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if strings.HasPrefix(f[1], "$") {
			f[1] = strings.Join(strings.SplitN(f[1], "$", 4)[:2], "$")
		}
		lines = append(lines, strings.Join(f, ":"))
	}
	state["/etc/shadow"] = strings.Join(lines, "\n")
	state["sudo"] = c.Sh(t, "cd /etc/sudoers.d && for f in *; do stat -c '%n %a %U' $f; cat $f; done; visudo -cq && echo valid")
	state["sshd"] = c.Sh(t, "cd /etc/ssh && find sshd_config.d -type f | sort | while read f; do stat -c '%n %a %U' $f; grep -v '^#' $f || :; done; sshd -t && sshd -T -C user=azureuser,host=a,addr=127.0.0.1 | sort")
	state["keys"] = c.Sh(t, "cd /home/azureuser && stat -c '%n %a %U:%G' . .ssh .ssh/* && cat .ssh/authorized_keys")
	state["host keys"] = c.Sh(t, "cd /etc/ssh && stat -c '%n %a %U' ssh_host_*")
	state["hostname"] = c.Sh(t, "hostname")
	state["lib"] = c.Sh(t, "cd /var/lib/waagent && stat -c '%n %a' . provisioned CustomData ovf-env.xml && cat provisioned && sha256sum CustomData && ! grep -F 'Corr3ct' ovf-env.xml")
	state["leftovers"] = c.leftovers(t)
	// crypt(3) checks the hash independently of the agent.
	r, err := c.RunCmd(t.Context(), sandbox.Cmd{
		Args:  []string{"perl", "-e", `$h = (getpwnam "azureuser")[1]; chomp($p = <STDIN>); print crypt($p, $h) eq $h ? "right" : "wrong"`},
		Stdin: strings.NewReader(password + "\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	state["password"] = r.Stdout
	return state
}

// leftovers lists the temporary files that interrupted writes have left. It
// looks more than once, because a file that is being written disappears soon.
func (c *cloud) leftovers(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		left := c.Sh(t, "find /etc /home /var/lib/waagent -name '*.azg-*' -o -name '*.lock' -path '/etc/*' -o -name '*.azguest*' -path '/etc/*' | sort")
		if !strings.Contains(left, ".azg-") || ctx.Err() != nil {
			return left
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// A journal is the agent's record of its provisioning.
type journal struct {
	Finished time.Time `json:"finished"`
	Steps    []struct {
		ID    string `json:"id"`
		State string `json:"state"`
	} `json:"steps"`
}

func (c *cloud) journal(t testing.TB) journal {
	t.Helper()
	var j journal
	b, err := c.ReadFile("/var/lib/waagent/azguest/provision.json")
	if errors.Is(err, fs.ErrNotExist) {
		return j
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &j); err != nil {
		t.Fatalf("provision.json: %v: %s", err, b)
	}
	return j
}

// provisioned waits until every step has ended, including those after Ready.
func (c *cloud) provisioned(t testing.TB) journal {
	t.Helper()
	c.WaitReady(t)
	var j journal
	await(t, "the end of the journal", func() bool {
		j = c.journal(t)
		late := false
		for _, s := range j.Steps {
			if s.State == "planned" || s.State == "doing" {
				return false
			}
			// Steps after Ready are recorded when they begin.
			late = late || s.ID == "late-host-keys"
		}
		return late
	})
	return j
}

// TestKilledAfterEachStep: if the agent is killed with SIGKILL right after any
// step and started again, in the same boot or after a reboot, the result is
// that of an undisturbed run. The steps are those in the journal of the
// undisturbed run.
func TestKilledAfterEachStep(t *testing.T) {
	t.Parallel()
	o := blank()
	key := newKey(t)
	o.key = key
	whole := newAgentCloud(t, o)
	whole.StartAgent(t)
	steps := whole.provisioned(t).Steps
	if len(steps) < 8 {
		t.Fatalf("only %d steps in the journal: %+v", len(steps), steps)
	}
	want := whole.end(t)
	if want["password"] != "right" {
		t.Errorf("crypt(3) says the password is %s", want["password"])
	}
	if n := whole.readyReports(); n != 1 {
		t.Errorf("%d Ready reports, want 1", n)
	}
	for _, step := range steps {
		for _, reboot := range []bool{false, true} {
			name := step.ID
			if reboot {
				name += "+reboot"
			}
			t.Run(name, func(t *testing.T) {
				c := newAgentCloud(t, o)
				p := c.StartAgent(t, "AZGUEST_TEST_DIE_AFTER="+step.ID)
				select {
				case <-p.Done():
				case <-time.After(patience):
					t.Fatalf("the agent lives on after step %s (%s)", step.ID, step.State)
				}
				if code := p.Code(); code != -1 {
					t.Fatalf("the agent ended with code %d, not by a signal", code)
				}
				before := c.readyReports()
				if reboot {
					c.Reboot(t)
				}
				c.StartAgent(t)
				// Once in each boot that reaches it, and never twice.
				wantReady := before
				if reboot || before == 0 {
					wantReady++
				}
				await(t, "Ready", func() bool { return c.readyReports() >= wantReady })
				c.provisioned(t)
				if diff := cmp.Diff(want, c.end(t)); diff != "" {
					t.Errorf("end state (-undisturbed +killed):\n%s", diff)
				}
				if n := c.readyReports(); n != wantReady {
					t.Errorf("%d Ready reports, want %d", n, wantReady)
				}
			})
		}
	}
}

// TestKilledAtAnyTime kills the agent at moments spread over the first boot,
// which may also be in the middle of a step.
func TestKilledAtAnyTime(t *testing.T) {
	t.Parallel()
	o := blank()
	o.key = newKey(t)
	whole := newAgentCloud(t, o)
	start := time.Now()
	whole.StartAgent(t)
	whole.provisioned(t)
	took := time.Since(start)
	want := whole.end(t)
	const moments = 16
	for i := range moments {
		after := took * time.Duration(i) / moments
		t.Run(fmt.Sprintf("%d of %d", i, moments), func(t *testing.T) {
			c := newAgentCloud(t, o)
			p := c.StartAgent(t)
			// A fixed delay: the moment is the input of this test.
			time.Sleep(after)
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 {
				c.Reboot(t)
			}
			c.StartAgent(t)
			c.provisioned(t)
			if diff := cmp.Diff(want, c.end(t)); diff != "" {
				t.Errorf("killed after %v: end state (-undisturbed +killed):\n%s", after, diff)
			}
		})
	}
}

func TestAgentRestartLeavesHandlerRunning(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages["Azguest.E2E.Slow/1.0.0"] = handler(t, slow)
	c := newAgentCloud(t, o)
	p := c.StartAgent(t)
	c.WaitReady(t)
	op := c.put(t, extension{name: "slow", publisher: "Azguest.E2E", kind: "Slow", version: "1.0", settings: map[string]any{"patience": "long"}})
	var calls []byte
	await(t, "enable to run", func() bool {
		calls, _ = c.ReadFile("/var/tmp/handler/calls")
		return bytes.Contains(calls, []byte("enable"))
	})
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	_, before := c.VM.StatusDocument()
	c.StartAgent(t)
	await(t, "the new agent's status", func() bool {
		doc, n := c.VM.StatusDocument()
		return n > before && strings.Contains(string(doc), "Azguest.E2E.Slow")
	})
	c.Sh(t, "touch /var/tmp/handler/go")
	if got := c.follow(t, op); got != "" {
		t.Errorf("extension: %s", got)
	}
	after, err := c.ReadFile("/var/tmp/handler/calls")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(calls), string(after)); diff != "" {
		t.Errorf("commands of the handler (-before +after the restart):\n%s", diff)
	}
	f := strings.Fields(string(calls))
	if !strings.Contains(c.view(t), "waited in process "+f[len(f)-1]) {
		t.Errorf("another process answered: %s", c.view(t))
	}
}

func TestAgentctlWithoutAgent(t *testing.T) {
	c := newAgentCloud(t, blank())
	r, _ := c.Run(t.Context(), "agentctl", "status")
	if r.Code != 3 {
		t.Errorf("before the first start: exit %d, want 3: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	p := c.StartAgent(t)
	c.WaitReady(t)
	if r, err := c.Run(t.Context(), "agentctl", "status", "--wait=ready", "--timeout", "30s"); err != nil {
		t.Errorf("while it runs: %v %s", err, r.Stdout)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	r, _ = c.Run(t.Context(), "agentctl", "status")
	if r.Code != 3 || !strings.Contains(r.Stdout, "NOT RUNNING") || !strings.Contains(r.Stdout, " old, written ") {
		t.Errorf("after its death: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
}

func TestTelemetryOff(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprintf("on=%v", on), func(t *testing.T) {
			o := blank()
			o.telemetry = on
			o.Packages = samples(t)
			c := newAgentCloud(t, o)
			if on {
				c.Sh(t, "echo Telemetry.Period=1 >>/etc/waagent.conf")
			}
			p := c.StartAgent(t)
			c.WaitReady(t)
			if got := c.follow(t, c.put(t, helloExtension)); got != "" {
				t.Fatal(got)
			}
			if on {
				await(t, "telemetry", func() bool { return c.VM.Requests(fabric.Telemetry) > 0 })
				return
			}
			if err := p.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			<-p.Done()
			if n := c.VM.Requests(fabric.Telemetry); n != 0 {
				t.Errorf("%d telemetry requests although it is off", n)
			}
			if got := c.Sh(t, "ls /var/lib/waagent/events 2>/dev/null | wc -l"); got != "0" {
				t.Errorf("%s event files although telemetry is off", got)
			}
		})
	}
}

func TestMalformedMedium(t *testing.T) {
	t.Parallel()
	// without writes the document again with a part replaced.
	without := func(old, now string) func(testing.TB, *fabric.Medium) {
		return func(t testing.TB, m *fabric.Medium) {
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
		change func(testing.TB, *fabric.Medium)
		reason string
	}{
		"cut":       {func(_ testing.TB, m *fabric.Medium) { m.Malformed = true }, `(?i)ovf-env\.xml`},
		"empty":     {func(_ testing.TB, m *fabric.Medium) { m.Raw = []byte{} }, `(?i)ovf-env\.xml`},
		"bad user":  {without("<UserName>azureuser<", "<UserName>../etc<"), `(?i)user`},
		"root user": {without("<UserName>azureuser<", "<UserName>root<"), `(?i)root`},
		"DOCTYPE":   {without("<Environment ", "<!DOCTYPE x [<!ENTITY a \"b\">]><Environment "), `(?i)ovf-env\.xml`},
	} {
		t.Run(name, func(t *testing.T) {
			o := blank()
			o.Medium = func(m *fabric.Medium) { tc.change(t, m) }
			o.NoIMDS = true // IMDS could replace everything but the password
			c := newAgentCloud(t, o)
			c.StartAgent(t)
			await(t, "ProvisioningFailed", func() bool {
				h := c.VM.Health()
				if h.State == "Ready" {
					t.Fatalf("a machine with a bad medium is Ready: %s", c.Sh(t, "tail -n 3 /etc/passwd"))
				}
				return h.State == "NotReady" && h.SubStatus == "ProvisioningFailed"
			})
			if h := c.VM.Health(); !regexp.MustCompile(tc.reason).MatchString(h.Description) {
				t.Errorf("reason %q says nothing about %s", h.Description, tc.reason)
			}
			if _, err := c.ReadFile("/var/lib/waagent/provisioned"); err == nil {
				t.Error("the marker was written")
			}
		})
	}
}

// TestNoMedium: without a DVD, the metadata service suffices to provision a
// machine with SSH keys.
func TestNoMedium(t *testing.T) {
	t.Parallel()
	o := blank()
	o.NoMedium = true
	o.Provisioning = fabric.Provisioning{}
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	await(t, "an answer to provisioning", func() bool {
		h := c.VM.Health()
		return h.State == "Ready" || h.SubStatus == "ProvisioningFailed"
	})
	if h := c.VM.Health(); h.State != "Ready" {
		t.Fatalf("not ready: %s", h.Description)
	}
	if got := c.ssh(t, "azureuser", "hostname; sudo -n id -u"); got != "first-light\n0" {
		t.Errorf("ssh shows %q", got)
	}
}

func TestISO9660(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Sandbox.PlainDVD = true
	o.Medium = func(m *fabric.Medium) { m.FS = fabric.ISO9660 }
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	c.WaitReady(t)
	if got := c.Sh(t, "getent passwd azureuser | cut -d: -f6; hostname"); got != "/home/azureuser\nfirst-light" {
		t.Errorf("the machine shows %q", got)
	}
}

func TestExtensionFails(t *testing.T) {
	t.Parallel()
	o := blank()
	o.Packages = samples(t)
	o.Packages["Azguest.E2E.Crash/1.0.0"] = handler(t, crash)
	c := newAgentCloud(t, o)
	c.StartAgent(t)
	c.WaitReady(t)
	if got := c.follow(t, c.put(t, extension{name: "crash", publisher: "Azguest.E2E", kind: "Crash", version: "1.0"})); !strings.Contains(got, "52") || !strings.Contains(got, "disk is full") {
		t.Errorf("the control plane says %q; want the exit code and the reason", got)
	}
	if got := c.follow(t, c.put(t, helloExtension)); got != "" {
		t.Errorf("another extension suffers: %s", got)
	}
	if h := c.VM.Health(); h.State != "Ready" {
		t.Errorf("the machine is %s", h.State)
	}
	r, _ := c.Run(t.Context(), "agentctl", "status")
	if r.Code != 1 || !strings.Contains(r.Stdout, "Azguest.E2E.Crash") {
		t.Errorf("agentctl status: exit %d, want 1: %s", r.Code, r.Stdout)
	}
}

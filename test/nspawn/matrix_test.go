package nspawn

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// agentFirst is the unit file of images that want the agent to start first:
// cloud-init starts once the agent has notified systemd that it is up.
func agentFirst(t testing.TB) map[string]string {
	t.Helper()
	unit, err := os.ReadFile("../../agent/azguest.service")
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^(After|Before|Wants)=.*\n`).ReplaceAllString(string(unit), "")
	text = strings.Replace(text, "[Service]\n", "DefaultDependencies=no\nConflicts=shutdown.target\n"+
		"After=systemd-remount-fs.service systemd-tmpfiles-setup.service\nBefore=cloud-init-local.service shutdown.target\n\n[Service]\n", 1)
	return map[string]string{"/etc/systemd/system/azguest.service": text}
}

// holdInit and holdFinal keep cloud-init in its init or final stage until
// /run/go-init or /run/go-final exists.
const (
	holdInit  = "bootcmd:\n- until [ -e /run/go-init ]; do sleep 0.1; done\n"
	holdFinal = "runcmd:\n- until [ -e /run/go-final ]; do sleep 0.1; done\n"
)

// A bootCase is one order of events in a boot.
type bootCase struct {
	name     string
	files    map[string]string
	first    string // "agent", "provisioner"; empty as shipped
	config   string
	user     string // custom data: cloud-config without its first line
	noCloud  bool   // cloud-init is switched off
	play     func(*container)
	by       string // who provisions in the end
	ready    string // who reports Ready; empty for nobody
	state    string // of provisioning; default done
	accounts int    // how often the account is created
	log      string // what the agent must have logged
	problem  string // code of the one problem that remains
}

func bootCases() []bootCase {
	return []bootCase{
		{name: "alone", noCloud: true, by: "azguest", ready: "azguest", accounts: 1},
		{
			name: "cloud-init for another platform", by: "azguest", ready: "azguest", accounts: 1,
			files: map[string]string{"/etc/cloud/cloud.cfg.d/95-list.cfg": "datasource_list: [NoCloud]\n"},
		},
		{name: "disabled and nobody else", config: "Provisioning.Agent=disabled\n", noCloud: true, by: "nobody", ready: "azguest", state: "disabled"},
		{name: "disabled beside cloud-init", config: "Provisioning.Agent=disabled\n", by: "cloud-init", ready: "cloud-init", accounts: 1},
		{name: "cloud-init, agent first", first: "agent", by: "cloud-init", ready: "cloud-init", accounts: 1},
		{name: "cloud-init, provisioner first", first: "provisioner", by: "cloud-init", ready: "cloud-init", accounts: 1},
		{
			name: "extensions after nothing", user: holdFinal, config: "Extensions.After=none\n", by: "cloud-init", ready: "cloud-init", accounts: 1,
			play: func(m *container) {
				m.succeeded()
				m.passed("init")
				m.sh("touch /run/go-final")
			},
		},
		{
			name: "extensions after config", first: "agent", user: holdFinal, config: "Extensions.After=config\n", by: "cloud-init", ready: "cloud-init", accounts: 1,
			play: func(m *container) {
				m.succeeded()
				m.passed("init", "modules-config")
				m.sh("touch /run/go-final")
			},
		},
		{
			name: "extensions after final", user: holdFinal, config: "Extensions.After=final\n", by: "cloud-init", ready: "cloud-init", accounts: 1,
			play: func(m *container) {
				m.waiting("cloud-init's final stage")
				m.sh("touch /run/go-final")
				m.succeeded()
				m.passed("init", "modules-config", "modules-final")
			},
		},
		{
			name: "agent killed while it waits", first: "agent", user: holdInit + holdFinal, config: "Extensions.WaitForCloudInit=y\n",
			by: "cloud-init", ready: "cloud-init", accounts: 1,
			play: func(m *container) {
				m.waiting("/run/cloud-init/enabled")
				m.kill()
				m.waiting("/run/cloud-init/enabled")
				m.sh("touch /run/go-init")
				m.waiting("cloud-init's final stage")
				m.kill()
				m.waiting("cloud-init's final stage")
				m.sh("touch /run/go-final")
				m.succeeded()
				m.passed("init", "modules-config", "modules-final")
			},
		},
		{
			name: "cloud-init killed before Ready", files: map[string]string{"/etc/crash-mount": ""},
			by: "azguest", ready: "azguest", accounts: 1, log: "taking over",
		},
		{
			name: "cloud-init killed before Ready, agent first", first: "agent", files: map[string]string{"/etc/crash-mount": ""},
			by: "azguest", ready: "azguest", accounts: 1, log: "taking over",
		},
		{
			name: "cloud-init killed before Ready, chosen by name", files: map[string]string{"/etc/crash-mount": ""},
			config: "Provisioning.Agent=cloud-init\n", by: "cloud-init", state: "failed",
		},
		{
			name: "cloud-init killed after Ready", first: "agent", user: "bootcmd:\n- kill -9 $PPID\n",
			by: "azguest", ready: "cloud-init", accounts: 1, log: "taking over",
			problem: "AZ-PROV-CUSTOMDATA", // it is for cloud-init
		},
		{
			// Between its Ready report and the first trace of it on disk.
			name: "cloud-init killed right after Ready", files: map[string]string{"/etc/crash-ip": ""},
			by: "azguest", ready: "cloud-init", accounts: 1, log: "taking over",
		},
		{
			name: "cloud-init killed with half an account", files: map[string]string{"/etc/crash-ssh-keygen": ""},
			by: "azguest", ready: "cloud-init", accounts: 1, log: "taking over",
		},
		{
			name: "cloud-init killed in its last stage", user: "runcmd:\n- kill -9 $PPID\n", config: "Extensions.After=final\n",
			by: "cloud-init", ready: "cloud-init", accounts: 1, log: "extensions start without",
		},
	}
}

// TestProvisioners: combinations of who provisions, who starts first, and who
// dies.
func TestProvisioners(t *testing.T) {
	for _, c := range bootCases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := order{
				noCloudInit: c.noCloud, config: c.config, extension: probe, asleep: c.first == "provisioner",
				files: map[string]string{},
			}
			o.packages = append(o.packages, probePackage())
			if c.user != "" {
				o.provisioning.CustomData = []byte("#cloud-config\n" + c.user)
			}
			if c.first == "agent" {
				o.files = agentFirst(t)
			}
			maps.Copy(o.files, c.files)
			m := newMachine(t, o)
			m.on()
			if c.first == "provisioner" {
				m.await("cloud-init's end", func() bool { m.alive(); return m.holds("test -e /run/cloud-init/result.json") })
				m.sh("touch /run/wake-azguest; systemctl start azguest")
			}
			if c.play != nil {
				c.play(m)
			}
			m.succeeded()
			if s := m.provisioned(); s.Provisioning.By != c.by || s.Provisioning.State != or(c.state, "done") {
				t.Errorf("provisioning is %s by %s, want %s by %s", s.Provisioning.State, s.Provisioning.By, or(c.state, "done"), c.by)
			}
			m.settledWith(c.problem)
			m.told(c.ready)
			if n := m.sh(`journalctl -b --no-pager -o cat -t useradd | grep -c 'new user: name=azureuser' || true`); n != itoa(c.accounts) {
				t.Errorf("the account was made %s times, want %d", n, c.accounts)
			}
			if c.accounts > 0 {
				m.usable()
			}
			if c.log != "" && !m.holds(`journalctl -b -u azguest --no-pager -o cat | grep -q '`+c.log+`'`) {
				t.Errorf("the agent does not say %q", c.log)
			}
			if c.state != "failed" && !m.holds("agentctl status --wait ready --timeout 30s >/dev/null; [ $? -le 1 ]") {
				t.Error("agentctl does not call the machine ready")
			}
			m.once("install", "enable")
		})
	}
}

// usable asserts that the customer can log in: the account with its key,
// created before the extension ran.
func (m *container) usable() {
	m.t.Helper()
	if got := m.sh("cat ~azureuser/.ssh/authorized_keys; stat -c '%U %a' ~azureuser/.ssh/authorized_keys"); !strings.Contains(got, "customer@example") || !strings.HasSuffix(got, "\nazureuser 600") {
		m.t.Errorf("authorized keys: %s", got)
	}
	if got := m.sh("cat /var/lib/probe/account"); got == "" {
		m.t.Error("the extension ran before the account was there")
	}
	if got := m.sh("ls /etc/ssh/ssh_host_*_key | wc -l; sudo -l -U azureuser | grep -c NOPASSWD"); strings.HasPrefix(got, "0\n") || strings.HasSuffix(got, "\n0") {
		m.t.Errorf("host keys and rights to sudo: %s", got)
	}
}

// passed asserts which stages of cloud-init had ended when the probe ran.
func (m *container) passed(want ...string) {
	m.t.Helper()
	var s struct {
		V1 map[string]json.RawMessage `json:"v1"`
	}
	m.must(json.Unmarshal([]byte(m.probed("status.json")), &s))
	var have []string
	for _, name := range []string{"init", "modules-config", "modules-final"} {
		var stage struct{ Finished *float64 }
		m.must(json.Unmarshal(s.V1[name], &stage))
		if stage.Finished != nil {
			have = append(have, name)
		}
	}
	// With "none", cloud-init may have advanced by itself.
	if len(have) < len(want) || strings.Join(have[:len(want)], " ") != strings.Join(want, " ") {
		m.t.Errorf("the extension ran when cloud-init had ended %q, want %q", have, want)
	}
}

// waiting waits until agentctl reports what the agent waits for, and asserts
// that no extension runs meanwhile.
func (m *container) waiting(want string) {
	m.t.Helper()
	m.await("agentctl to say that it waits for "+want, func() bool {
		m.alive()
		return strings.Contains(m.status().Provisioning.Waiting, want)
	})
	if m.holds("test -e /var/lib/probe") {
		m.t.Errorf("the extension does not wait for %s", want)
	}
	if out, _ := m.try("agentctl status"); !strings.Contains(out, want) {
		m.t.Errorf("agentctl does not show that %s is waited for:\n%s", want, out)
	}
}

// kill kills the agent with SIGKILL and waits for the next one.
func (m *container) kill() {
	m.t.Helper()
	old := m.sh("systemctl show -P MainPID azguest")
	m.sh("kill -9 " + old)
	m.await("the next agent", func() bool {
		m.alive()
		now, _ := m.try("systemctl show -P MainPID azguest")
		return now != old && now != "0" && now != "" && itoa(m.status().Agent.PID) == now
	})
}

// told asserts the platform's health reports: Ready once from who, or none at
// all.
func (m *container) told(who string) {
	m.t.Helper()
	if who != "" {
		m.oneReady(who)
		return
	}
	for _, e := range m.f.Journal(fabric.Query{Kind: fabric.Health}) {
		m.t.Errorf("told the platform: %s", e.Body)
	}
}

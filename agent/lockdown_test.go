package agent

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/doctor"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/provisioning"
)

// machine is what the classic agent has left on a machine: its configuration
// and other files.
type machine struct {
	root  host.Root
	conf  *config.Config
	codes []string // of doctor's findings
	text  string   // text of doctor's findings
}

func leftBy(t *testing.T, conf string, others map[string]string) machine {
	t.Helper()
	m := machine{root: host.Root(t.TempDir())}
	all := map[string]string{"/sys/class/dmi/id/chassis_asset_tag": azureTag + "\n"}
	if conf != "" {
		all["/etc/waagent.conf"] = conf
	}
	maps.Copy(all, others)
	for name, text := range all {
		if err := os.MkdirAll(filepath.Dir(m.root.Path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, link := strings.CutPrefix(text, "-> "); link {
			if err := os.Symlink(target, m.root.Path(name)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(m.root.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	paths := config.DefaultPaths()
	paths.Root = string(m.root)
	c, warnings, err := config.Load(paths)
	m.conf = c
	for _, f := range doctor.Run(t.Context(), doctor.Env{
		Root: string(m.root), Now: time.Now(), Config: c, Warnings: warnings, ConfigErr: err,
		Life: status.Life{Known: true, Running: true}, Snapshot: status.Snapshot{WrittenAt: time.Now()},
		Statfs: func(_ string, st *unix.Statfs_t) error { *st = unix.Statfs_t{}; return nil },
	}) {
		if f.State == status.OK || !slices.Contains([]string{"configuration", "lock-downs", "switch"}, f.Check) {
			continue
		}
		m.codes = append(m.codes, f.Code)
		m.text += f.Evidence + "\n"
	}
	slices.Sort(m.codes)
	return m
}

// is returns in a word what is in force on the machine now.
func (m machine) is(what string) string {
	c := m.conf
	onOff := func(on bool) string { return map[bool]string{true: "on", false: "off"}[on] }
	switch what {
	case "firewall":
		return onOff(FirewallWanted(m.root, c))
	case "extensions":
		return c.Extensions.Mode
	case "policy":
		return c.Policy.Mode
	case "Contoso.Forbidden":
		a := policy.Explain(m.root, policy.Config{File: c.Policy.File, Mode: c.Policy.Mode}, what, "1.0", "")
		return map[bool]string{true: "allowed", false: "refused"}[a.Allowed]
	case "unsigned packages":
		a := policy.Explain(m.root, policy.Config{File: c.Policy.File, Mode: c.Policy.Mode}, "Contoso.Any", "1.0", "")
		return map[bool]string{false: "allowed", true: "refused"}[a.Signature]
	case "updates":
		return c.Update.Mode
	case "provisioning":
		machine := provisioning.NewMachine(&provisioning.System{Root: m.root}, provisioning.Options{}, provisioning.Identity{})
		return string(machine.FindOwner(c.Provisioning.Agent).Owner)
	case "log upload":
		return onOff(c.Logs.Collect)
	case "proxy":
		return fmt.Sprintf("%s %d", c.Proxy.Host, c.Proxy.Port)
	case "temporary disk":
		return onOff(c.ResourceDisk.Format)
	case "root's password":
		return map[bool]string{true: "locked", false: "kept"}[c.Provisioning.DeleteRootPassword]
	case "custom data":
		return map[bool]string{true: "run", false: "not run"}[c.Provisioning.ExecuteCustomData]
	}
	return "?"
}

const (
	allowList = `{"policyVersion": "0.1.0", "extensionPolicies": {"allowListedExtensionsOnly": true, "extensions": {"Contoso.Listed": {}}}}`
	signed    = `{"policyVersion": "0.1.0", "extensionPolicies": {"signatureRequired": true}}`
)

// TestLockDownsSurvive: restrictions that were configured for the classic agent
// are in force with this agent, too, or stricter, or doctor reports that they
// are not. Each row is a configuration as it is found on machines.
func TestLockDownsSurvive(t *testing.T) {
	t.Parallel()
	const policyFile = "/etc/waagent_policy.json"
	policy := func(text string) map[string]string { return map[string]string{policyFile: text} }
	rows := []struct {
		name   string
		conf   string
		others map[string]string
		what   string
		want   string
		codes  string // of doctor, sorted
	}{
		{"SEC12 no file at all", "", nil, "firewall", "on", ""},
		{"SEC12 nothing said", "Logs.Verbose=n\n", nil, "firewall", "on", ""},
		{"SEC12 in a comment", "# OS.EnableFirewall=n\nLogs.Verbose=n\n", nil, "firewall", "on", ""},
		{"SEC12 in an indented comment", " # OS.EnableFirewall=n\nLogs.Verbose=n\n", nil, "firewall", "on", ""},
		{"SEC12 None", "OS.EnableFirewall=None\n", nil, "firewall", "on", ""},
		{"SEC12 on", "OS.EnableFirewall=y\n", nil, "firewall", "on", ""},
		{"SEC12 on, Windows", "\xef\xbb\xbfOS.EnableFirewall = \"Y\"\r\n", nil, "firewall", "on", ""},
		{"SEC12 not understood", "OS.EnableFirewall=no\n", nil, "firewall", "on", "AZ-CONF-VALUE"},
		{"SEC12 misspelt", "OS.EnableFirewal=n\n", nil, "firewall", "on", "AZ-CONF-UNKNOWN"},
		{"SEC12 other case of the key", "os.enablefirewall=n\n", nil, "firewall", "on", "AZ-CONF-UNKNOWN"},
		{"SEC12 off", "OS.EnableFirewall=n\n", nil, "firewall", "off", "AZ-FW-OFF"},
		{"SEC12 off, Windows", "OS.EnableFirewall=N   # by request\r\n", nil, "firewall", "off", "AZ-FW-OFF"},
		{"SEC12 off in a drop-in", "OS.EnableFirewall=y\n", map[string]string{"/etc/waagent.conf.d/x.conf": "OS.EnableFirewall=n\n"}, "firewall", "off", "AZ-FW-OFF"},
		{"SEC12 twice, the last counts", "OS.EnableFirewall=n\nOS.EnableFirewall=y\n", nil, "firewall", "on", ""},
		{"SEC12 another platform, nothing said", "", map[string]string{"/sys/class/dmi/id/chassis_asset_tag": "Bochs\n"}, "firewall", "off", ""},
		{"SEC12 another tag, the platform was found", "", map[string]string{"/sys/class/dmi/id/chassis_asset_tag": "Bochs\n", "/var/lib/waagent/WireServerEndpoint": "168.63.129.16"}, "firewall", "on", ""},
		{"SEC12 another platform, on", "OS.EnableFirewall=y\n", map[string]string{"/sys/class/dmi/id/chassis_asset_tag": "Bochs\n"}, "firewall", "on", ""},

		{"SEC15 a policy, no switch", "Logs.Verbose=n\n", policy(allowList), "Contoso.Forbidden", "refused", ""},
		{"SEC15 a policy, no configuration", "", policy(allowList), "Contoso.Forbidden", "refused", ""},
		{"SEC15 a policy, on", "Debug.EnableExtensionPolicy=y\n", policy(allowList), "Contoso.Forbidden", "refused", ""},
		{"SEC15 a policy, switch not understood", "Debug.EnableExtensionPolicy=true\n", policy(allowList), "Contoso.Forbidden", "refused", "AZ-CONF-VALUE"},
		{"SEC15 a policy, mode not understood", "Extensions.PolicyMode=enforced\n", policy(allowList), "Contoso.Forbidden", "refused", "AZ-CONF-VALUE"},
		{"SEC15 a policy, switch in a comment", "#Debug.EnableExtensionPolicy=n\n", policy(allowList), "Contoso.Forbidden", "refused", ""},
		{"SEC15 a policy, off", "Debug.EnableExtensionPolicy=n\r\n", policy(allowList), "Contoso.Forbidden", "allowed", "AZ-POL-OFF"},
		{"SEC15 a policy, off in our words", "Extensions.PolicyMode=off\n", policy(allowList), "Contoso.Forbidden", "allowed", "AZ-POL-OFF"},
		{"SEC15 a policy, audit", "Extensions.PolicyMode=audit\n", policy(allowList), "Contoso.Forbidden", "allowed", "AZ-POL-OFF"},
		{"SEC15 elsewhere", "Policy.PolicyFilePath=/etc/p.json\n", map[string]string{"/etc/p.json": allowList}, "Contoso.Forbidden", "refused", ""},
		{"SEC15 elsewhere, and not there", "Policy.PolicyFilePath=/etc/p.json\n", nil, "Contoso.Forbidden", "allowed", "AZ-POL-NOFILE"},
		{"SEC15 ordered, and not there", "Debug.EnableExtensionPolicy=y\n", nil, "Contoso.Forbidden", "allowed", "AZ-POL-NOFILE"},
		{"SEC15 none", "", nil, "Contoso.Forbidden", "allowed", ""},
		{"SEC15 broken", "", policy("{"), "Contoso.Forbidden", "refused", ""},
		{"SEC15 empty", "", policy(""), "Contoso.Forbidden", "refused", ""},
		{"SEC15 of a later version", "", policy(`{"policyVersion": "9.0.0"}`), "Contoso.Forbidden", "refused", ""},
		{"SEC15 unknown attribute", "", policy(`{"policyVersion": "0.1.0", "extensionPolicies": {"allowOnly": true}}`), "Contoso.Forbidden", "refused", ""},
		{"SEC15 a directory", "", map[string]string{policyFile + "/x": ""}, "Contoso.Forbidden", "refused", ""},
		{"SEC15 below a file", "Policy.PolicyFilePath=/etc/hostname/p.json\n", map[string]string{"/etc/hostname": "vm"}, "Contoso.Forbidden", "refused", ""},
		{"SEC15 a link to nothing", "", policy("-> /nowhere"), "Contoso.Forbidden", "refused", ""},
		{"SEC15 too large", "", policy(allowList + strings.Repeat(" ", 1<<20)), "Contoso.Forbidden", "refused", ""},
		{"SEC15 signatures required", "", policy(signed), "unsigned packages", "refused", ""},
		{"SEC15 validation of signatures", "Debug.EnableSignatureValidation=y\n", nil, "unsigned packages", "allowed", " "},

		{"extensions off", "Extensions.Enabled=n\n", nil, "extensions", "off", "AZ-EXT-DISABLED"},
		{"extensions off, Windows", "Extensions.Enabled = N # never\r\n", nil, "extensions", "off", "AZ-EXT-DISABLED"},
		{"extensions off, quoted", "Extensions.Enabled=\"n\"\n", nil, "extensions", "off", "AZ-EXT-DISABLED"},
		{"extensions off, not understood by either agent", "Extensions.Enabled=false\n", nil, "extensions", "on", "AZ-CONF-VALUE"},
		{"the agent off, by the platform", "", map[string]string{"/var/lib/waagent/disable_agent": ""}, "extensions", "on", "AZ-AGENT-DISABLED"},
		{"updates off", "AutoUpdate.Enabled=n\n", nil, "updates", "off", ""},
		{"updates off, newer key", "AutoUpdate.UpdateToLatestVersion=n\n", nil, "updates", "off", ""},
		{"updates off, both", "AutoUpdate.Enabled=y\nAutoUpdate.UpdateToLatestVersion=n\n", nil, "updates", "off", ""},
		{"updates, nothing said", "", nil, "updates", "distro", ""},
		{"provisioning by nobody", "Provisioning.Agent=Disabled\r\n", nil, "provisioning", "nobody", ""},
		{"provisioning by cloud-init", "Provisioning.Agent=cloud-init\n", nil, "provisioning", "cloud-init", ""},
		{"provisioning off, as until 2.2.45", "Provisioning.Enabled=n\n", nil, "provisioning", "azguest", "AZ-CONF-VALUE"},
		{"provisioning off, as until 2.2.45, and the newer key", "Provisioning.Enabled=n\nProvisioning.Agent=disabled\n", nil, "provisioning", "nobody", ""},
		{"root's password locked", "Provisioning.DeleteRootPassword=y\n", nil, "root's password", "locked", ""},
		{"custom data not run", "", nil, "custom data", "not run", ""},
		{"temporary disk left alone", "ResourceDisk.Format=n\n", nil, "temporary disk", "off", ""},
		{"no logs to support", "Logs.Collect=n\n", nil, "log upload", "off", ""},
		{"a proxy", "HttpProxy.Host=proxy.contoso.com\nHttpProxy.Port=3128\n", nil, "proxy", "proxy.contoso.com 3128", ""},
		{"a proxy without a usable port", "HttpProxy.Host=proxy.contoso.com\nHttpProxy.Port=None\n", nil, "proxy", "proxy.contoso.com 0", ""},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			m := leftBy(t, r.conf, r.others)
			if got := m.is(r.what); got != r.want {
				t.Errorf("%s: %s, want %s", r.what, got, r.want)
			}
			if got := strings.Join(m.codes, " "); got != strings.TrimSpace(r.codes) || r.codes == " " && m.text == "" {
				t.Errorf("doctor says %q, want %q\n%s", got, r.codes, m.text)
			}
		})
	}
}

// TestSEC15StatusSaysWhichAndWhy: the snapshot names the mode of the policy,
// what decided it, and the files, enforced or not.
func TestSEC15StatusSaysWhichAndWhy(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ conf, mode, why string }{
		{"", "enforce", "default: a policy file is enforced if it exists"},
		{"Debug.EnableExtensionPolicy=n\n", "off", "Debug.EnableExtensionPolicy=n in /etc/waagent.conf:1"},
		{"\nExtensions.PolicyMode=audit\n", "audit", "Extensions.PolicyMode=audit in /etc/waagent.conf:2"},
	} {
		m := leftBy(t, tc.conf, map[string]string{"/etc/waagent_policy.json": allowList})
		a := New(Options{Root: m.root, Config: m.conf})
		a.showPolicy()
		want := status.Policy{Mode: tc.mode, Why: tc.why, Source: "/etc/waagent_policy.json"}
		if got := a.live.copy().Policy; got.Mode != want.Mode || got.Why != want.Why || got.Source != want.Source {
			t.Errorf("%q: %+v, want %+v", tc.conf, got, want)
		}
	}
}

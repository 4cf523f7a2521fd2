package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/test/peak"
)

// classicKeys returns the classic options with the defaults of the classic
// agent's code (provisioning/SPEC.md §15), except two: the firewall and the
// extension policy are off only if configured so. "" is None.
func classicKeys() map[string]string {
	return map[string]string{
		"Extensions.Enabled": "y", "Extensions.GoalStatePeriod": "6", "Extensions.InitialGoalStatePeriod": "6",
		"Extensions.WaitForCloudInit": "n", "Extensions.WaitForCloudInitTimeout": "3600", "Extension.LogDir": "/var/log/azure",
		"Lib.Dir": "/var/lib/waagent", "DVD.MountPoint": "/mnt/cdrom/secure", "Pid.File": "/var/run/waagent.pid",
		"Provisioning.Agent": "auto", "Provisioning.DeleteRootPassword": "n", "Provisioning.RegenerateSshHostKeyPair": "n",
		"Provisioning.SshHostKeyPairType": "rsa", "Provisioning.MonitorHostName": "n", "Provisioning.MonitorHostNamePeriod": "30",
		"Provisioning.DecodeCustomData": "n", "Provisioning.ExecuteCustomData": "n", "Provisioning.AllowResetSysUser": "n",
		"Provisioning.PasswordCryptId": "6", "Provisioning.PasswordCryptSaltLength": "10",
		"ResourceDisk.Format": "n", "ResourceDisk.Filesystem": "ext3", "ResourceDisk.MountPoint": "/mnt/resource",
		"ResourceDisk.MountOptions": "None", "ResourceDisk.EnableSwap": "n", "ResourceDisk.EnableSwapEncryption": "n", "ResourceDisk.SwapSizeMB": "0",
		"Logs.Verbose": "n", "Logs.Console": "y", "Logs.Collect": "y", "Logs.CollectPeriod": "3600",
		"OS.AllowHTTP": "n", "OS.EnableFIPS": "n", "OS.RootDeviceScsiTimeout": "None", "OS.RootDeviceScsiTimeoutPeriod": "30",
		"OS.OpensslPath": "/usr/bin/openssl", "OS.SshDir": "/etc/ssh", "OS.SshClientAliveInterval": "180", "OS.HomeDir": "/home",
		"OS.PasswordPath": "/etc/shadow", "OS.SudoersDir": "/etc/sudoers.d", "OS.EnableFirewall": "y", "OS.EnableFirewallPeriod": "300",
		"OS.RemovePersistentNetRulesPeriod": "30", "OS.MonitorDhcpClientRestartPeriod": "30",
		"OS.EnableRDMA": "n", "OS.UpdateRdmaDriver": "n", "OS.CheckRdmaDriver": "n",
		"HttpProxy.Host": "None", "HttpProxy.Port": "0", "Protocol.EndpointDiscovery": "dhcp", "DetectScvmmEnv": "n",
		"AutoUpdate.Enabled": "y", "AutoUpdate.UpdateToLatestVersion": "y", "AutoUpdate.GAFamily": "Prod", "Autoupdate.Frequency": "3600",
		"EnableOverProvisioning": "y", "Policy.PolicyFilePath": "/etc/waagent_policy.json", "CGroups.Enabled": "y",
		"Monitor.NetworkConfigurationChanges": "n", "Debug.CgroupCheckPeriod": "300", "Debug.CgroupLogMetrics": "n",
		"Debug.CgroupDisableOnProcessCheckFailure": "y", "Debug.CgroupDisableOnQuotaCheckFailure": "y",
		"Debug.AgentCpuQuota": "50", "Debug.AgentCpuThrottledTimeThreshold": "120", "Debug.AgentMemoryQuota": "31457280",
		"Debug.EnableAgentMemoryUsageCheck": "n", "Debug.EnableFastTrack": "y", "Debug.EnableGAVersioning": "y",
		"Debug.EnableCgroupV2ResourceLimiting": "y", "Debug.EnableExtensionPolicy": "y", "Debug.EnableSignatureValidation": "n",
		"Debug.EtpCollectionPeriod": "300", "Debug.SelfUpdateHotfixFrequency": "14400", "Debug.SelfUpdateRegularFrequency": "86400",
		"Debug.FirewallRulesLogPeriod": "86400", "Debug.LogCollectorInitialDelay": "300", "Debug.EnableRsmDowngrade": "n",
	}
}

func TestClassicDefaults(t *testing.T) {
	got := map[string]string{}
	for _, s := range Default().Settings() {
		if !s.Own {
			got[s.Key] = s.Value
		}
	}
	if diff := cmp.Diff(classicKeys(), got); diff != "" {
		t.Errorf("defaults (-spec +ours):\n%s", diff)
	}
	for _, old := range []string{
		"Provisioning.Enabled", "Provisioning.UseCloudInit", "Role.StateConsumer", "Role.ConfigurationConsumer", "Role.TopologyConsumer",
		"LBProbeResponder", "CGroups.EnforceLimits", "CGroups.Excluded", "Network.Interface", "OS.SshdConfigPath",
		"Home.Dir", "Debug.AutoUpdateHotfixFrequency", "Debug.AutoUpdateNormalFrequency",
	} {
		if _, w := Parse("f", []byte(old+"=/x\n")); len(w) == 0 || !w[0].Note && old != "Debug.AutoUpdateHotfixFrequency" && old != "Debug.AutoUpdateNormalFrequency" {
			t.Errorf("%s: %v, want a note", old, w)
		}
	}
}

// TestTableCoversConfig: every field is set by exactly one key, and every key
// has a description.
func TestTableCoversConfig(t *testing.T) {
	var c Config
	seen := map[any]string{}
	names := map[string]bool{}
	for _, k := range Keys() {
		if names[k.Name] {
			t.Errorf("%s: twice in the table", k.Name)
		}
		names[k.Name] = true
		if k.Doc == "" {
			t.Errorf("%s: no documentation", k.Name)
		}
		if k.Alias != "" && k.at != nil || k.Kind == Enum && len(k.Choices) == 0 {
			t.Errorf("%s: an alias with a field of its own, or an enum without choices", k.Name)
		}
		if k.Default != "" && k.Kind != Ignored {
			if got, err := k.check(k.Default); err != nil || got != k.Default {
				t.Errorf("%s: default %q: %q, %v", k.Name, k.Default, got, err)
			}
		}
		if k.at == nil {
			continue
		}
		p := k.at(&c)
		if other, dup := seen[p]; dup {
			t.Errorf("%s and %s share a field", k.Name, other)
		}
		seen[p] = k.Name
	}
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		g := v.Field(i)
		if g.Kind() != reflect.Struct {
			continue
		}
		for j := range g.NumField() {
			if _, ok := seen[g.Field(j).Addr().Interface()]; !ok {
				t.Errorf("no key for %s.%s", v.Type().Field(i).Name, g.Type().Field(j).Name)
			}
		}
	}
}

func TestSyntax(t *testing.T) {
	tests := map[string]struct {
		in    string
		key   string
		want  string
		warns int
	}{
		"plain":                     {"Lib.Dir=/a", "Lib.Dir", "/a", 0},
		"blanks":                    {"  Lib.Dir \t=  /a  ", "Lib.Dir", "/a", 0},
		"trailing comment":          {"Lib.Dir=/a # b", "Lib.Dir", "/a", 0},
		"comment stuck to value":    {"Lib.Dir=/a#b", "Lib.Dir", "/a", 1},
		"comment only":              {"ResourceDisk.MountOptions=# none", "ResourceDisk.MountOptions", "None", 0},
		"quotes":                    {`Lib.Dir="/a"`, "Lib.Dir", "/a", 0},
		"quotes and blanks":         {`Lib.Dir= " /a " `, "Lib.Dir", "/a", 0},
		"quotes, crlf":              {"Lib.Dir=\"/a\"\r\n", "Lib.Dir", "/a", 0},
		"crlf":                      {"Lib.Dir=/a\r\nLogs.Verbose=y\r\n", "Lib.Dir", "/a", 0},
		"no newline, byte order":    {"\xef\xbb\xbfLib.Dir=/a", "Lib.Dir", "/a", 0},
		"commented out":             {"#Lib.Dir=/a\nLogs.Verbose=y", "Lib.Dir", "/var/lib/waagent", 0},
		"indented #: a key":         {" #Lib.Dir=/a\nLogs.Verbose=y", "Lib.Dir", "/var/lib/waagent", 0},
		"second = belongs to value": {"HttpUserAgent=a=b", "HttpUserAgent", "a=b", 0},
		"None":                      {"Lib.Dir=None", "Lib.Dir", "/var/lib/waagent", 0},
		"None in quotes":            {`Lib.Dir="None"`, "Lib.Dir", "/var/lib/waagent", 0},
		"none in lower case":        {"ResourceDisk.MountOptions=none", "ResourceDisk.MountOptions", "none", 0},
		"None with a comment":       {`ResourceDisk.MountOptions=None   # If "None", default`, "ResourceDisk.MountOptions", "None", 0},
		"last wins":                 {"Logs.Verbose=y\nLogs.Verbose=n", "Logs.Verbose", "n", 1},
		"None takes back":           {"Logs.Verbose=y\nLogs.Verbose=None", "Logs.Verbose", "n", 1},
		"switch in capitals":        {"Logs.Verbose=Y", "Logs.Verbose", "y", 0},
		"switch yes":                {"Logs.Verbose=yes", "Logs.Verbose", "n", 1},
		"switch empty":              {"Logs.Collect=", "Logs.Collect", "y", 1},
		"number":                    {"Extensions.GoalStatePeriod=+9", "Extensions.GoalStatePeriod", "9", 0},
		"no number":                 {"Extensions.GoalStatePeriod=9s", "Extensions.GoalStatePeriod", "6", 1},
		"number too large":          {"Extensions.GoalStatePeriod=99999999999999999999", "Extensions.GoalStatePeriod", "6", 1},
		"number too small":          {"Extensions.GoalStatePeriod=0", "Extensions.GoalStatePeriod", "6", 1},
		"clamped":                   {"Status.HeartbeatPeriod=300", "Status.HeartbeatPeriod", "60", 1},
		"choice in other case":      {"Provisioning.Agent=Cloud-Init", "Provisioning.Agent", "cloud-init", 0},
		"no choice":                 {"Provisioning.Agent=me", "Provisioning.Agent", "auto", 1},
		"empty path":                {"Lib.Dir=", "Lib.Dir", "/var/lib/waagent", 1},
		"relative path":             {"Lib.Dir=var", "Lib.Dir", "/var/lib/waagent", 1},
		"no =":                      {"Logs.Verbose y\nLib.Dir=/a", "Lib.Dir", "/a", 1},
		"no key":                    {"=y\nLib.Dir=/a", "Lib.Dir", "/a", 1},
		"key in other case":         {"lib.dir=/a", "Lib.Dir", "/var/lib/waagent", 1},
		"unknown":                   {"Foo=1\nLib.Dir=/a", "Lib.Dir", "/a", 1},
		"alias":                     {"Home.Dir=/h", "OS.HomeDir", "/h", 1},
		"alias loses":               {"OS.HomeDir=/o\nHome.Dir=/h", "OS.HomeDir", "/o", 1},
		"empty":                     {" \n", "Lib.Dir", "/var/lib/waagent", 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, warns := Parse("f", []byte(tc.in))
			i := slices.IndexFunc(c.Settings(), func(s Setting) bool { return s.Key == tc.key })
			if got := c.Settings()[i].Value; got != tc.want {
				t.Errorf("%s = %q, want %q", tc.key, got, tc.want)
			}
			if len(warns) != tc.warns {
				t.Errorf("%d warnings, want %d: %v", len(warns), tc.warns, warns)
			}
		})
	}
}

func TestDerived(t *testing.T) {
	field := func(f func(*Config) any) func(*Config) any { return f }
	update := field(func(c *Config) any { return c.Update.Mode })
	mode := field(func(c *Config) any { return c.Extensions.Mode })
	after := field(func(c *Config) any { return c.Extensions.After })
	policy := field(func(c *Config) any { return c.Policy.Mode })
	tests := []struct {
		in   string
		get  func(*Config) any
		want any
	}{
		{"", update, UpdateDistro},
		{"AutoUpdate.Enabled=n", update, UpdateOff},
		{"AutoUpdate.Enabled=y", update, UpdateChannel},
		{"AutoUpdate.UpdateToLatestVersion=n", update, UpdateOff},
		{"AutoUpdate.Enabled=n\nAutoUpdate.UpdateToLatestVersion=y", update, UpdateChannel},
		{"AutoUpdate.Enabled=n\nAutoUpdate.Mode=distro", update, UpdateDistro},
		{"AutoUpdate.Mode=pinned:1.2.3", update, UpdatePinned},
		{"AutoUpdate.Mode=pinned:1.2.3", func(c *Config) any { return c.Update.Pin }, "1.2.3"},
		{"", mode, ModeOn},
		{"Extensions.Enabled=n", mode, ModeOff},
		{"Extensions.Enabled=n\nExtensions.Mode=report-only", mode, ModeReportOnly},
		{"", after, AfterNone},
		{"Extensions.WaitForCloudInit=y", after, AfterFinal},
		{"Extensions.WaitForCloudInit=yes", after, AfterNone},
		{"Extensions.WaitForCloudInit=y\nExtensions.After=config", after, AfterConfig},
		{"Extensions.WaitForCloudInitTimeout=60", func(c *Config) any { return c.Extensions.AfterTimeout }, time.Minute},
		{"", policy, PolicyEnforce},
		{"Debug.EnableExtensionPolicy=n", policy, PolicyOff},
		{"Debug.EnableExtensionPolicy=no", policy, PolicyEnforce},
		{"Debug.EnableExtensionPolicy=n\nExtensions.PolicyMode=enforced", policy, PolicyOff},
		{"Debug.EnableExtensionPolicy=y", policy, PolicyEnforce},
		{"Debug.EnableExtensionPolicy=y\nExtensions.PolicyMode=audit", policy, PolicyAudit},
		{"Provisioning.ExecuteCustomData=y", func(c *Config) any { return c.Provisioning.DecodeCustomData }, true},
		{"UserData.Apply=y", func(c *Config) any { return c.Provisioning.DecodeCustomData }, true},
		{"UserData.Apply=y\nProvisioning.ExecuteCustomData=y", func(c *Config) any { return c.Provisioning.ExecuteCustomData }, false},
		{"Provisioning.Agent=azguest", func(c *Config) any { return c.Provisioning.Agent }, AgentSelf},
		{"Extensions.GoalStatePeriod=9", func(c *Config) any { return c.Extensions.InitialPeriod }, 9 * time.Second},
		{"Debug.AutoUpdateHotfixFrequency=60", func(c *Config) any { return c.Update.HotfixPeriod }, time.Minute},
		{"Logs.File=off", func(c *Config) any { return c.Logs.File }, ""},
	}
	for _, tc := range tests {
		c, _ := Parse("f", []byte(tc.in+"\n"))
		if got := tc.get(c); got != tc.want {
			t.Errorf("%q: %v, want %v", tc.in, got, tc.want)
		}
	}
}

// TestProxyLogin: the shown value has no password, the used one has.
func TestProxyLogin(t *testing.T) {
	t.Parallel()
	for given, shown := range map[string]string{
		"joe:p4ss@proxy.example":        "<redacted>@proxy.example",
		"http://joe:p4ss@proxy.example": "http://<redacted>@proxy.example",
		"proxy.example":                 "proxy.example",
	} {
		name := filepath.Join(t.TempDir(), "waagent.conf")
		if err := os.WriteFile(name, []byte("HttpProxy.Host="+given+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, _, err := Load(Paths{Main: []string{name}})
		if err != nil || c.Proxy.Host != given {
			t.Errorf("host %q, %v, want %q", c.Proxy.Host, err, given)
		}
		for _, s := range c.Settings() {
			if s.Key == "HttpProxy.Host" && s.Value != shown {
				t.Errorf("%s is shown as %s, want %s", given, s.Value, shown)
			}
		}
	}
}

func TestSuggest(t *testing.T) {
	for key, want := range map[string]string{
		"AutoUpdat.Enabled":       "did you mean AutoUpdate.Enabled?",
		"autoupdate.enabled":      "keys are case-sensitive: write AutoUpdate.Enabled",
		"Extension.Enabled":       "did you mean Extensions.Enabled?",
		"Logs.Vrebose":            "did you mean Logs.Verbose?",
		"Nothing.Like.It.Here":    "",
		strings.Repeat("x", 5000): "",
	} {
		if got := suggest(key); got != want {
			t.Errorf("suggest(%.30q) = %q, want %q", key, got, want)
		}
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLayers(t *testing.T) {
	p := DefaultPaths()
	p.Root = t.TempDir()
	write(t, p.Root, "/usr/lib/azguest/waagent.conf.d/10.conf", "Logs.Verbose=y\nLib.Dir=/dist\nOS.HomeDir=/dist\n")
	write(t, p.Root, "/etc/waagent.conf", "Lib.Dir=/main\nOS.HomeDir=/main\n")
	write(t, p.Root, "/usr/share/oem/waagent.conf", "Pid.File=/not/read\n")
	write(t, p.Root, "/etc/waagent.conf.d/20-b.conf", "OS.HomeDir=/b\n")
	write(t, p.Root, "/etc/waagent.conf.d/10-a.conf", "# first\nOS.HomeDir=/a\nOS.SshDir=/a\n")
	write(t, p.Root, "/etc/waagent.conf.d/30.conf.bak", "OS.HomeDir=/bak\n")
	write(t, p.Root, "/etc/waagent.conf.d/.#x.conf", "OS.HomeDir=/dot\n")
	write(t, p.Root, "/run/azguest/waagent.conf.d/x.conf", "Lib.Dir=None\n")
	c, warns, err := Load(p)
	if err != nil || len(warns) != 0 {
		t.Errorf("Load: %v, %v", warns, err)
	}
	for key, want := range map[string]string{
		"Logs.Verbose": "y /usr/lib/azguest/waagent.conf.d/10.conf:1",
		"OS.HomeDir":   "/b /etc/waagent.conf.d/20-b.conf:1",
		"OS.SshDir":    "/a /etc/waagent.conf.d/10-a.conf:3",
		"Lib.Dir":      "/var/lib/waagent /run/azguest/waagent.conf.d/x.conf:1",
		"Pid.File":     "/var/run/waagent.pid default",
	} {
		i := slices.IndexFunc(c.Settings(), func(s Setting) bool { return s.Key == key })
		if s := c.Settings()[i]; s.Value+" "+s.Origin.String() != want {
			t.Errorf("%s = %s %s, want %s", key, s.Value, s.Origin, want)
		}
	}
}

func TestLoadMissingAndBroken(t *testing.T) {
	p := DefaultPaths()
	p.Root = t.TempDir()
	c, warns, err := Load(p)
	if err != nil || len(warns) != 1 || !warns[0].Note || c.Paths.Lib != "/var/lib/waagent" {
		t.Errorf("nothing: %v, %v", warns, err)
	}
	if err := os.MkdirAll(filepath.Join(p.Root, "/etc/waagent.conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, p.Root, "/etc/waagent.conf.d/a.conf", "Logs.Verbose=y")
	c, warns, err = Load(p)
	if err == nil || strings.Contains(err.Error(), p.Root) || len(warns) != 1 || !c.Logs.Verbose {
		t.Errorf("a directory: %v, %v", warns, err)
	}
}

func TestClassic(t *testing.T) {
	c, _ := Parse("f", []byte("Logs.Verbose=y\nCGroups.Enabled=n\n"))
	lines := c.Classic()
	if !slices.IsSorted(lines) || !slices.Contains(lines, "Logs.Verbose = True") || !slices.Contains(lines, "ResourceDisk.MountOptions = None") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
	for _, l := range lines {
		if strings.HasPrefix(l, "CGroups.Enabled") || strings.HasPrefix(l, "Telemetry.") {
			t.Errorf("shown: %s", l)
		}
	}
}

// TestDistributionFiles: the files that distributions ship have only expected
// warnings.
func TestDistributionFiles(t *testing.T) {
	dir := os.Getenv("AZGUEST_FIXTURES")
	if dir == "" {
		t.Skip("AZGUEST_FIXTURES is not set")
	}
	n := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != "waagent.conf" || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		_, warns := Parse(path, data)
		for _, w := range warns {
			if !w.Note {
				t.Error(w)
			}
		}
		return nil
	})
	if err = errors.Join(err); err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Skip("no waagent.conf among the fixtures")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("Lib.Dir=\"/a\" # c\r\n#x\n #y=z\nNoEquals\n=\nLogs.Verbose=Y\n"))
	f.Add([]byte("\xef\xbb\xbfExtensions.GoalStatePeriod=99999999999999999999\nAutoUpdate.Mode=pinned:\n"))
	f.Fuzz(peak.Target(func(t *testing.T, data []byte) {
		c, warns := Parse("f", data)
		for _, w := range warns {
			_ = w.String()
		}
		if c.Extensions.Period <= 0 || c.Status.HeartbeatPeriod > time.Minute {
			t.Errorf("period %v, heartbeat %v", c.Extensions.Period, c.Status.HeartbeatPeriod)
		}
		// The output can be read back.
		var b strings.Builder
		for _, s := range c.Settings() {
			b.WriteString(s.Key + "=" + s.Value + "\n")
		}
		d, _ := Parse("g", []byte(b.String()))
		for i, s := range c.Settings() {
			if got := d.Settings()[i].Value; got != s.Value && s.Key != "Logs.File" {
				t.Errorf("%s: %q reads back as %q", s.Key, s.Value, got)
			}
		}
	}))
}

// TestTOOL10ValuesWithoutEffectSaySo: a text that has no effect, or another than
// was meant, is reported by "agentctl config check" and at the start of the agent.
func TestTOOL10ValuesWithoutEffectSaySo(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"AutoUpdate.Window=22-4":            "updated at any time",
		"AutoUpdate.Window=22:00–04:30":     "updated at any time", // a dash of a word processor
		"AutoUpdate.Window=22:00-25:00":     "updated at any time",
		"AutoUpdate.Window=04:00-04:00":     "no length; the agent is not updated",
		"AutoUpdate.Window=22:00-24:00":     "",
		"AutoUpdate.Window=22:00 - 04:30":   "",
		"AutoUpdate.Window=None":            "",
		"AutoUpdate.Pin=latest":             "not a version",
		"AutoUpdate.Pin=3.0.1":              "",
		"OS.RootDeviceScsiTimeout=300s":     "timeouts are not set",
		"OS.RootDeviceScsiTimeout=300":      "",
		"OS.SshClientAliveInterval=3m":      "is not set",
		"OS.SshClientAliveInterval=0":       "",
		"Provisioning.PasswordCryptId=1":    "6 is used",
		"ResourceDisk.Filesystem=ext5":      "is not formatted",
		"ResourceDisk.Filesystem=xfs":       "",
		"Protocol.EndpointDiscovery=dchp":   `"dchp" is not one of dhcp, static`,
		"Protocol.EndpointDiscovery=static": "",
	} {
		_, warns := Parse("x.conf", []byte(line+"\n"))
		var got []string
		for _, w := range warns {
			if !w.Note && w.Key != "" && w.Origin.Line == 1 {
				got = append(got, w.Message)
			}
		}
		if (want == "") != (len(got) == 0) || want != "" && !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// TestWhatIsNotAKeyIsNotShown: a line that is no setting may be a password, or the
// rest of one, and warnings are in a log that everybody may read.
func TestWhatIsNotAKeyIsNotShown(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"HttpProxy.Host=http://joe:pa#canary@proxy.example": "a value cannot contain it",
		"http://joe:canary@proxy.example/?a=1":              "x.conf:1: unknown key",
		"password: canary = x":                              "x.conf:1: unknown key",
		"canaryAAAABBBBCCCC==":                              "x.conf:1: unknown key",
		"canary":                                            "without '='",
		"=canary":                                           "without a key",
		"Http.Prox=canary":                                  "Http.Prox: unknown key",
		"export Logs.Verbose=canary":                        "unknown key",
	} {
		_, warns := Parse("x.conf", []byte(line+"\n"))
		if len(warns) != 1 || !strings.Contains(warns[0].String(), want) || strings.Contains(warns[0].String(), "canary") {
			t.Errorf("%s: %v, want %q", line, warns, want)
		}
	}
}

// TestUserDataWithoutEffect: keys of user data that change nothing are noted.
func TestUserDataWithoutEffect(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"UserData.Apply=y": "",
		"UserData.Apply=y\nProvisioning.ExecuteCustomData=y": "Provisioning.ExecuteCustomData has no effect while UserData.Apply=y, which runs custom data",
		"UserData.Apply=y\nProvisioning.Mode=ready-only":     "UserData.Apply has no effect while Provisioning.Mode=ready-only",
		"UserData.Apply=y\nProvisioning.Mode=off":            "UserData.Apply has no effect while Provisioning.Mode=off",
		"UserData.ScriptTimeout=9":                           "UserData.ScriptTimeout has no effect while UserData.Apply=n",
	} {
		_, warns := Parse("f", []byte(in+"\n"))
		got := ""
		for _, w := range warns {
			got += w.Key + " " + w.Message
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

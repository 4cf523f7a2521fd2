package config

// Kind is the type of a key's value.
type Kind string

// The kinds. A number of seconds becomes a time.Duration.
const (
	Switch  Kind = "y/n"
	Int     Kind = "number"
	Seconds Kind = "seconds"
	String  Kind = "text"
	Path    Kind = "path"
	Enum    Kind = "choice"
	Ignored Kind = "ignored" // known from old files, without effect
)

// A Key is one row of the table: everything there is to know about one
// setting.
type Key struct {
	Name    string
	Kind    Kind
	Default string // as it would stand in a file; "" means None
	Doc     string
	Own     bool     // ours: the classic agent does not know it
	Hidden  bool     // the classic agent's -show-configuration leaves it out
	Choices []string // of an Enum
	Alias   string   // the key this one is another name for
	Min     int64    // of an Int or Seconds; below it the default is taken
	Max     int64    // 0: none; above it Max is taken

	at func(*Config) any // *bool, *int, *int64, *string, *time.Duration; nil: no field
}

// Keys is the table of every key, in the order in which it is shown.
func Keys() []Key {
	return []Key{
		{Name: "Extensions.Enabled", Kind: Switch, Default: "y", Doc: "run extensions; n: goal states are answered, nothing is run", at: func(c *Config) any { return &c.Extensions.Enabled }},
		{Name: "Extensions.Mode", Kind: Enum, Own: true, Choices: []string{ModeOn, ModeOff, ModeReportOnly}, Doc: "on, off (answer that extensions are disabled), report-only (report handlers that exist, start none); default follows Extensions.Enabled", at: func(c *Config) any { return &c.Extensions.Mode }},
		{Name: "Extensions.After", Kind: Enum, Own: true, Choices: []string{AfterConfig, AfterFinal, AfterNone}, Doc: "stage of cloud-init to wait for before the first extension; default none, or final with Extensions.WaitForCloudInit=y", at: func(c *Config) any { return &c.Extensions.After }},
		{Name: "Extensions.WaitForCloudInit", Kind: Switch, Default: "n", Doc: "y is the classic spelling of Extensions.After=final"},
		{Name: "Extensions.WaitForCloudInitTimeout", Kind: Seconds, Default: "3600", Doc: "go on without cloud-init after this time", at: func(c *Config) any { return &c.Extensions.AfterTimeout }},
		{Name: "Extensions.GoalStatePeriod", Kind: Seconds, Default: "6", Min: 1, Doc: "how often the goal state is asked for", at: func(c *Config) any { return &c.Extensions.Period }},
		{Name: "Extensions.InitialGoalStatePeriod", Kind: Seconds, Min: 1, Doc: "the same until the first goal state is complete; default Extensions.GoalStatePeriod", at: func(c *Config) any { return &c.Extensions.InitialPeriod }},
		{Name: "Extensions.ExecDir", Kind: Path, Own: true, Doc: "where packages are unpacked and run when Lib.Dir is on a noexec file system; default Lib.Dir", at: func(c *Config) any { return &c.Extensions.ExecDir }},
		{Name: "Extensions.PolicyMode", Kind: Enum, Own: true, Choices: []string{PolicyOff, PolicyAudit, PolicyEnforce}, Doc: "off, audit (log what would be denied), enforce (policy files that exist are obeyed); default enforce, or off with Debug.EnableExtensionPolicy=n", at: func(c *Config) any { return &c.Policy.Mode }},
		{Name: "Extensions.TrustRoots", Kind: Path, Default: "/etc/azguest/trust.d", Own: true, Doc: "directory of authorities (PEM) that may sign packages of extensions; the policy says which ones must be signed", at: func(c *Config) any { return &c.Extensions.TrustRoots }},
		{Name: "Extensions.EnableEveryStart", Kind: Switch, Default: "n", Own: true, Doc: "enable every extension at each start of the agent, as the classic agent does; n: only when something changed, after a boot and after an upgrade", at: func(c *Config) any { return &c.Extensions.EnableEveryStart }},
		{Name: "Extensions.StatusPollPeriod", Kind: Seconds, Default: "15", Min: 1, Own: true, Doc: "slow look at status files, behind inotify", at: func(c *Config) any { return &c.Extensions.StatusPoll }},
		{Name: "Extension.LogDir", Kind: Path, Default: "/var/log/azure", Doc: "logs of extensions", at: func(c *Config) any { return &c.Paths.ExtensionLogs }},

		{Name: "Provisioning.Agent", Kind: Enum, Default: AgentAuto, Choices: []string{AgentAuto, AgentSelf, "azguest", AgentCloudInit, AgentAzureInit, AgentDisabled}, Doc: "who provisions: auto, waagent (this agent), cloud-init, azure-init, disabled", at: func(c *Config) any { return &c.Provisioning.Agent }},
		{Name: "Provisioning.Mode", Kind: Enum, Default: ModeOn, Own: true, Choices: []string{ModeOn, ModeReadyOnly, ModeOff}, Doc: "on, ready-only (report Ready, change nothing), off", at: func(c *Config) any { return &c.Provisioning.Mode }},
		{Name: "Provisioning.Media", Kind: Path, Own: true, Doc: "device, image or directory to read instead of searching for the DVD", at: func(c *Config) any { return &c.Provisioning.Media }},
		{Name: "Provisioning.DeleteRootPassword", Kind: Switch, Default: "n", Doc: "lock root's password", at: func(c *Config) any { return &c.Provisioning.DeleteRootPassword }},
		{Name: "Provisioning.RegenerateSshHostKeyPair", Kind: Switch, Default: "n", Doc: "make new ssh host keys", at: func(c *Config) any { return &c.Provisioning.RegenerateHostKeys }},
		{Name: "Provisioning.SshHostKeyPairType", Kind: Enum, Default: "rsa", Choices: []string{"rsa", "dsa", "ecdsa", "ed25519", "auto"}, Doc: "type of the new host key; auto: every type sshd would make", at: func(c *Config) any { return &c.Provisioning.HostKeyType }},
		{Name: "Provisioning.MonitorHostName", Kind: Switch, Default: "n", Doc: "publish changes of the host name", at: func(c *Config) any { return &c.Provisioning.MonitorHostName }},
		{Name: "Provisioning.MonitorHostNamePeriod", Kind: Seconds, Default: "30", Min: 1, Doc: "how often to look at the host name", at: func(c *Config) any { return &c.Provisioning.MonitorHostNamePeriod }},
		{Name: "Provisioning.DecodeCustomData", Kind: Switch, Default: "n", Doc: "store custom data decoded", at: func(c *Config) any { return &c.Provisioning.DecodeCustomData }},
		{Name: "Provisioning.ExecuteCustomData", Kind: Switch, Default: "n", Doc: "run custom data once; implies DecodeCustomData", at: func(c *Config) any { return &c.Provisioning.ExecuteCustomData }},
		{Name: "Provisioning.AllowResetSysUser", Kind: Switch, Default: "n", Doc: "let the password of a system account be set", at: func(c *Config) any { return &c.Provisioning.AllowResetSysUser }},
		{Name: "Provisioning.PasswordCryptId", Kind: String, Default: "6", Doc: "crypt method of password hashes; 6 is SHA-512", at: func(c *Config) any { return &c.Provisioning.PasswordCryptID }},
		{Name: "Provisioning.PasswordCryptSaltLength", Kind: Int, Default: "10", Min: 1, Max: 16, Doc: "characters of salt", at: func(c *Config) any { return &c.Provisioning.PasswordSaltLength }},

		{Name: "ResourceDisk.Format", Kind: Switch, Default: "n", Doc: "format and mount the temporary disk; n: it is not even mounted", at: func(c *Config) any { return &c.ResourceDisk.Format }},
		{Name: "ResourceDisk.Filesystem", Kind: String, Default: "ext3", Doc: "its file system", at: func(c *Config) any { return &c.ResourceDisk.FileSystem }},
		{Name: "ResourceDisk.MountPoint", Kind: Path, Default: "/mnt/resource", Doc: "where it is mounted", at: func(c *Config) any { return &c.ResourceDisk.MountPoint }},
		{Name: "ResourceDisk.MountOptions", Kind: String, Doc: "comma-separated mount options", at: func(c *Config) any { return &c.ResourceDisk.MountOptions }},
		{Name: "ResourceDisk.EnableSwap", Kind: Switch, Default: "n", Doc: "swap file on the temporary disk; needs ResourceDisk.Format=y", at: func(c *Config) any { return &c.ResourceDisk.EnableSwap }},
		{Name: "ResourceDisk.EnableSwapEncryption", Kind: Switch, Default: "n", Doc: "encrypt the swap (FreeBSD)", at: func(c *Config) any { return &c.ResourceDisk.SwapEncryption }},
		{Name: "ResourceDisk.SwapSizeMB", Kind: Int, Default: "0", Doc: "size of the swap file in MiB", at: func(c *Config) any { return &c.ResourceDisk.SwapSizeMB }},

		{Name: "Logs.Verbose", Kind: Switch, Default: "n", Doc: "log at debug level", at: func(c *Config) any { return &c.Logs.Verbose }},
		{Name: "Logs.Console", Kind: Switch, Default: "y", Doc: "copy the log to /dev/console until provisioned", at: func(c *Config) any { return &c.Logs.Console }},
		{Name: "Logs.Collect", Kind: Switch, Default: "y", Doc: "upload logs for support from time to time", at: func(c *Config) any { return &c.Logs.Collect }},
		{Name: "Logs.CollectPeriod", Kind: Seconds, Default: "3600", Min: 60, Doc: "how often", at: func(c *Config) any { return &c.Logs.CollectPeriod }},
		{Name: "Logs.File", Kind: Path, Default: "/var/log/waagent.log", Own: true, Doc: "the agent's log file; off: journal only", at: func(c *Config) any { return &c.Logs.File }},

		{Name: "OS.AllowHTTP", Kind: Switch, Default: "n", Doc: "accepted; downloads fall back to http only where the platform says so", at: func(c *Config) any { return &c.OS.AllowHTTP }},
		{Name: "OS.EnableFIPS", Kind: Switch, Default: "n", Doc: "FIPS mode", at: func(c *Config) any { return &c.OS.EnableFIPS }},
		{Name: "OS.RootDeviceScsiTimeout", Kind: String, Doc: "seconds, set on every sd disk; None leaves the kernel's value", at: func(c *Config) any { return &c.OS.RootDeviceScsiTimeout }},
		{Name: "OS.RootDeviceScsiTimeoutPeriod", Kind: Seconds, Default: "30", Min: 1, Doc: "how often it is looked after", at: func(c *Config) any { return &c.OS.ScsiTimeoutPeriod }},
		{Name: "OS.OpensslPath", Kind: Path, Default: "/usr/bin/openssl", Doc: "accepted, not used: no openssl is needed", at: func(c *Config) any { return &c.OS.OpensslPath }},
		{Name: "OS.SshDir", Kind: Path, Default: "/etc/ssh", Doc: "host keys and sshd_config", at: func(c *Config) any { return &c.OS.SSHDir }},
		{Name: "OS.SshClientAliveInterval", Kind: String, Default: "180", Doc: "ClientAliveInterval for sshd; seconds or a time as sshd writes it", at: func(c *Config) any { return &c.OS.SSHClientAliveInterval }},
		{Name: "OS.HomeDir", Kind: Path, Default: "/home", Doc: "base of home directories", at: func(c *Config) any { return &c.OS.HomeDir }},
		{Name: "Home.Dir", Kind: Path, Alias: "OS.HomeDir", Doc: "what the sample file of the classic agent calls OS.HomeDir"},
		{Name: "OS.PasswordPath", Kind: Path, Default: "/etc/shadow", Doc: "the shadow file", at: func(c *Config) any { return &c.OS.PasswordPath }},
		{Name: "OS.SudoersDir", Kind: Path, Default: "/etc/sudoers.d", Doc: "drop-ins for sudo", at: func(c *Config) any { return &c.OS.SudoersDir }},
		{Name: "OS.EnableFirewall", Kind: Switch, Default: "y", Doc: "keep everybody but root away from the platform's address; by default on every machine of the platform", at: func(c *Config) any { return &c.OS.EnableFirewall }},
		{Name: "OS.EnableFirewallPeriod", Kind: Seconds, Default: "300", Min: 1, Doc: "how often the rules are checked", at: func(c *Config) any { return &c.OS.FirewallPeriod }},
		{Name: "OS.RemovePersistentNetRulesPeriod", Kind: Seconds, Default: "30", Min: 1, Doc: "how often leftover udev network rules are removed", at: func(c *Config) any { return &c.OS.NetRulesPeriod }},
		{Name: "OS.MonitorDhcpClientRestartPeriod", Kind: Seconds, Default: "30", Min: 1, Doc: "how often a restart of the DHCP client is looked for", at: func(c *Config) any { return &c.OS.DHCPMonitorPeriod }},
		{Name: "OS.EnableRDMA", Kind: Switch, Default: "n", Doc: "RDMA devices", at: func(c *Config) any { return &c.OS.EnableRDMA }},
		{Name: "OS.UpdateRdmaDriver", Kind: Switch, Default: "n", Doc: "RDMA driver updates", at: func(c *Config) any { return &c.OS.UpdateRDMADriver }},
		{Name: "OS.CheckRdmaDriver", Kind: Switch, Default: "n", Doc: "RDMA driver check", at: func(c *Config) any { return &c.OS.CheckRDMADriver }},
		{Name: "Monitor.NetworkConfigurationChanges", Kind: Switch, Default: "n", Hidden: true, Doc: "log changes of the network configuration", at: func(c *Config) any { return &c.OS.MonitorNetworkChanges }},

		{Name: "Lib.Dir", Kind: Path, Default: "/var/lib/waagent", Doc: "state", at: func(c *Config) any { return &c.Paths.Lib }},
		{Name: "DVD.MountPoint", Kind: Path, Default: "/mnt/cdrom/secure", Doc: "where the provisioning medium is mounted", at: func(c *Config) any { return &c.Paths.DVDMountPoint }},
		{Name: "Pid.File", Kind: Path, Default: "/var/run/waagent.pid", Doc: "the agent's process id", at: func(c *Config) any { return &c.Paths.PIDFile }},

		{Name: "HttpProxy.Host", Kind: String, Doc: "proxy for the internet; never used for the platform's own addresses", at: func(c *Config) any { return &c.Proxy.Host }},
		{Name: "HttpProxy.Port", Kind: Int, Default: "0", Max: 65535, Doc: "its port", at: func(c *Config) any { return &c.Proxy.Port }},
		{Name: "HttpUserAgent", Kind: String, Own: true, Doc: "User-Agent of the agent's requests", at: func(c *Config) any { return &c.Protocol.UserAgent }},

		{Name: "Protocol.EndpointDiscovery", Kind: String, Default: "dhcp", Doc: "dhcp: ask DHCP option 245 first; anything else: the fixed address", at: func(c *Config) any { return &c.Protocol.Discovery }},
		{Name: "Protocol.Endpoint", Kind: String, Own: true, Doc: "host[:port] instead of the platform's address, for tests", at: func(c *Config) any { return &c.Protocol.Endpoint }},
		{Name: "Protocol.HostGAPlugin", Kind: String, Own: true, Doc: "host:port of the HostGAPlugin, for tests; default port 32526 of the endpoint", at: func(c *Config) any { return &c.Protocol.HostGA }},
		{Name: "Protocol.IMDS", Kind: String, Own: true, Doc: "host[:port] of the metadata service, for tests", at: func(c *Config) any { return &c.Protocol.IMDS }},
		{Name: "Protocol.Timeout", Kind: Seconds, Default: "30", Min: 1, Max: 600, Own: true, Doc: "time limit of one request to the platform", at: func(c *Config) any { return &c.Protocol.HTTPTimeout }},
		{Name: "Protocol.ImdsHeartbeat", Kind: Switch, Default: "n", Own: true, Doc: "ask the metadata service each minute whether it lives", at: func(c *Config) any { return &c.Protocol.IMDSHeartbeat }},
		{Name: "DetectScvmmEnv", Kind: Switch, Default: "n", Doc: "look for a System Center host", at: func(c *Config) any { return &c.Protocol.DetectSCVMM }},
		{Name: "Download.Order", Kind: Enum, Default: OrderHost, Own: true, Choices: []string{OrderHost, OrderDirect}, Doc: "first channel for blobs: through the host, or straight to storage", at: func(c *Config) any { return &c.Download.Order }},

		{Name: "AutoUpdate.Mode", Kind: Enum, Own: true, Choices: []string{UpdateOff, UpdateDistro, UpdatePinned, UpdateChannel}, Doc: "off, distro, pinned (or pinned:VERSION), channel; default from the classic flags: n is off, y is channel, neither is distro", at: func(c *Config) any { return &c.Update.Mode }},
		{Name: "AutoUpdate.Pin", Kind: String, Own: true, Doc: "the version for AutoUpdate.Mode=pinned", at: func(c *Config) any { return &c.Update.Pin }},
		{Name: "AutoUpdate.Channel", Kind: String, Default: "stable", Own: true, Doc: "the channel for AutoUpdate.Mode=channel", at: func(c *Config) any { return &c.Update.Channel }},
		{Name: "AutoUpdate.RequireSignature", Kind: Switch, Default: "y", Own: true, Doc: "accept only packages of the agent that are signed; n is for test fleets", at: func(c *Config) any { return &c.Update.NeedSignature }},
		{Name: "AutoUpdate.TrustRoots", Kind: Path, Default: "/etc/azguest/update-roots.pem", Own: true, Doc: "certificates of the authorities that may sign packages of the agent; without the file none is accepted", at: func(c *Config) any { return &c.Update.TrustRoots }},
		{Name: "AutoUpdate.HealthTimeout", Kind: Seconds, Default: "40", Min: 5, Max: 600, Own: true, Doc: "time a new version has until the platform accepts a report of it; then it is rolled back", at: func(c *Config) any { return &c.Update.HealthTimeout }},
		{Name: "AutoUpdate.QuietPeriod", Kind: Seconds, Default: "300", Own: true, Doc: "no update in this time after the agent started and provisioning ended", at: func(c *Config) any { return &c.Update.Quiet }},
		{Name: "AutoUpdate.Window", Kind: String, Own: true, Doc: "hours of the day in which the agent may be replaced, as 22:00-04:30 local time; default any", at: func(c *Config) any { return &c.Update.Window }},
		{Name: "AutoUpdate.Enabled", Kind: Switch, Default: "y", Doc: "classic flag, see AutoUpdate.Mode", at: func(c *Config) any { return &c.Update.Enabled }},
		{Name: "AutoUpdate.UpdateToLatestVersion", Kind: Switch, Doc: "classic flag, see AutoUpdate.Mode; default AutoUpdate.Enabled", at: func(c *Config) any { return &c.Update.ToLatest }},
		{Name: "AutoUpdate.GAFamily", Kind: String, Default: "Prod", Doc: "agent family", at: func(c *Config) any { return &c.Update.Family }},
		{Name: "Autoupdate.Frequency", Kind: Seconds, Default: "3600", Min: 1, Doc: "how often to look for an update (spelt with a small u)", at: func(c *Config) any { return &c.Update.Period }},
		{Name: "EnableOverProvisioning", Kind: Switch, Default: "y", Doc: "hold extensions back while the platform says so", at: func(c *Config) any { return &c.Extensions.OverProvisioning }},
		{Name: "Policy.PolicyFilePath", Kind: Path, Default: "/etc/waagent_policy.json", Doc: "which extensions may run", at: func(c *Config) any { return &c.Policy.File }},

		{Name: "Status.HeartbeatPeriod", Kind: Seconds, Default: "60", Min: 1, Max: 60, Own: true, Doc: "how often status is reported when nothing changes", at: func(c *Config) any { return &c.Status.HeartbeatPeriod }},
		{Name: "Telemetry.Enabled", Kind: Switch, Default: "y", Own: true, Doc: "events about the agent; n: not one byte (status reports are not telemetry)", at: func(c *Config) any { return &c.Telemetry.Enabled }},
		{Name: "Telemetry.Period", Kind: Seconds, Default: "60", Min: 1, Own: true, Doc: "how often events are sent", at: func(c *Config) any { return &c.Telemetry.Period }},
		{Name: "Disk.BudgetMB", Kind: Int, Default: "256", Min: 16, Own: true, Doc: "MiB the agent may keep under Lib.Dir, active extensions not counted", at: func(c *Config) any { return &c.Disk.BudgetMB }},
		{Name: "Disk.BudgetFiles", Kind: Int, Default: "2000", Min: 100, Own: true, Doc: "files, likewise", at: func(c *Config) any { return &c.Disk.Files }},

		{Name: "CGroups.Enabled", Kind: Switch, Default: "y", Hidden: true, Doc: "use control groups", at: func(c *Config) any { return &c.Limits.Enabled }},
		{Name: "Debug.CgroupCheckPeriod", Kind: Seconds, Default: "300", Min: 1, Doc: "how often handlers are measured", at: func(c *Config) any { return &c.Limits.CheckPeriod }},
		{Name: "Debug.CgroupLogMetrics", Kind: Switch, Default: "n", Doc: "log the measurements", at: func(c *Config) any { return &c.Limits.LogMetrics }},
		{Name: "Debug.CgroupDisableOnProcessCheckFailure", Kind: Switch, Default: "y", Doc: "drop limits when a foreign process is in the group", at: func(c *Config) any { return &c.Limits.DisableOnProcess }},
		{Name: "Debug.CgroupDisableOnQuotaCheckFailure", Kind: Switch, Default: "y", Doc: "drop limits when the quota is overrun", at: func(c *Config) any { return &c.Limits.DisableOnQuota }},
		{Name: "Debug.AgentCpuQuota", Kind: Int, Default: "50", Min: 1, Doc: "per cent of one core for the agent", at: func(c *Config) any { return &c.Limits.AgentCPUPercent }},
		{Name: "Debug.AgentCpuThrottledTimeThreshold", Kind: Seconds, Default: "120", Doc: "throttled time that counts as overrun", at: func(c *Config) any { return &c.Limits.AgentThrottled }},
		{Name: "Debug.AgentMemoryQuota", Kind: Int, Default: "31457280", Doc: "bytes of memory for the agent", at: func(c *Config) any { return &c.Limits.AgentMemory }},
		{Name: "Debug.EnableAgentMemoryUsageCheck", Kind: Switch, Default: "n", Doc: "restart the agent above Debug.AgentMemoryQuota", at: func(c *Config) any { return &c.Limits.CheckAgentMemory }},
		{Name: "Debug.EnableCgroupV2ResourceLimiting", Kind: Switch, Default: "y", Doc: "limits on cgroup v2 (the classic agent shows n and means y)", at: func(c *Config) any { return &c.Limits.CgroupV2 }},
		{Name: "Debug.EnableFastTrack", Kind: Switch, Default: "y", Doc: "read goal states from the HostGAPlugin too", at: func(c *Config) any { return &c.Extensions.FastTrack }},
		{Name: "Debug.EnableGAVersioning", Kind: Switch, Default: "y", Doc: "let the platform ask for an agent version", at: func(c *Config) any { return &c.Update.Versioning }},
		{Name: "Debug.EnableRsmDowngrade", Kind: Switch, Default: "n", Hidden: true, Doc: "let it ask for an older one", at: func(c *Config) any { return &c.Update.AllowDowngrade }},
		{Name: "Debug.SelfUpdateHotfixFrequency", Kind: Seconds, Default: "14400", Min: 1, Doc: "how often to look for hotfixes", at: func(c *Config) any { return &c.Update.HotfixPeriod }},
		{Name: "Debug.SelfUpdateRegularFrequency", Kind: Seconds, Default: "86400", Min: 1, Doc: "how often to look for releases", at: func(c *Config) any { return &c.Update.RegularPeriod }},
		{Name: "Debug.AutoUpdateHotfixFrequency", Kind: Seconds, Alias: "Debug.SelfUpdateHotfixFrequency", Doc: "what the classic agent shows for Debug.SelfUpdateHotfixFrequency"},
		{Name: "Debug.AutoUpdateNormalFrequency", Kind: Seconds, Alias: "Debug.SelfUpdateRegularFrequency", Doc: "what the classic agent shows for Debug.SelfUpdateRegularFrequency"},
		{Name: "Debug.EnableExtensionPolicy", Kind: Switch, Default: "y", Doc: "obey Policy.PolicyFilePath where it exists; see Extensions.PolicyMode", at: func(c *Config) any { return &c.Policy.Enabled }},
		{Name: "Debug.EnableSignatureValidation", Kind: Switch, Default: "n", Doc: "check signatures of packages", at: func(c *Config) any { return &c.Extensions.SignatureValidation }},
		{Name: "Debug.EtpCollectionPeriod", Kind: Seconds, Default: "300", Min: 1, Doc: "how often events of handlers are collected", at: func(c *Config) any { return &c.Protocol.ETPPeriod }},
		{Name: "Debug.FirewallRulesLogPeriod", Kind: Seconds, Default: "86400", Min: 1, Doc: "how often the firewall rules are logged", at: func(c *Config) any { return &c.OS.FirewallLogPeriod }},
		{Name: "Debug.LogCollectorInitialDelay", Kind: Seconds, Default: "300", Doc: "wait before the first log upload", at: func(c *Config) any { return &c.Logs.CollectDelay }},

		{Name: "Provisioning.Enabled", Kind: Ignored, Doc: "removed in 2.2.45; use Provisioning.Agent"},
		{Name: "Provisioning.UseCloudInit", Kind: Ignored, Doc: "removed in 2.2.45; use Provisioning.Agent"},
		{Name: "Role.StateConsumer", Kind: Ignored, Doc: "of the first agent; no effect"},
		{Name: "Role.ConfigurationConsumer", Kind: Ignored, Doc: "of the first agent; no effect"},
		{Name: "Role.TopologyConsumer", Kind: Ignored, Doc: "of the first agent; no effect"},
		{Name: "LBProbeResponder", Kind: Ignored, Doc: "of the first agent; no effect"},
		{Name: "CGroups.EnforceLimits", Kind: Ignored, Doc: "no effect"},
		{Name: "CGroups.Excluded", Kind: Ignored, Doc: "no effect"},
		{Name: "Network.Interface", Kind: Ignored, Doc: "no effect; the interface is found"},
		{Name: "OS.SshdConfigPath", Kind: Ignored, Doc: "no effect; use OS.SshDir"},
	}
}

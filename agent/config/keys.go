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

// A Key is one row of the table: everything about one setting.
type Key struct {
	Name    string
	Kind    Kind
	Default string // as it would stand in a file; "" means None
	Doc     string
	Own     bool     // not known to the classic agent
	Inert   bool     // accepted, but nothing reads it; Doc says why
	Hidden  bool     // the classic agent's -show-configuration leaves it out
	Choices []string // of an Enum
	Alias   string   // the key this one is another name for
	Min     int64    // of an Int or Seconds; below it the default is used
	Max     int64    // 0: no limit; above it Max is used

	// judge says what is wrong with a String that is used all the same, and what
	// happens then; "" if nothing is.
	judge func(text string) string

	at func(*Config) any // *bool, *int, *int64, *string, *time.Duration; nil: no field
}

// Keys is the table of every key, in the order in which it is shown.
func Keys() []Key {
	return []Key{
		{Name: "Extensions.Enabled", Kind: Switch, Default: "y", Doc: "run extensions; n: report status, but run no extensions", at: func(c *Config) any { return &c.Extensions.Enabled }},
		{Name: "Extensions.Mode", Kind: Enum, Own: true, Choices: []string{ModeOn, ModeOff, ModeReportOnly}, Doc: "on, off (report that extensions are disabled), report-only (report existing handlers, run none); default follows Extensions.Enabled", at: func(c *Config) any { return &c.Extensions.Mode }},
		{Name: "Extensions.After", Kind: Enum, Own: true, Choices: []string{AfterConfig, AfterFinal, AfterNone}, Doc: "stage of cloud-init to wait for before the first extension; default none, or final with Extensions.WaitForCloudInit=y", at: func(c *Config) any { return &c.Extensions.After }},
		{Name: "Extensions.WaitForCloudInit", Kind: Switch, Default: "n", Doc: "y: same as Extensions.After=final"},
		{Name: "Extensions.WaitForCloudInitTimeout", Kind: Seconds, Default: "3600", Doc: "start extensions without cloud-init after this time", at: func(c *Config) any { return &c.Extensions.AfterTimeout }},
		{Name: "Extensions.GoalStatePeriod", Kind: Seconds, Default: "6", Min: 1, Doc: "how often the goal state is fetched", at: func(c *Config) any { return &c.Extensions.Period }},
		{Name: "Extensions.InitialGoalStatePeriod", Kind: Seconds, Min: 1, Inert: true, Doc: "accepted for compatibility, no effect: Extensions.GoalStatePeriod applies from the start", at: func(c *Config) any { return &c.Extensions.InitialPeriod }},
		{Name: "Extensions.FetchTimeout", Kind: Seconds, Default: "1800", Min: 1, Own: true, Doc: "how long a package, manifest or certificate that is not available yet is waited for before the extension is reported as failed; it is fetched after that, too, and the failure is taken back", at: func(c *Config) any { return &c.Extensions.FetchTimeout }},
		{Name: "Extensions.ExecDir", Kind: Path, Own: true, Doc: "where packages are unpacked and run when Lib.Dir is on a noexec file system; default Lib.Dir", at: func(c *Config) any { return &c.Extensions.ExecDir }},
		{Name: "Extensions.PolicyMode", Kind: Enum, Own: true, Choices: []string{PolicyOff, PolicyAudit, PolicyEnforce}, Doc: "off, audit (log what would be denied), enforce (obey policy files that exist); default enforce, or off with Debug.EnableExtensionPolicy=n", at: func(c *Config) any { return &c.Policy.Mode }},
		{Name: "Extensions.TrustRoots", Kind: Path, Default: "/etc/azguest/trust.d", Own: true, Doc: "directory of CA certificates (PEM) trusted to sign extension packages; the policy defines which packages must be signed", at: func(c *Config) any { return &c.Extensions.TrustRoots }},
		{Name: "Extensions.EnableEveryStart", Kind: Switch, Default: "n", Own: true, Doc: "enable every extension at each start of the agent, like the classic agent; n: only after a change, a boot or an upgrade", at: func(c *Config) any { return &c.Extensions.EnableEveryStart }},
		{Name: "Extensions.StatusPollPeriod", Kind: Seconds, Default: "15", Min: 1, Own: true, Doc: "how often status files are polled in addition to inotify", at: func(c *Config) any { return &c.Extensions.StatusPoll }},
		{Name: "Extension.LogDir", Kind: Path, Default: "/var/log/azure", Doc: "directory for logs of extensions", at: func(c *Config) any { return &c.Paths.ExtensionLogs }},

		{Name: "Provisioning.Agent", Kind: Enum, Default: AgentAuto, Choices: []string{AgentAuto, AgentSelf, "azguest", AgentCloudInit, AgentAzureInit, AgentDisabled}, Doc: "provisioning agent: auto, waagent (this agent), cloud-init, azure-init, disabled", at: func(c *Config) any { return &c.Provisioning.Agent }},
		{Name: "Provisioning.Mode", Kind: Enum, Default: ModeOn, Own: true, Choices: []string{ModeOn, ModeReadyOnly, ModeOff}, Doc: "on, ready-only (report Ready, change nothing), off", at: func(c *Config) any { return &c.Provisioning.Mode }},
		{Name: "Provisioning.Media", Kind: Path, Own: true, Doc: "device, image or directory to read instead of searching for the DVD", at: func(c *Config) any { return &c.Provisioning.Media }},
		{Name: "Provisioning.DeleteRootPassword", Kind: Switch, Default: "n", Doc: "lock the root password", at: func(c *Config) any { return &c.Provisioning.DeleteRootPassword }},
		{Name: "Provisioning.RegenerateSshHostKeyPair", Kind: Switch, Default: "n", Doc: "generate new SSH host keys", at: func(c *Config) any { return &c.Provisioning.RegenerateHostKeys }},
		{Name: "Provisioning.SshHostKeyPairType", Kind: Enum, Default: "rsa", Choices: []string{"rsa", "dsa", "ecdsa", "ed25519", "auto"}, Doc: "type of the new host key; auto: all types that sshd uses", at: func(c *Config) any { return &c.Provisioning.HostKeyType }},
		{Name: "Provisioning.MonitorHostName", Kind: Switch, Default: "n", Doc: "publish changes of the host name", at: func(c *Config) any { return &c.Provisioning.MonitorHostName }},
		{Name: "Provisioning.MonitorHostNamePeriod", Kind: Seconds, Default: "30", Min: 1, Doc: "how often the host name is checked", at: func(c *Config) any { return &c.Provisioning.MonitorHostNamePeriod }},
		{Name: "Provisioning.DecodeCustomData", Kind: Switch, Default: "n", Doc: "decode custom data before storing it", at: func(c *Config) any { return &c.Provisioning.DecodeCustomData }},
		{Name: "Provisioning.ExecuteCustomData", Kind: Switch, Default: "n", Doc: "run custom data once; implies Provisioning.DecodeCustomData", at: func(c *Config) any { return &c.Provisioning.ExecuteCustomData }},
		{Name: "Provisioning.AllowResetSysUser", Kind: Switch, Default: "n", Doc: "allow setting the password of a system account", at: func(c *Config) any { return &c.Provisioning.AllowResetSysUser }},
		{Name: "Provisioning.PasswordCryptId", Kind: String, Default: "6", Doc: "crypt method for password hashes; 6 is SHA-512", judge: oneOf("6 is used", "5", "6"), at: func(c *Config) any { return &c.Provisioning.PasswordCryptID }},
		{Name: "Provisioning.PasswordCryptSaltLength", Kind: Int, Default: "10", Min: 1, Max: 16, Doc: "length of the salt in characters", at: func(c *Config) any { return &c.Provisioning.PasswordSaltLength }},

		{Name: "ResourceDisk.Format", Kind: Switch, Default: "n", Doc: "format and mount the temporary disk; n: do not mount it", at: func(c *Config) any { return &c.ResourceDisk.Format }},
		{Name: "ResourceDisk.Filesystem", Kind: String, Default: "ext3", Doc: "file system of the temporary disk", judge: oneOf("the temporary disk is not formatted", "ext2", "ext3", "ext4", "xfs", "btrfs"), at: func(c *Config) any { return &c.ResourceDisk.FileSystem }},
		{Name: "ResourceDisk.MountPoint", Kind: Path, Default: "/mnt/resource", Doc: "mount point of the temporary disk", at: func(c *Config) any { return &c.ResourceDisk.MountPoint }},
		{Name: "ResourceDisk.MountOptions", Kind: String, Doc: "comma-separated mount options", at: func(c *Config) any { return &c.ResourceDisk.MountOptions }},
		{Name: "ResourceDisk.EnableSwap", Kind: Switch, Default: "n", Doc: "create a swap file on the temporary disk; needs ResourceDisk.Format=y", at: func(c *Config) any { return &c.ResourceDisk.EnableSwap }},
		{Name: "ResourceDisk.EnableSwapEncryption", Kind: Switch, Default: "n", Doc: "encrypt the swap (FreeBSD only)", at: func(c *Config) any { return &c.ResourceDisk.SwapEncryption }},
		{Name: "ResourceDisk.SwapSizeMB", Kind: Int, Default: "0", Doc: "size of the swap file in MiB", at: func(c *Config) any { return &c.ResourceDisk.SwapSizeMB }},

		{Name: "Logs.Verbose", Kind: Switch, Default: "n", Doc: "log at debug level", at: func(c *Config) any { return &c.Logs.Verbose }},
		{Name: "Logs.Console", Kind: Switch, Default: "y", Inert: true, Doc: "accepted for compatibility, no effect: nothing is written to /dev/console", at: func(c *Config) any { return &c.Logs.Console }},
		{Name: "Logs.Collect", Kind: Switch, Default: "y", Doc: "upload logs for support periodically", at: func(c *Config) any { return &c.Logs.Collect }},
		{Name: "Logs.CollectPeriod", Kind: Seconds, Default: "3600", Min: 60, Doc: "how often logs are uploaded", at: func(c *Config) any { return &c.Logs.CollectPeriod }},
		{Name: "Logs.File", Kind: Path, Default: "/var/log/waagent.log", Own: true, Doc: "log file of the agent; off: journal only", at: func(c *Config) any { return &c.Logs.File }},

		{Name: "OS.AllowHTTP", Kind: Switch, Default: "n", Inert: true, Doc: "accepted for compatibility, no effect: downloads use http only for URLs that the platform provides", at: func(c *Config) any { return &c.OS.AllowHTTP }},
		{Name: "OS.EnableFIPS", Kind: Switch, Default: "n", Doc: "create only host keys of types that FIPS 140 allows", at: func(c *Config) any { return &c.OS.EnableFIPS }},
		{Name: "OS.RootDeviceScsiTimeout", Kind: String, Doc: "SCSI timeout in seconds for every sd disk; None: keep the kernel's value", judge: number(1, 86400, "timeouts are not set"), at: func(c *Config) any { return &c.OS.RootDeviceScsiTimeout }},
		{Name: "OS.RootDeviceScsiTimeoutPeriod", Kind: Seconds, Default: "30", Min: 1, Doc: "how often the SCSI timeout is set", at: func(c *Config) any { return &c.OS.ScsiTimeoutPeriod }},
		{Name: "OS.OpensslPath", Kind: Path, Default: "/usr/bin/openssl", Inert: true, Doc: "accepted for compatibility, no effect: openssl is not used", at: func(c *Config) any { return &c.OS.OpensslPath }},
		{Name: "OS.SshDir", Kind: Path, Default: "/etc/ssh", Doc: "directory of host keys and sshd_config", at: func(c *Config) any { return &c.OS.SSHDir }},
		{Name: "OS.SshClientAliveInterval", Kind: String, Default: "180", Doc: "ClientAliveInterval for sshd in seconds; other forms are ignored", judge: number(0, 1<<31-1, "ClientAliveInterval is not set"), at: func(c *Config) any { return &c.OS.SSHClientAliveInterval }},
		{Name: "OS.HomeDir", Kind: Path, Default: "/home", Doc: "base directory of home directories", at: func(c *Config) any { return &c.OS.HomeDir }},
		{Name: "Home.Dir", Kind: Path, Alias: "OS.HomeDir", Doc: "OS.HomeDir in the sample configuration of the classic agent"},
		{Name: "OS.PasswordPath", Kind: Path, Default: "/etc/shadow", Doc: "path of the shadow file", at: func(c *Config) any { return &c.OS.PasswordPath }},
		{Name: "OS.SudoersDir", Kind: Path, Default: "/etc/sudoers.d", Doc: "directory for sudo drop-ins", at: func(c *Config) any { return &c.OS.SudoersDir }},
		{Name: "OS.EnableFirewall", Kind: Switch, Default: "y", Doc: "block access to the platform address for all users except root", at: func(c *Config) any { return &c.OS.EnableFirewall }},
		{Name: "OS.EnableFirewallPeriod", Kind: Seconds, Default: "300", Min: 1, Doc: "how often the rules are checked", at: func(c *Config) any { return &c.OS.FirewallPeriod }},
		{Name: "OS.RemovePersistentNetRulesPeriod", Kind: Seconds, Default: "30", Min: 1, Inert: true, Doc: "accepted for compatibility, no effect: udev rules are not watched", at: func(c *Config) any { return &c.OS.NetRulesPeriod }},
		{Name: "OS.MonitorDhcpClientRestartPeriod", Kind: Seconds, Default: "30", Min: 1, Inert: true, Doc: "accepted for compatibility, no effect: DHCP clients are not watched", at: func(c *Config) any { return &c.OS.DHCPMonitorPeriod }},
		{Name: "OS.EnableRDMA", Kind: Switch, Default: "n", Inert: true, Doc: "accepted for compatibility, no effect: RDMA devices are not configured", at: func(c *Config) any { return &c.OS.EnableRDMA }},
		{Name: "OS.UpdateRdmaDriver", Kind: Switch, Default: "n", Inert: true, Doc: "accepted for compatibility, no effect: RDMA drivers are not updated", at: func(c *Config) any { return &c.OS.UpdateRDMADriver }},
		{Name: "OS.CheckRdmaDriver", Kind: Switch, Default: "n", Inert: true, Doc: "accepted for compatibility, no effect: RDMA drivers are not checked", at: func(c *Config) any { return &c.OS.CheckRDMADriver }},
		{Name: "Monitor.NetworkConfigurationChanges", Kind: Switch, Default: "n", Hidden: true, Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.OS.MonitorNetworkChanges }},

		{Name: "Lib.Dir", Kind: Path, Default: "/var/lib/waagent", Doc: "state", at: func(c *Config) any { return &c.Paths.Lib }},
		{Name: "DVD.MountPoint", Kind: Path, Default: "/mnt/cdrom/secure", Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.Paths.DVDMountPoint }},
		{Name: "Pid.File", Kind: Path, Default: "/var/run/waagent.pid", Inert: true, Doc: "accepted for compatibility, no effect: no pid file is written", at: func(c *Config) any { return &c.Paths.PIDFile }},

		{Name: "HttpProxy.Host", Kind: String, Doc: "HTTP proxy; never used for the platform addresses", at: func(c *Config) any { return &c.Proxy.Host }},
		{Name: "HttpProxy.Port", Kind: Int, Default: "0", Max: 65535, Doc: "port of the HTTP proxy", at: func(c *Config) any { return &c.Proxy.Port }},
		{Name: "HttpUserAgent", Kind: String, Own: true, Doc: "User-Agent of the agent's requests", at: func(c *Config) any { return &c.Protocol.UserAgent }},

		{Name: "Protocol.EndpointDiscovery", Kind: String, Default: "dhcp", Doc: "dhcp: also ask by DHCP (option 245) if neither the fixed address nor one from a lease answers; any other value: never", judge: oneOf("the platform is not asked for by DHCP", "dhcp", "static"), at: func(c *Config) any { return &c.Protocol.Discovery }},
		{Name: "Protocol.Endpoint", Kind: String, Own: true, Doc: "host[:port] of the WireServer, for tests", at: func(c *Config) any { return &c.Protocol.Endpoint }},
		{Name: "Protocol.HostGAPlugin", Kind: String, Own: true, Doc: "host:port of the HostGAPlugin, for tests; default port 32526 of the WireServer", at: func(c *Config) any { return &c.Protocol.HostGA }},
		{Name: "Protocol.IMDS", Kind: String, Own: true, Doc: "host[:port] of the metadata service, for tests", at: func(c *Config) any { return &c.Protocol.IMDS }},
		{Name: "Protocol.Timeout", Kind: Seconds, Default: "30", Min: 1, Max: 600, Own: true, Inert: true, Doc: "no effect: each kind of request has its own time limit", at: func(c *Config) any { return &c.Protocol.HTTPTimeout }},
		{Name: "Protocol.ImdsHeartbeat", Kind: Switch, Default: "n", Own: true, Doc: "check once a minute whether the metadata service answers", at: func(c *Config) any { return &c.Protocol.IMDSHeartbeat }},
		{Name: "DetectScvmmEnv", Kind: Switch, Default: "n", Inert: true, Doc: "accepted for compatibility, no effect: System Center hosts are not detected", at: func(c *Config) any { return &c.Protocol.DetectSCVMM }},
		{Name: "Download.Order", Kind: Enum, Default: OrderHost, Own: true, Choices: []string{OrderHost, OrderDirect}, Doc: "channel tried first for blobs: host (through the HostGAPlugin) or direct (from storage)", at: func(c *Config) any { return &c.Download.Order }},

		{Name: "AutoUpdate.Mode", Kind: Enum, Own: true, Choices: []string{UpdateOff, UpdateDistro, UpdatePinned, UpdateChannel}, Doc: "off, distro, pinned (or pinned:VERSION), channel; default from the classic flags: n is off, y is channel, neither is distro", at: func(c *Config) any { return &c.Update.Mode }},
		{Name: "AutoUpdate.Pin", Kind: String, Own: true, Doc: "version for AutoUpdate.Mode=pinned", judge: judgeVersion, at: func(c *Config) any { return &c.Update.Pin }},
		{Name: "AutoUpdate.Channel", Kind: String, Default: "stable", Own: true, Doc: "name of the channel for AutoUpdate.Mode=channel; only shown in status", at: func(c *Config) any { return &c.Update.Channel }},
		{Name: "AutoUpdate.RequireSignature", Kind: Switch, Default: "y", Own: true, Doc: "accept only signed packages of the agent; n: for test fleets only", at: func(c *Config) any { return &c.Update.NeedSignature }},
		{Name: "AutoUpdate.TrustRoots", Kind: Path, Default: "/etc/azguest/update-roots.pem", Own: true, Doc: "file of CA certificates (PEM) trusted to sign packages of the agent; without it, no signature is valid", at: func(c *Config) any { return &c.Update.TrustRoots }},
		{Name: "AutoUpdate.HealthTimeout", Kind: Seconds, Default: "40", Min: 5, Max: 600, Own: true, Doc: "time within which the platform must accept a status report of a new version; otherwise it is rolled back", at: func(c *Config) any { return &c.Update.HealthTimeout }},
		{Name: "AutoUpdate.QuietPeriod", Kind: Seconds, Default: "300", Own: true, Doc: "time without updates after the agent started and provisioning ended", at: func(c *Config) any { return &c.Update.Quiet }},
		{Name: "AutoUpdate.Window", Kind: String, Own: true, Doc: "hours of the day in which the agent may be updated, such as 22:00-04:30 (local time); default any", judge: judgeWindow, at: func(c *Config) any { return &c.Update.Window }},
		{Name: "AutoUpdate.Enabled", Kind: Switch, Default: "y", Doc: "classic flag, see AutoUpdate.Mode", at: func(c *Config) any { return &c.Update.Enabled }},
		{Name: "AutoUpdate.UpdateToLatestVersion", Kind: Switch, Doc: "classic flag, see AutoUpdate.Mode; default AutoUpdate.Enabled", at: func(c *Config) any { return &c.Update.ToLatest }},
		{Name: "AutoUpdate.GAFamily", Kind: String, Default: "Prod", Doc: "agent family", at: func(c *Config) any { return &c.Update.Family }},
		{Name: "Autoupdate.Frequency", Kind: Seconds, Default: "3600", Min: 1, Doc: "how often to check for an update (note the lower-case u)", at: func(c *Config) any { return &c.Update.Period }},
		{Name: "EnableOverProvisioning", Kind: Switch, Default: "y", Doc: "do not run extensions while the platform over-provisions the VM", at: func(c *Config) any { return &c.Extensions.OverProvisioning }},
		{Name: "Policy.PolicyFilePath", Kind: Path, Default: "/etc/waagent_policy.json", Doc: "policy file that defines which extensions may run", at: func(c *Config) any { return &c.Policy.File }},

		{Name: "Status.HeartbeatPeriod", Kind: Seconds, Default: "60", Min: 1, Max: 60, Own: true, Doc: "how often status is reported when nothing changes", at: func(c *Config) any { return &c.Status.HeartbeatPeriod }},
		{Name: "Telemetry.Enabled", Kind: Switch, Default: "y", Own: true, Doc: "send telemetry events about the agent; n: send none (status reports are not telemetry)", at: func(c *Config) any { return &c.Telemetry.Enabled }},
		{Name: "Telemetry.Period", Kind: Seconds, Default: "60", Min: 1, Own: true, Doc: "how often events are sent", at: func(c *Config) any { return &c.Telemetry.Period }},
		{Name: "Metadata.Period", Kind: Seconds, Default: "0", Own: true, Doc: "how often the instance metadata are fetched to refresh /run/azguest/metadata.json and metadata.env; 0: only at the start of the agent", at: func(c *Config) any { return &c.Metadata.Period }},
		{Name: "Metadata.EnvFile", Kind: Switch, Default: "n", Own: true, Doc: "also write the instance metadata to /run/azguest/metadata.env, for EnvironmentFile= of systemd units", at: func(c *Config) any { return &c.Metadata.EnvFile }},
		{Name: "Disk.BudgetMB", Kind: Int, Default: "256", Min: 16, Own: true, Doc: "MiB the agent may keep under Lib.Dir, active extensions not counted", at: func(c *Config) any { return &c.Disk.BudgetMB }},
		{Name: "Disk.BudgetFiles", Kind: Int, Default: "2000", Min: 100, Own: true, Doc: "number of files the agent may keep under Lib.Dir, active extensions not counted", at: func(c *Config) any { return &c.Disk.Files }},

		{Name: "UserData.Apply", Kind: Switch, Default: "n", Own: true, Doc: "carry out custom data, user data and vendor data after the first boot's provisioning: scripts and a subset of cloud-config, once per VM; only where this agent provisions", at: func(c *Config) any { return &c.UserData.Apply }},
		{Name: "UserData.VendorData", Kind: Switch, Default: "y", Own: true, Doc: "with UserData.Apply=y, also use /usr/lib/azguest/vendor-data.d and the vendor data of the platform, beneath the user's", at: func(c *Config) any { return &c.UserData.VendorData }},
		{Name: "UserData.ScriptTimeout", Kind: Seconds, Default: "3600", Min: 1, Max: 86400, Own: true, Doc: "time limit of one script of the user data; then it is ended with all that it has started", at: func(c *Config) any { return &c.UserData.ScriptTimeout }},
		{Name: "Hooks.Enabled", Kind: Switch, Default: "n", Own: true, Doc: "run the scripts of /etc/azguest/hooks.d at the start, at shutdown and for scheduled events of the platform", at: func(c *Config) any { return &c.Hooks.Enabled }},
		{Name: "Hooks.Timeout", Kind: Seconds, Default: "300", Min: 1, Max: 86400, Own: true, Doc: "time limit of one script; a script for a scheduled event also ends when the event starts", at: func(c *Config) any { return &c.Hooks.Timeout }},
		{Name: "Hooks.Acknowledge", Kind: Enum, Default: AckSuccess, Choices: []string{AckSuccess, AckDeadline, AckNever}, Own: true, Doc: "when a scheduled event is acknowledged, so that it starts early: success (all of its scripts have succeeded), deadline (then, or a few seconds before it starts anyway), never", at: func(c *Config) any { return &c.Hooks.Acknowledge }},
		{Name: "Hooks.Period", Kind: Seconds, Default: "1", Min: 1, Max: 3600, Own: true, Doc: "how often the platform is asked for scheduled events; some are announced only 30 seconds before", at: func(c *Config) any { return &c.Hooks.Period }},
		{Name: "Hooks.ShutdownTimeout", Kind: Seconds, Default: "90", Min: 1, Max: 3600, Own: true, Doc: "time limit of all shutdown scripts together", at: func(c *Config) any { return &c.Hooks.ShutdownTimeout }},

		{Name: "CGroups.Enabled", Kind: Switch, Default: "y", Hidden: true, Inert: true, Doc: "accepted for compatibility, no effect: control groups are used where they exist", at: func(c *Config) any { return &c.Limits.Enabled }},
		{Name: "Debug.CgroupCheckPeriod", Kind: Seconds, Default: "300", Min: 1, Inert: true, Doc: "accepted for compatibility, no effect: the kernel enforces the limits", at: func(c *Config) any { return &c.Limits.CheckPeriod }},
		{Name: "Debug.CgroupLogMetrics", Kind: Switch, Default: "n", Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.Limits.LogMetrics }},
		{Name: "Debug.CgroupDisableOnProcessCheckFailure", Kind: Switch, Default: "y", Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.Limits.DisableOnProcess }},
		{Name: "Debug.CgroupDisableOnQuotaCheckFailure", Kind: Switch, Default: "y", Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.Limits.DisableOnQuota }},
		{Name: "Debug.AgentCpuQuota", Kind: Int, Default: "50", Min: 1, Inert: true, Doc: "accepted for compatibility, no effect; set CPUQuota= in a drop-in of the unit", at: func(c *Config) any { return &c.Limits.AgentCPUPercent }},
		{Name: "Debug.AgentCpuThrottledTimeThreshold", Kind: Seconds, Default: "120", Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.Limits.AgentThrottled }},
		{Name: "Debug.AgentMemoryQuota", Kind: Int, Default: "31457280", Inert: true, Doc: "accepted for compatibility, no effect; set MemoryMax= in a drop-in of the unit", at: func(c *Config) any { return &c.Limits.AgentMemory }},
		{Name: "Debug.EnableAgentMemoryUsageCheck", Kind: Switch, Default: "n", Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.Limits.CheckAgentMemory }},
		{Name: "Debug.EnableCgroupV2ResourceLimiting", Kind: Switch, Default: "y", Inert: true, Doc: "accepted for compatibility, no effect: limits are set with either version of cgroups", at: func(c *Config) any { return &c.Limits.CgroupV2 }},
		{Name: "Debug.EnableFastTrack", Kind: Switch, Default: "y", Doc: "also fetch goal states from the HostGAPlugin", at: func(c *Config) any { return &c.Extensions.FastTrack }},
		{Name: "Debug.EnableGAVersioning", Kind: Switch, Default: "y", Doc: "allow the platform to request an agent version", at: func(c *Config) any { return &c.Update.Versioning }},
		{Name: "Debug.EnableRsmDowngrade", Kind: Switch, Default: "n", Hidden: true, Doc: "accept an older agent version from the platform even if its fromVersion is not the running version", at: func(c *Config) any { return &c.Update.AllowDowngrade }},
		{Name: "Debug.SelfUpdateHotfixFrequency", Kind: Seconds, Default: "14400", Min: 1, Doc: "period over which the installation of a hotfix is spread", at: func(c *Config) any { return &c.Update.HotfixPeriod }},
		{Name: "Debug.SelfUpdateRegularFrequency", Kind: Seconds, Default: "86400", Min: 1, Doc: "period over which the installation of a release is spread", at: func(c *Config) any { return &c.Update.RegularPeriod }},
		{Name: "Debug.AutoUpdateHotfixFrequency", Kind: Seconds, Alias: "Debug.SelfUpdateHotfixFrequency", Doc: "Debug.SelfUpdateHotfixFrequency in the output of the classic agent"},
		{Name: "Debug.AutoUpdateNormalFrequency", Kind: Seconds, Alias: "Debug.SelfUpdateRegularFrequency", Doc: "Debug.SelfUpdateRegularFrequency in the output of the classic agent"},
		{Name: "Debug.EnableExtensionPolicy", Kind: Switch, Default: "y", Doc: "obey Policy.PolicyFilePath where it exists; see Extensions.PolicyMode", at: func(c *Config) any { return &c.Policy.Enabled }},
		{Name: "Debug.EnableSignatureValidation", Kind: Switch, Default: "n", Doc: "expect signed extension packages: agentctl doctor warns if there is no trusted certificate; the policy defines which packages must be signed", at: func(c *Config) any { return &c.Extensions.SignatureValidation }},
		{Name: "Debug.EtpCollectionPeriod", Kind: Seconds, Default: "300", Min: 1, Doc: "how often events of handlers are collected", at: func(c *Config) any { return &c.Protocol.ETPPeriod }},
		{Name: "Debug.FirewallRulesLogPeriod", Kind: Seconds, Default: "86400", Min: 1, Inert: true, Doc: "accepted for compatibility, no effect", at: func(c *Config) any { return &c.OS.FirewallLogPeriod }},
		{Name: "Debug.LogCollectorInitialDelay", Kind: Seconds, Default: "300", Doc: "delay before the first log upload", at: func(c *Config) any { return &c.Logs.CollectDelay }},

		{Name: "Provisioning.Enabled", Kind: Ignored, Doc: "removed in 2.2.45; use Provisioning.Agent"},
		{Name: "Provisioning.UseCloudInit", Kind: Ignored, Doc: "removed in 2.2.45; use Provisioning.Agent"},
		{Name: "Role.StateConsumer", Kind: Ignored, Doc: "option of the first agent; no effect"},
		{Name: "Role.ConfigurationConsumer", Kind: Ignored, Doc: "option of the first agent; no effect"},
		{Name: "Role.TopologyConsumer", Kind: Ignored, Doc: "option of the first agent; no effect"},
		{Name: "LBProbeResponder", Kind: Ignored, Doc: "option of the first agent; no effect"},
		{Name: "CGroups.EnforceLimits", Kind: Ignored, Doc: "no effect"},
		{Name: "CGroups.Excluded", Kind: Ignored, Doc: "no effect"},
		{Name: "Network.Interface", Kind: Ignored, Doc: "no effect; the interface is detected"},
		{Name: "OS.SshdConfigPath", Kind: Ignored, Doc: "no effect; use OS.SshDir"},
	}
}

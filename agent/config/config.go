package config

import "time"

// Config has every setting, typed. The zero value is not useful: use [Default]
// or [Load]. Fields are grouped as the keys are; keys.go names the key of each
// field.
type Config struct {
	Extensions   Extensions
	Provisioning Provisioning
	ResourceDisk ResourceDisk
	Logs         Logs
	OS           OS
	Paths        Dirs
	Proxy        Proxy
	Protocol     Protocol
	Update       Update
	Policy       Policy
	Status       Status
	Telemetry    Telemetry
	Metadata     Metadata
	Download     Download
	Limits       Limits
	Disk         Disk
	Hooks        Hooks
	UserData     UserData

	values map[string]Value // by key, only those that a file has set
}

// Extensions configures how handlers are run.
type Extensions struct {
	Enabled             bool          // Extensions.Enabled; see also Mode
	Mode                string        // ModeOn, ModeOff, ModeReportOnly; follows Enabled unless set
	After               string        // AfterConfig, AfterFinal, AfterNone: which stage of cloud-init to wait for
	AfterTimeout        time.Duration // then go on without it
	Period              time.Duration // goal-state poll
	InitialPeriod       time.Duration // until the first goal state is complete
	FastTrack           bool          // Debug.EnableFastTrack: also fetch goal states from the HostGAPlugin (vmSettings)
	OverProvisioning    bool          // honour OnHold
	ExecDir             string        // where packages are unpacked; empty: Paths.Lib
	SignatureValidation bool
	TrustRoots          string        // directory of PEM files: root certificates of those who may sign packages
	EnableEveryStart    bool          // enable everything at each start of the agent, like the classic agent
	FetchTimeout        time.Duration // a package that is not available is reported as a failure after this
	StatusPoll          time.Duration // polling of status files, in addition to inotify
}

// Values of Extensions.Mode and Provisioning.Mode.
const (
	ModeOn         = "on"
	ModeOff        = "off"
	ModeReportOnly = "report-only" // extensions: answer the platform, run nothing
	ModeReadyOnly  = "ready-only"  // provisioning: report Ready, change nothing
)

// Values of Extensions.After.
const (
	AfterConfig = "config" // cloud-init's config stage
	AfterFinal  = "final"  // cloud-init has finished
	AfterNone   = "none"
)

// Provisioning configures the first boot.
type Provisioning struct {
	Agent                 string // AgentAuto …
	Mode                  string // ModeOn, ModeReadyOnly, ModeOff
	DeleteRootPassword    bool
	RegenerateHostKeys    bool
	HostKeyType           string // rsa, dsa, ecdsa, ed25519, auto
	MonitorHostName       bool
	MonitorHostNamePeriod time.Duration
	DecodeCustomData      bool // also true when ExecuteCustomData is
	ExecuteCustomData     bool
	AllowResetSysUser     bool
	PasswordCryptID       string
	PasswordSaltLength    int
	Media                 string // device, image or directory to read instead of searching; empty: search
}

// Values of Provisioning.Agent.
const (
	AgentAuto      = "auto"
	AgentSelf      = "waagent" // "azguest" is accepted and means the same
	AgentCloudInit = "cloud-init"
	AgentAzureInit = "azure-init"
	AgentDisabled  = "disabled"
)

// ResourceDisk configures the temporary disk.
type ResourceDisk struct {
	Format         bool // false: the disk is not even mounted
	FileSystem     string
	MountPoint     string
	MountOptions   string
	EnableSwap     bool
	SwapEncryption bool
	SwapSizeMB     int // MiB
}

// Logs configures the logs of the agent.
type Logs struct {
	Verbose       bool
	Console       bool
	Collect       bool
	CollectPeriod time.Duration
	CollectDelay  time.Duration // before the first collection
	File          string        // /var/log/waagent.log; None switches it off
}

// OS configures what the agent may change on the machine.
type OS struct {
	AllowHTTP              bool
	EnableFIPS             bool
	EnableFirewall         bool
	FirewallPeriod         time.Duration
	FirewallLogPeriod      time.Duration
	RootDeviceScsiTimeout  string // seconds, as written to sysfs; empty: leave alone
	ScsiTimeoutPeriod      time.Duration
	OpensslPath            string // read, not used: nothing here needs openssl
	SSHDir                 string
	SSHClientAliveInterval string // empty: leave alone
	HomeDir                string
	PasswordPath           string
	SudoersDir             string
	NetRulesPeriod         time.Duration
	DHCPMonitorPeriod      time.Duration
	EnableRDMA             bool
	UpdateRDMADriver       bool
	CheckRDMADriver        bool
	MonitorNetworkChanges  bool
}

// Dirs are the paths that the classic agent uses, too.
type Dirs struct {
	Lib           string
	ExtensionLogs string
	DVDMountPoint string
	PIDFile       string
}

// Proxy is used for the internet only, never for the host's own addresses.
type Proxy struct {
	Host string
	Port int // 0: none given
}

// Protocol configures how the platform is reached.
type Protocol struct {
	Discovery     string // "dhcp", else the fixed address
	Endpoint      string // host[:port] instead of the platform's; for tests
	HostGA        string // host:port of the HostGAPlugin; empty: Endpoint's host, port 32526
	IMDS          string // host[:port] of the metadata service; empty: 169.254.169.254
	UserAgent     string // HttpUserAgent; empty: the agent's own
	DetectSCVMM   bool
	HTTPTimeout   time.Duration
	ETPPeriod     time.Duration
	IMDSHeartbeat bool // check every minute whether the metadata service answers
}

// Update configures updates of the agent. Mode decides; the classic flags only
// choose its default.
type Update struct {
	Mode           string // UpdateOff …
	Pin            string // version, for UpdatePinned
	Channel        string // for UpdateChannel
	Enabled        bool   // AutoUpdate.Enabled
	ToLatest       bool   // AutoUpdate.UpdateToLatestVersion
	Family         string // AutoUpdate.GAFamily
	Period         time.Duration
	HotfixPeriod   time.Duration
	RegularPeriod  time.Duration
	Versioning     bool // Debug.EnableGAVersioning: the platform may ask for a version
	AllowDowngrade bool
	NeedSignature  bool          // AutoUpdate.RequireSignature
	TrustRoots     string        // PEM file: root certificates of those who may sign packages of the agent
	HealthTimeout  time.Duration // for the first accepted report of a new version
	Quiet          time.Duration // time without updates after the start
	Window         string        // "22:00-04:30", local time; empty: any time
}

// Values of AutoUpdate.Mode.
const (
	UpdateOff     = "off"
	UpdateDistro  = "distro"  // updates only by the package manager
	UpdatePinned  = "pinned"  // stay on AutoUpdate.Pin
	UpdateChannel = "channel" // what the platform offers
)

// Policy configures which extensions may run.
type Policy struct {
	File    string
	Enabled bool   // Debug.EnableExtensionPolicy
	Mode    string // PolicyOff, PolicyAudit, PolicyEnforce; follows Enabled unless set, so that a file that exists is enforced
}

// Values of Extensions.PolicyMode.
const (
	PolicyOff     = "off"
	PolicyAudit   = "audit"
	PolicyEnforce = "enforce"
)

// Status configures how often status is reported when nothing changes.
type Status struct {
	HeartbeatPeriod time.Duration // 1 s … 60 s
}

// Telemetry configures events about the agent; status reports are not
// telemetry.
type Telemetry struct {
	Enabled bool // false: nothing is sent
	Period  time.Duration
}

// Metadata configures the copies of the instance metadata for other programs.
type Metadata struct {
	Period  time.Duration // 0: not fetched only for the copies
	EnvFile bool          // also as a file for EnvironmentFile= of systemd
}

// Download configures the order of the two channels: through the host, and
// directly from storage.
type Download struct {
	Order string // OrderHost, OrderDirect: which of the two is tried first
}

// Values of Download.Order.
const (
	OrderHost   = "host"
	OrderDirect = "direct"
)

// Limits configures control groups.
type Limits struct {
	Enabled          bool // CGroups.Enabled
	CheckPeriod      time.Duration
	LogMetrics       bool
	DisableOnProcess bool
	DisableOnQuota   bool
	AgentCPUPercent  int
	AgentThrottled   time.Duration
	AgentMemory      int64 // bytes
	CheckAgentMemory bool
	CgroupV2         bool
}

// Disk is the budget for the agent's own files.
type Disk struct {
	BudgetMB int // MiB under Paths.Lib, active extensions not counted
	Files    int
}

// Hooks configures the administrator's scripts for events.
type Hooks struct {
	Enabled         bool
	Timeout         time.Duration // of one script
	Acknowledge     string        // AckSuccess …
	Period          time.Duration // between two requests for scheduled events
	ShutdownTimeout time.Duration // of all shutdown scripts
}

// UserData configures what is done with user data and vendor data
// (provisioning/SPEC.md §18).
type UserData struct {
	Apply         bool
	VendorData    bool          // has an effect only with Apply
	ScriptTimeout time.Duration // of one script
}

// Values of Hooks.Acknowledge.
const (
	AckSuccess  = "success"
	AckDeadline = "deadline"
	AckNever    = "never"
)

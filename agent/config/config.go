package config

import "time"

// Config is every setting, typed. The zero value is not useful: take
// [Default] or [Load]. Fields are grouped as the keys are; the name of a key
// is in keys.go beside its field.
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
	Download     Download
	Limits       Limits
	Disk         Disk

	values map[string]Value // by key, only what a file set
}

// Extensions is how handlers are run.
type Extensions struct {
	Enabled             bool          // Extensions.Enabled; see also Mode
	Mode                string        // ModeOn, ModeOff, ModeReportOnly; follows Enabled unless set
	After               string        // AfterConfig, AfterFinal, AfterNone: which stage of cloud-init to wait for
	AfterTimeout        time.Duration // then go on without it
	Period              time.Duration // goal-state poll
	InitialPeriod       time.Duration // until the first goal state is complete
	FastTrack           bool          // Debug.EnableFastTrack: read vmSettings
	OverProvisioning    bool          // honour OnHold
	ExecDir             string        // where packages are unpacked; empty: Paths.Lib
	SignatureValidation bool
	TrustRoots          string        // directory of PEM files: who may sign packages
	EnableEveryStart    bool          // enable everything at each start of the agent, as the classic one
	StatusPoll          time.Duration // slow look at status files behind inotify
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

// Provisioning is the first boot.
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

// ResourceDisk is the temporary disk.
type ResourceDisk struct {
	Format         bool // false: the disk is not even mounted
	FileSystem     string
	MountPoint     string
	MountOptions   string
	EnableSwap     bool
	SwapEncryption bool
	SwapSizeMB     int // MiB
}

// Logs is what the agent writes about itself.
type Logs struct {
	Verbose       bool
	Console       bool
	Collect       bool
	CollectPeriod time.Duration
	CollectDelay  time.Duration // before the first collection
	File          string        // /var/log/waagent.log; None switches it off
}

// OS is what the agent may change on the machine.
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

// Dirs are the classic paths.
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

// Protocol is how the platform is reached.
type Protocol struct {
	Discovery     string // "dhcp", else the fixed address
	Endpoint      string // host[:port] instead of the platform's; for tests
	HostGA        string // host:port of the HostGAPlugin; empty: Endpoint's host, port 32526
	IMDS          string // host[:port] of the metadata service; empty: 169.254.169.254
	UserAgent     string // HttpUserAgent; empty: the agent's own
	DetectSCVMM   bool
	HTTPTimeout   time.Duration
	ETPPeriod     time.Duration
	IMDSHeartbeat bool // ask the metadata service each minute whether it lives
}

// Update is self-update. Mode rules; the classic flags only choose its default.
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
	TrustRoots     string        // PEM file: who may sign our packages
	HealthTimeout  time.Duration // for the first accepted report of a new version
	Quiet          time.Duration // after the start: no update
	Window         string        // "22:00-04:30", local time; empty: any time
}

// Values of AutoUpdate.Mode.
const (
	UpdateOff     = "off"
	UpdateDistro  = "distro"  // the package manager's business
	UpdatePinned  = "pinned"  // stay on AutoUpdate.Pin
	UpdateChannel = "channel" // what the platform offers
)

// Policy is which extensions may run.
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

// Status is how often the platform hears of us when nothing changes.
type Status struct {
	HeartbeatPeriod time.Duration // 1 s … 60 s
}

// Telemetry is events about the agent; status reports are not telemetry.
type Telemetry struct {
	Enabled bool // false: not one byte is sent
	Period  time.Duration
}

// Download is the order of the two channels.
type Download struct {
	Order string // OrderHost, OrderDirect: which of the two is tried first
}

// Values of Download.Order.
const (
	OrderHost   = "host"
	OrderDirect = "direct"
)

// Limits is control groups.
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

// Disk is the agent's own budget.
type Disk struct {
	BudgetMB int // MiB under Paths.Lib, active extensions not counted
	Files    int
}

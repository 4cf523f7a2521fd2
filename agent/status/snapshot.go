package status

import "time"

// Schema is the version of the JSON. It grows by one when a key changes its
// meaning or goes away; new keys do not change it.
const Schema = 1

// State is the state of the whole agent, or of one of its parts.
type State string

// Whole agent: Healthy, Degraded, Failed, Starting.
// One part: OK, Warn, Error, Off, Unknown.
const (
	Healthy  State = "healthy"
	Degraded State = "degraded"
	Failed   State = "failed"
	Starting State = "starting" // provisioning or the first report is not done yet

	OK      State = "ok"
	Warn    State = "warn"
	Error   State = "error"
	Off     State = "off"     // switched off by configuration: not a fault
	Unknown State = "unknown" // not checked yet
)

// Desired states of an extension.
const (
	WantEnabled   = "enabled"
	WantDisabled  = "disabled"
	WantUninstall = "uninstall"
)

// Actual states of an extension; the first six are those of the state table of
// package extensions.
const (
	ActualAbsent    = "Absent"
	ActualFetched   = "Fetched"
	ActualInstalled = "Installed"
	ActualEnabled   = "Enabled"
	ActualDisabled  = "Disabled"
	ActualBroken    = "Broken"
)

// States that a handler reports in its status file.
const (
	StatusTransitioning = "transitioning"
	StatusSuccess       = "success"
	StatusWarning       = "warning"
	StatusError         = "error"
)

// States of provisioning.
const (
	ProvPending  = "pending"  // waiting, for instance for cloud-init
	ProvRunning  = "running"  // steps are being applied
	ProvDone     = "done"     // this VM id is provisioned
	ProvFailed   = "failed"   // reported to the platform as ProvisioningFailed
	ProvDisabled = "disabled" // Provisioning.Agent=disabled
)

// Who provisions the machine.
const (
	ByAgent     = "azguest"
	ByCloudInit = "cloud-init"
	ByAzureInit = "azure-init"
	ByIgnition  = "ignition"
	ByNobody    = "nobody"
)

// A Problem is part of every item that can have one: a stable code that
// `agentctl explain` knows, since when, and what to do about it.
type Problem struct {
	Code  string    `json:"code,omitempty"`
	Since time.Time `json:"since,omitzero"`
	Fix   string    `json:"fix,omitempty"`
}

// Snapshot is everything that agentctl knows about the agent.
//
// The tag "see" of a field whose text is not the agent's own says who may read
// it, see [Snapshot.Redact] and [Snapshot.Clean]:
//
//	see:"root"  output of programs of this machine (handlers, scripts, tools):
//	            only in root's file, because a script may print any secret
//	see:"line"  errors of servers and texts of operators: others get a short
//	            line without user names and queries of URLs
//	see:"url"   URLs: without user names and queries
//	see:"word"  one of the words that a handler may use for its state
//
// Codes, states, names and numbers have no such tag.
type Snapshot struct {
	SchemaVersion int       `json:"schema_version"` // set by Save
	WrittenAt     time.Time `json:"written_at"`     // set by Save when zero
	Redacted      bool      `json:"redacted,omitempty"`

	Overall      Overall      `json:"overall"`
	Agent        Agent        `json:"agent"`
	VM           VM           `json:"vm"`
	Platform     Platform     `json:"platform"`
	Provisioning Provisioning `json:"provisioning"`
	Endpoints    []Endpoint   `json:"endpoints,omitempty"`
	Firewall     Firewall     `json:"firewall"`
	Extensions   []Extension  `json:"extensions"`
	Certs        []Cert       `json:"certs,omitempty"`
	Disk         Disk         `json:"disk"`
	Policy       Policy       `json:"policy"`
	Hold         *Hold        `json:"hold,omitempty"`
	Clock        Clock        `json:"clock"`
	Telemetry    Telemetry    `json:"telemetry"`
	Metadata     *Metadata    `json:"metadata,omitempty"` // nil unless copies are switched on
	Hooks        *Hooks       `json:"hooks,omitempty"`
	UserData     *UserData    `json:"user_data,omitempty"`
	Problems     []Item       `json:"problems,omitempty"` // anything without a section of its own
	History      []Transition `json:"history,omitempty"`  // newest last, at most HistoryMax
	// AuditSeq is the number of the last line of the audit log, so that a
	// collector of the log can detect missing lines. 0: there is none.
	AuditSeq int64 `json:"audit_seq"`
}

// HistoryMax is how many transitions a snapshot keeps.
const HistoryMax = 20

// Overall is the verdict; [Snapshot.Judge] computes it from the parts.
type Overall struct {
	State State    `json:"state"`
	Codes []string `json:"codes,omitempty"` // sorted, each once
	Line  string   `json:"line,omitempty"`  // one sentence, also sent as sd_notify STATUS=
}

// Agent is the process itself.
type Agent struct {
	Version    string    `json:"version"`
	Commit     string    `json:"commit,omitempty"`
	PID        int       `json:"pid,omitempty"`
	StartTicks uint64    `json:"start_ticks,omitempty"` // field 22 of /proc/PID/stat: detects a reused PID
	Started    time.Time `json:"started,omitzero"`
	BootID     string    `json:"boot_id,omitempty"` // /proc/sys/kernel/random/boot_id
	RSS        int64     `json:"rss,omitempty"`
	CPUSeconds float64   `json:"cpu_s,omitempty"`
	CPUPercent float64   `json:"cpu_percent,omitempty"` // of one core, over the last minutes
	FDs        int       `json:"fds,omitempty"`
	Goroutines int       `json:"goroutines,omitempty"`
	Restarts   int       `json:"restarts,omitempty"` // since boot
	Unit       string    `json:"unit,omitempty"`
	Update     Update    `json:"update"`
}

// Update is the state of self-update.
type Update struct {
	Problem
	Mode       string    `json:"mode,omitempty"` // off, distro, pinned, channel
	Channel    string    `json:"channel,omitempty"`
	Pinned     string    `json:"pinned,omitempty"`
	Requested  string    `json:"requested,omitempty"` // version the platform asked for
	LastResult string    `json:"last_result,omitempty" see:"line"`
	LastAt     time.Time `json:"last_at,omitzero"`
}

// VM says which machine this is.
type VM struct {
	Name        string `json:"name,omitempty"` // host name
	ID          string `json:"id,omitempty"`
	ContainerID string `json:"container_id,omitempty"`
	OS          string `json:"os,omitempty"` // "debian 12"
	Kernel      string `json:"kernel,omitempty"`
}

// Platform is the state of the communication with the platform.
type Platform struct {
	Problem
	Endpoint          string     `json:"endpoint,omitempty"`
	EndpointFrom      string     `json:"endpoint_from,omitempty"` // default, option 245, cache, config
	Health            string     `json:"health,omitempty"`        // Ready or NotReady, as last sent
	LastReport        Report     `json:"last_report"`
	GoalState         GoalState  `json:"goal_state"`
	SupportedFeatures []string   `json:"supported_features,omitempty"`
	RequiredFeatures  []string   `json:"required_features,omitempty"`
	MissingFeatures   []string   `json:"missing_features,omitempty"`
	LastHealth        Report     `json:"last_health"`
	Waiting           string     `json:"waiting,omitempty" see:"line"` // what is waited for
	OnHold            bool       `json:"on_hold,omitempty"`
	VMSettings        VMSettings `json:"vm_settings"`
}

// Report is one message to the platform. A report that was sent was not
// necessarily accepted.
type Report struct {
	At         time.Time `json:"at,omitzero"`
	HTTPStatus int       `json:"http_status,omitempty"`
	Sent       bool      `json:"sent"`
	Accepted   bool      `json:"accepted"`
	AcceptedAt time.Time `json:"accepted_at,omitzero"` // when one was last accepted
	Via        string    `json:"via,omitempty"`        // host or direct
	Error      string    `json:"error,omitempty" see:"line"`
}

// GoalState is the current goal state, and how far it is applied.
type GoalState struct {
	ID       string    `json:"id,omitempty"` // incarnation, or etag source id
	ETag     string    `json:"etag,omitempty"`
	Source   string    `json:"source,omitempty"`   // fabric or fast-track
	Activity string    `json:"activity,omitempty"` // id for support
	Received time.Time `json:"received,omitzero"`
	Applied  time.Time `json:"applied,omitzero"` // zero while work is left
	LagS     float64   `json:"lag_s"`            // from Received until it was applied for the first time
}

// VMSettings is the state of the JSON goal state channel.
type VMSettings struct {
	Supported bool   `json:"supported"`
	Version   string `json:"version,omitempty"` // of the HostGAPlugin
}

// Provisioning is the state of the first boot.
type Provisioning struct {
	Problem
	State    string    `json:"state,omitempty"` // Prov*
	By       string    `json:"by,omitempty"`    // By*
	VMID     string    `json:"vm_id,omitempty"`
	Media    string    `json:"media,omitempty"` // where ovf-env.xml came from
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Waiting  string    `json:"waiting,omitempty" see:"line"`
	Error    string    `json:"error,omitempty" see:"root"`
	Steps    []Step    `json:"steps,omitempty"`
	Login    *Login    `json:"login,omitempty"` // nil: not checked
}

// Login says whether the person for whom the machine was made can get in, as
// checked after provisioning, and again by agentctl doctor.
type Login struct {
	At       time.Time      `json:"at,omitzero"`
	User     string         `json:"user"`
	Ways     []LoginWay     `json:"ways"`
	Findings []LoginFinding `json:"findings,omitempty"`
}

// LoginWay is one way that the person was given: key, password, root.
type LoginWay struct {
	Name string `json:"name"`
	Open bool   `json:"open"`
}

// LoginFinding is something that keeps the person out, or may.
type LoginFinding struct {
	Problem
	Shuts    []string `json:"shuts,omitempty"`
	Evidence string   `json:"evidence,omitempty" see:"root"` // answers of programs
}

// Step is one provisioning step. Name holds no secret.
type Step struct {
	Name  string    `json:"name"`
	State string    `json:"state"` // done, running, failed, skipped, pending
	At    time.Time `json:"at,omitzero"`
	TookS float64   `json:"took_s,omitempty"`
	Error string    `json:"error,omitempty" see:"root"`
	Code  string    `json:"code,omitempty"`
}

// Endpoint is something the agent talks to.
type Endpoint struct {
	Problem
	Name      string    `json:"name"` // wireserver, hostplugin, imds, storage
	URL       string    `json:"url,omitempty" see:"url"`
	State     State     `json:"state"`
	Via       string    `json:"via,omitempty"`             // direct, host
	Proxy     string    `json:"proxy,omitempty" see:"url"` // without credentials
	LatencyS  float64   `json:"latency_s,omitempty"`
	LastOK    time.Time `json:"last_ok,omitzero"`
	LastError string    `json:"last_error,omitempty" see:"line"`
	Why       string    `json:"why,omitempty"` // what it is needed for
	// Hosts are the servers of this endpoint that the goal state names.
	Hosts []Host `json:"hosts,omitempty"`
}

// Host is a server of a storage account.
type Host struct {
	URL string `json:"url" see:"url"` // scheme and host
	Why string `json:"why"`
}

// Firewall protects the platform's address from ordinary users.
type Firewall struct {
	Problem
	State      State             `json:"state"`
	Backend    string            `json:"backend,omitempty"` // nftables, iptables, none
	VerifiedAt time.Time         `json:"verified_at,omitzero"`
	Results    map[string]string `json:"results,omitempty"` // who → whether they reach the address
	Message    string            `json:"message,omitempty" see:"root"`
}

// Extension is one handler, or one instance of a multi-config handler.
type Extension struct {
	Problem
	Name    string `json:"name"`             // Publisher.Type
	Config  string `json:"config,omitempty"` // instance name, multi-config only
	Version string `json:"version"`
	Seq     int    `json:"seq"`               // -1: no settings
	Desired string `json:"desired,omitempty"` // Want*
	Actual  string `json:"actual,omitempty"`  // Actual*
	Phase   string `json:"phase,omitempty"`   // operation that is running now: fetch, install, enable …

	Status     string `json:"status,omitempty" see:"word"` // Status*: what the handler says
	StatusCode int    `json:"status_code,omitempty"`       // code in the handler's status file
	Ready      string `json:"ready,omitempty" see:"word"`  // handler status sent to the platform: Ready, NotReady …
	Heartbeat  string `json:"heartbeat,omitempty" see:"word"`

	Started   time.Time `json:"started,omitzero"` // of the running or last operation
	Finished  time.Time `json:"finished,omitzero"`
	Deadline  time.Time `json:"deadline,omitzero"`
	Overdue   string    `json:"overdue,omitempty"` // why the running command has not ended at its deadline, and what is done about it
	Attempts  int       `json:"attempts,omitempty"`
	NextRetry time.Time `json:"next_retry,omitzero"`
	Exit      *Exit     `json:"exit,omitempty"`

	Message    string    `json:"message,omitempty" see:"root"`
	StdoutTail string    `json:"stdout_tail,omitempty" see:"root"`
	StderrTail string    `json:"stderr_tail,omitempty" see:"root"`
	Withheld   bool      `json:"withheld,omitempty"` // there is a message or output that only root gets to see
	LastOutput time.Time `json:"last_output,omitzero"`
	LogDir     string    `json:"log_dir,omitempty"`

	PID        int     `json:"pid,omitempty"`
	Unit       string  `json:"unit,omitempty"` // scope the handler runs in
	Limits     *Limits `json:"limits,omitempty"`
	ThrottledS float64 `json:"throttled_s,omitempty"` // by its CPU limit, in the last command that ended or since its slice exists
	// Notes are codes of information that is not a problem.
	Notes []string `json:"notes,omitempty"`

	WhyRan    string    `json:"why_ran,omitempty"`    // new sequence number, reboot, retry, operator …
	BlockedBy string    `json:"blocked_by,omitempty"` // dependency X, cloud-init, policy, package lock …
	Installed time.Time `json:"installed,omitzero"`
	Digest    string    `json:"digest,omitempty"` // sha256 of the package
	Signer    string    `json:"signer,omitempty"`
	Requester string    `json:"requester,omitempty"`
}

// Exit is how a handler's process ended.
type Exit struct {
	Code   int    `json:"code"`
	Signal string `json:"signal,omitempty"`
	Class  string `json:"class,omitempty"` // ok, failed, timeout, signal, not-started, lost
}

// Limits are the effective limits of a handler's unit; 0 means none.
type Limits struct {
	CPUPercent int   `json:"cpu_percent,omitempty"` // of one core
	MemoryMax  int64 `json:"memory_max,omitempty"`
	TasksMax   int   `json:"tasks_max,omitempty"`
}

// Cert is one certificate the goal state names.
type Cert struct {
	Problem
	Thumbprint string    `json:"thumbprint"` // SHA-1, upper-case hex
	Name       string    `json:"name,omitempty"`
	State      State     `json:"state"`
	HasKey     bool      `json:"has_key"`
	KeyType    string    `json:"key_type,omitempty"`
	NotAfter   time.Time `json:"not_after,omitzero"`
	UsedBy     []string  `json:"used_by,omitempty"`
	Message    string    `json:"message,omitempty" see:"line"`
}

// Disk is the agent's own use of the disk and what the file system has left.
type Disk struct {
	Problem
	State       State     `json:"state"`
	LibDir      string    `json:"lib_dir,omitempty"`
	Used        int64     `json:"used"`
	Budget      int64     `json:"budget,omitempty"`
	Files       int       `json:"files,omitempty"`
	FilesBudget int       `json:"files_budget,omitempty"`
	Free        int64     `json:"free,omitempty"` // of the file system under LibDir
	FreePercent float64   `json:"free_percent,omitempty"`
	InodesFree  int64     `json:"inodes_free,omitempty"`
	ReadOnly    bool      `json:"read_only,omitempty"`
	Parts       []DiskUse `json:"parts,omitempty"`
	CleanedAt   time.Time `json:"cleaned_at,omitzero"`
	Freed       int64     `json:"freed,omitempty"`
}

// DiskUse is one part of the disk usage. Sizes are bytes.
type DiskUse struct {
	Name    string `json:"name"` // packages, history, logs, spool …
	Path    string `json:"path,omitempty"`
	Used    int64  `json:"used"`
	Files   int    `json:"files,omitempty"`
	CanFree int64  `json:"can_free,omitempty"`
}

// Hold is an operator's request to start no extension until a time.
type Hold struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason,omitempty" see:"line"`
}

// Policy is the extension policy.
type Policy struct {
	Problem
	Mode   string   `json:"mode,omitempty"`   // off, audit, enforce
	Why    string   `json:"why,omitempty"`    // what decided about the mode
	Source string   `json:"source,omitempty"` // the policy files that exist, enforced or not
	Denied []string `json:"denied,omitempty"`
}

// Clock is what the agent has found out about the clock.
type Clock struct {
	Problem
	State    State     `json:"state,omitempty"`
	SkewS    float64   `json:"skew_s,omitempty"` // against the platform's Date header
	Suspends int       `json:"suspends,omitempty"`
	LastJump time.Time `json:"last_jump,omitzero"`
}

// Telemetry is the state of telemetry.
type Telemetry struct {
	Problem
	Enabled  bool      `json:"enabled"`
	Queued   int       `json:"queued,omitempty"`
	Sent     int64     `json:"sent,omitempty"`
	Dropped  int64     `json:"dropped,omitempty"`
	Bytes    int64     `json:"bytes,omitempty"`
	LastAt   time.Time `json:"last_at,omitzero"`
	SpoolDir string    `json:"spool_dir,omitempty"`
	Error    string    `json:"error,omitempty" see:"line"`
}

// Metadata is the state of the copies of the instance metadata that are kept for
// other programs.
type Metadata struct {
	PeriodS int       `json:"period_s,omitempty"` // 0: fetched once
	File    string    `json:"file,omitempty"`     // for EnvironmentFile=
	Fetched time.Time `json:"fetched,omitzero"`
}

// Item is a problem without a section of its own.
type Item struct {
	Problem
	State   State  `json:"state"` // Warn or Error
	What    string `json:"what"`
	Message string `json:"message,omitempty" see:"root"`
}

// Transition is one change of state.
type Transition struct {
	At   time.Time `json:"at"`
	What string    `json:"what"` // "goal state", "Contoso.Monitor 1.0.2"
	From string    `json:"from,omitempty"`
	To   string    `json:"to,omitempty"`
	Why  string    `json:"why,omitempty" see:"line"`
	Code string    `json:"code,omitempty"`
}

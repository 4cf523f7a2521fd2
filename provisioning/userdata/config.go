package userdata

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/provisioning"
)

// A Layer is where a document comes from. Higher layers win.
type Layer string

// The layers, lowest first.
const (
	VendorFiles    Layer = "vendor-data.d" // files of the image
	VendorPlatform Layer = "vendor data"   // of the platform
	CustomData     Layer = "custom data"
	UserData       Layer = "user data"
)

// Vendor reports whether a layer is not the user's.
func (l Layer) Vendor() bool { return l == VendorFiles || l == VendorPlatform }

// A Place is where something stands in the documents.
type Place struct {
	Layer Layer  `json:"layer"`
	Part  string `json:"part,omitempty"` // "part 2 (setup.yaml)"; empty if the document has only one
	Line  int    `json:"line,omitempty"` // of the part, from 1; 0 if not known
}

func (p Place) String() string {
	s := string(p.Layer)
	if p.Part != "" {
		s += ", " + p.Part
	}
	if p.Line > 0 {
		s += fmt.Sprintf(", line %d", p.Line)
	}
	return s
}

// Config is what the merged cloud-configs say. It is complete and judged:
// whoever carries it out may rely on what the comments of the fields promise.
// Texts that name something on the machine contain no NUL, no newline and no
// other control character; files' contents and commands may contain anything.
type Config struct {
	BootCommands []Command // bootcmd: at every boot, before everything else

	Files []File // write_files, in order, deferred ones too

	HostName   string // hostname; "" if not given; one label or several
	FQDN       string // fqdn; "" if not given
	PreferFQDN bool   // prefer_fqdn_over_hostname
	Hosts      Hosts  // manage_etc_hosts

	Mounts []Mount // mounts, in order

	Groups []Group  // groups, in order
	Users  []User   // users, in order; at most one with Default
	Keys   []string // ssh_authorized_keys: for the account of the order

	TimeZone string // "Europe/Berlin"; "" if not given; relative, no ".."
	NTP      *NTP   // nil if not given

	Packages       []PackageName // packages, in order
	PackageUpdate  bool          // package_update
	PackageUpgrade bool          // package_upgrade

	RunCommands []Command // runcmd: once, after everything else
}

// A Command is one entry of bootcmd or runcmd: a line for the shell, or a list
// of arguments.
type Command struct {
	Shell string
	Args  []string // nil if Shell is given
	At    Place
}

// A File is an entry of write_files.
type File struct {
	Path    string        // absolute and clean, not "/"
	Content secret.Secret // decoded; never absent, but may be empty
	Owner   string        // account, by name or number; "root" if not given
	Group   string        // the same; "" if the owner was given without one (then it stays root)
	Mode    fs.FileMode   // permission bits with fs.ModeSetuid and such; 0644 if not given
	Append  bool
	Defer   bool // after users and packages
	At      Place
}

// Hosts is how /etc/hosts is managed.
type Hosts string

// The ways.
const (
	HostsLeave     Hosts = ""          // not given, or false
	HostsTemplate  Hosts = "template"  // true, template: the whole file, at every boot
	HostsLocalhost Hosts = "localhost" // the line of 127.0.1.1, at every boot
)

// A Mount is an entry of mounts that adds a line to fstab(5). Texts contain no
// blanks.
type Mount struct {
	Device  string // "/dev/disk/…", "LABEL=…", "UUID=…", "server:/export", or a name below /dev without it
	Point   string // absolute and clean, or "none" with Type "swap"
	Type    string // "auto" if not given
	Options string // "defaults,nofail" if not given
	Dump    int    // 0 if not given
	Pass    int    // 2 if not given
	At      Place
}

// A Group is an entry of groups.
type Group struct {
	Name    string // provisioning.CheckUserName allows it
	Members []string
	At      Place
}

// A User is an entry of users.
type User struct {
	// Default stands for the account of the provisioning order, which exists
	// already. Name is then empty, and the other fields add to it.
	Default bool

	Name         string // provisioning.CheckUserName allows it, or "root"
	Gecos        string // no colon
	PrimaryGroup string
	Groups       []string
	Shell        string // absolute; "" if not given
	HomeDir      string // absolute and clean; "" if not given
	NoCreateHome bool
	System       bool
	NoUserGroup  bool // no_user_group: the group of new accounts of this machine
	NoLogInit    bool // no_log_init
	NoNewGroups  bool // create_groups: false
	UID          *int // 0 < UID < 2^32-1

	Sudo []string // rules of sudoers without the name of the account; nil for none

	LockPassword *bool         // nil if not given: true, but for the account of the order
	PlainPasswd  secret.Secret // plain_text_passwd: set for new and existing accounts
	HashedPasswd secret.Secret // hashed_passwd: the same, as crypt(5) has it
	Passwd       secret.Secret // passwd: a hash, only for an account that is made

	Keys []string // ssh_authorized_keys; each is one line

	ExpireDate string // expiredate, YYYY-MM-DD; "" if not given
	Inactive   *int   // days; nil if not given

	At Place
}

// NTP is the value of ntp.
type NTP struct {
	Enabled bool     // true if not given
	Servers []string // host names or addresses
	Pools   []string
	Client  NTPClient
}

// An NTPClient is a program that keeps the time.
type NTPClient string

// The clients.
const (
	NTPAuto      NTPClient = "auto" // what the machine has; also if not given
	NTPChrony    NTPClient = "chrony"
	NTPTimesyncd NTPClient = "systemd-timesyncd"
)

// A PackageName is an entry of packages. It does not begin with "-".
type PackageName struct {
	Name    string
	Version string // "" for any
	At      Place
}

// A Planned step is a step that carries out a part of a Config. The steps are
// in step_*.go, which provide
//
//	type Facts struct{ … }
//	func gatherFacts(ctx context.Context, m *provisioning.Machine) (Facts, error)
//	func configSteps(c Config, f Facts, o Options) []Planned
//
// in the order in which they are applied: files, host name, hosts, mounts,
// groups, users, keys, time zone, ntp, packages, deferred files. configSteps is
// pure. Commands and scripts are not among them: bootcmd runs before the
// steps, runcmd after them.
//
// The id of a step is unique and stable for the same Config: it identifies the
// step in the journal. Apply can be repeated with the same result: a step that
// was interrupted is applied again. Its error has a code (provisioning.Error or
// provisioning.Warning); the other steps are applied nevertheless.
type Planned struct {
	Step      provisioning.Step
	EveryBoot bool          // else once for a VM id
	Limit     time.Duration // of Apply; 0: two minutes
}

// Options is what configSteps needs to know besides.
type Options struct {
	// User is the account of the provisioning order; "" if it is not known.
	User         string
	Provisioning provisioning.Options // complete
	Launcher     job.Launcher         // of programs that go on if the agent ends
}

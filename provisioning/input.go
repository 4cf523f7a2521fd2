package provisioning

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// Input is the requested state of the VM, merged from all sources.
type Input struct {
	VMID string // normalised, see Identify

	HostName            string
	UserName            string
	Password            host.Secret // absent or empty: none
	PasswordRedacted    bool        // another program has set a password, which stays
	DisablePasswordAuth *bool       // nil: not given

	Keys     []Key
	KeyPairs []KeyPair

	CustomData CustomData

	ProvisionGuestAgent *bool // false: the agent switches itself off
	GuestProxyAgent     bool  // the guest proxy agent is to be up before Ready
	PPS                 PPSType

	// Copy is the redacted document that may stay on disk; nil if there was
	// no document.
	Copy []byte
}

// A Key is a public key for the user. Path is as the platform sends it
// ("$HOME/<user>/.ssh/authorized_keys", where $HOME stands for the directory
// that contains the home directories); it may be empty. Without Value the key
// is that of the certificate <Lib>/<Fingerprint>.crt.
type Key struct{ Path, Fingerprint, Value string }

// A KeyPair is a private key <Lib>/<Fingerprint>.prv that goes to Path.
type KeyPair struct{ Path, Fingerprint string }

// CustomData is arbitrary data that the user gave the VM; it need not be text.
type CustomData struct {
	Present bool
	Text    host.Secret // base64 as it stood in the document; empty if Data came in another way
	Data    host.Secret // decoded
	Err     string      // why it could not be decoded; the VM is provisioned anyway
}

// Metadata is the part of the instance metadata that concerns provisioning
// (provisioning/SPEC.md §6.2); the caller fills it from protocol/imds.
type Metadata struct {
	VMID                string
	ComputerName        string
	AdminUserName       string
	DisablePasswordAuth *bool
	Keys                []Key // Value and Path
	UserData            host.Secret
	PPSType             string

	// HasCustomData means that there is custom data, which only a medium
	// contains. CustomDataKnown is false if the metadata service is too old to
	// report it.
	HasCustomData, CustomDataKnown bool
}

// Suffices reports whether no medium could add anything: an account with a
// key and without a password, and no custom data.
func (md *Metadata) Suffices() bool {
	return md.AdminUserName != "" && md.ComputerName != "" && len(md.Keys) > 0 &&
		md.DisablePasswordAuth != nil && *md.DisablePasswordAuth && md.CustomDataKnown && !md.HasCustomData
}

// Fill completes the input from the instance metadata. Values of the document
// take precedence, because it is local and the only source of the password.
// Keys are taken from md only if the document has none.
func (in Input) Fill(md *Metadata) Input {
	if md == nil {
		return in
	}
	fill := func(have *string, other string) {
		if *have == "" {
			*have = strings.TrimSpace(other)
		}
	}
	fill(&in.VMID, NormalID(md.VMID))
	fill(&in.HostName, md.ComputerName)
	fill(&in.UserName, md.AdminUserName)
	if in.DisablePasswordAuth == nil {
		in.DisablePasswordAuth = md.DisablePasswordAuth
	}
	if len(in.Keys) == 0 {
		in.Keys = slices.Clone(md.Keys)
	}
	if !in.CustomData.Present && !md.UserData.Empty() {
		in.CustomData = DecodeCustomData(md.UserData.Reveal())
	}
	if in.PPS == "" || in.PPS == PPSNone {
		in.PPS = ParsePPSType(md.PPSType)
	}
	return in
}

// Complete reports whether nothing would be gained by asking the metadata
// service, so that the boot need not wait for it. Whether passwords are allowed
// must be known where there is one: a document may leave it out, and the
// default would open a door that the order closes.
func (in Input) Complete() bool {
	known := in.DisablePasswordAuth != nil || in.Password.Empty() && !in.PasswordRedacted
	return in.HostName != "" && known && in.Lacks() == nil
}

// Lacks returns why the input cannot be provisioned: it has no account to which
// a person could log in. The error has CodeNoUser.
func (in Input) Lacks() error {
	var err error
	switch {
	case in.UserName == "":
		err = errors.New("missing configuration for 'UserName'")
	case in.Password.Empty() && !in.PasswordRedacted && len(in.Keys) == 0:
		err = fmt.Errorf("user %q has neither a password nor a key", printable(in.UserName))
	default:
		return nil
	}
	return fail(CodeNoUser, "unexpected metadata parsing ovf-env.xml", err)
}

// NeedsCertificates lists the fingerprints whose certificates must have been
// fetched from the goal state before the plan is applied.
func (in Input) NeedsCertificates() []string {
	var out []string
	for _, k := range in.Keys {
		if strings.TrimSpace(k.Value) == "" && k.Fingerprint != "" {
			out = append(out, strings.ToUpper(k.Fingerprint))
		}
	}
	for _, p := range in.KeyPairs {
		if p.Fingerprint != "" {
			out = append(out, strings.ToUpper(p.Fingerprint))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Options is what the machine's configuration says about provisioning
// (provisioning/SPEC.md §15.3).
type Options struct {
	Lib        string // state directory, /var/lib/waagent
	SSHDir     string // /etc/ssh
	HomeDir    string // parent of the home directories
	Shadow     string // /etc/shadow
	SudoersDir string // /etc/sudoers.d

	DeleteRootPassword  bool
	RegenerateHostKeys  bool
	HostKeyType         string // rsa, ecdsa, ed25519, auto
	DecodeCustomData    bool
	ExecuteCustomData   bool
	AppliesUserData     bool // package userdata carries custom data out
	AllowResetSysUser   bool
	PasswordCryptID     string // 5 or 6
	PasswordSaltLength  int
	ClientAliveInterval string // seconds; empty: leave alone

	Shell string // empty: bash if there is one
}

// WithDefaults fills the paths that are empty.
func (o Options) WithDefaults() Options {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&o.Lib, "/var/lib/waagent")
	def(&o.SSHDir, "/etc/ssh")
	def(&o.HomeDir, "/home")
	def(&o.Shadow, "/etc/shadow")
	def(&o.SudoersDir, "/etc/sudoers.d")
	def(&o.HostKeyType, "rsa")
	def(&o.PasswordCryptID, "6")
	return o
}

// Dir is where the package keeps its own state below Lib.
func (o Options) Dir() string { return o.Lib + "/azguest" }

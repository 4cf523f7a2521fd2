package ovf

import (
	"fmt"

	"github.com/azguest/azguest/agent/host"
)

// Environment is what ovf-env.xml says (provisioning/SPEC.md §5.2). Nothing in
// it is mandatory: what a machine cannot be provisioned without is for the
// caller to say, who may have other sources. A nil *bool means "not said".
type Environment struct {
	Version              string
	ConfigurationSetType string
	HostName             string
	UserName             string

	// Password is exactly as written, blanks included; absent if the element
	// is missing, nil or empty. PasswordRedacted says that there was one and
	// that this copy of the document does not have it: leave the account's
	// password alone.
	Password         host.Secret
	PasswordRedacted bool

	DisableSSHPassword *bool
	PublicKeys         []PublicKey
	KeyPairs           []KeyPair

	// CustomData is decoded; CustomDataText is the base64 as it stands in
	// the document, without blanks, there even if it could not be decoded.
	// CustomDataRedacted says that this copy of the document had it removed.
	CustomData         host.Secret
	CustomDataText     host.Secret
	CustomDataRedacted bool
	UserData           host.Secret // as it stands in the document

	Platform Platform

	// Problems are what is wrong with the document short of making it
	// useless; each concerns one field, which is then as if absent.
	Problems []Problem
}

// PublicKey is a key for the user. Path is as the platform sends it:
// "$HOME/<user>/.ssh/authorized_keys", where $HOME is the parent of homes.
type PublicKey struct {
	Fingerprint string
	Path        string
	Value       string // one line without line breaks, or PEM as it is
}

// KeyPair names a private key that comes with the goal state.
type KeyPair struct {
	Fingerprint string
	Path        string
}

// Platform is the PlatformSettings section.
type Platform struct {
	Version                              string
	KmsServerHostname                    string
	ProvisionGuestAgent                  *bool
	ProvisionGuestProxyAgent             *bool
	GuestAgentPackageName                string
	RetainWindowsPEPassInUnattend        *bool
	RetainOfflineServicingPassInUnattend *bool
	PreprovisionedVM                     *bool
	PreprovisionedVMType                 string // None, Running, Savable, PreprovisionedOSDisk
	EnableTrustedImageIdentifier         *bool
}

// Problem is a field that could not be understood. Text never quotes content.
type Problem struct {
	Element string
	Text    string
}

func (p Problem) String() string { return p.Element + ": " + p.Text }

// Kinds of Error.
const (
	KindMalformed   = "malformed"   // not XML, or XML that we refuse
	KindForeign     = "foreign"     // XML, but no provisioning document
	KindContradicts = "contradicts" // one thing said twice, differently
	KindUnsupported = "unsupported" // a provisioning document for somebody else
)

// Error says why a document is of no use. Its text is the reason that is
// reported to the platform; it never quotes values of the document, which
// may be secrets.
type Error struct {
	Kind string
	Line int // 0 if unknown
	Text string
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("%s: %s (line %d)", e.Reason(), e.Text, e.Line)
	}
	return e.Reason() + ": " + e.Text
}

// Reason is the kind of failure in the words that portals know, with which
// Error begins.
func (e *Error) Reason() string {
	if e.Kind == KindMalformed {
		return "error parsing ovf-env.xml"
	}
	return "unexpected metadata parsing ovf-env.xml"
}

// Code is stable: the table of codes has a text for it.
func (e *Error) Code() string { return "AZ-PROV-INPUT" }

package ovf

import (
	"fmt"

	"github.com/azguest/azguest/agent/host"
)

// Environment is the content of ovf-env.xml (provisioning/SPEC.md §5.2).
// Nothing in it is mandatory: the caller may have other sources and decides
// what is required. A nil *bool means that the element is absent.
type Environment struct {
	Version              string
	ConfigurationSetType string
	HostName             string
	UserName             string

	// Password is exactly as written, blanks included; absent if the element
	// is missing, nil or empty. PasswordRedacted means that the document had a
	// password and this copy of it has not; the password of the account must
	// not be changed.
	Password         host.Secret
	PasswordRedacted bool

	DisableSSHPassword *bool
	PublicKeys         []PublicKey
	KeyPairs           []KeyPair

	// CustomData is decoded; CustomDataText is the base64 of the document
	// without blanks, set even if it could not be decoded, but not for custom
	// data of more than 256 KiB. CustomDataLost is why such custom data could not
	// be decoded, and is not kept. CustomDataRedacted
	// means that the custom data was removed from this copy of the document.
	CustomData         host.Secret
	CustomDataText     host.Secret
	CustomDataLost     string
	CustomDataRedacted bool
	UserData           host.Secret // as it stands in the document

	Platform Platform

	// Problems lists defects that do not make the document useless. Each
	// concerns one field, which is then treated as absent.
	Problems []Problem
}

// PublicKey is a key for the user. Path is as the platform sends it:
// "$HOME/<user>/.ssh/authorized_keys", where $HOME stands for the directory
// that contains the home directories.
type PublicKey struct {
	Fingerprint string
	Path        string
	Value       string // as it is, line breaks included: several keys, or a form of several lines
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

// Problem is a field that could not be understood. Text never quotes values.
type Problem struct {
	Element string
	Text    string
}

func (p Problem) String() string { return p.Element + ": " + p.Text }

// Kinds of Error.
const (
	KindMalformed   = "malformed"   // not XML, or XML that is refused
	KindForeign     = "foreign"     // XML, but no provisioning document
	KindContradicts = "contradicts" // an element that occurs twice with different values
	KindUnsupported = "unsupported" // a provisioning document for another operating system
)

// Error reports why a document cannot be used. Its text is the reason that is
// reported to the platform; it never quotes values of the document, which may
// be secrets.
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

// Reason is the kind of failure in the wording that portals recognize. The
// text of Error begins with it.
func (e *Error) Reason() string {
	if e.Kind == KindMalformed {
		return "error parsing ovf-env.xml"
	}
	return "unexpected metadata parsing ovf-env.xml"
}

// Code returns the stable error code, which the table of codes describes.
func (e *Error) Code() string { return "AZ-PROV-INPUT" }

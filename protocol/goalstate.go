package protocol

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/azguest/azguest/agent/secret"
)

// ErrNotModified says that the goal state is the one already known.
var ErrNotModified = errors.New("goal state not modified")

// Source says through which channel the extensions goal state came.
type Source string

const (
	// Fabric is ExtensionsConfig from the WireServer.
	Fabric Source = "Fabric"
	// FastTrack is vmSettings from the HostGAPlugin.
	FastTrack Source = "FastTrack"
)

// Desired is what ExtensionsConfig and vmSettings have in common; only their
// formats differ.
type Desired struct {
	// CreatedTicks counts 100 ns from 0001-01-01 UTC; 0 when unknown.
	CreatedTicks  int64
	ActivityID    string
	CorrelationID string
	// OnHold: do not process extensions (protocol/SPEC.md §6.5). HoldErr is set
	// while that is not known, because the artifacts profile can't be had yet.
	OnHold  bool
	HoldErr error

	RequiredFeatures []string
	StatusBlob       StatusBlob
	Families         []AgentFamily
	Handlers         []Handler
}

// A GoalState is what the platform wants of this VM, merged from the
// WireServer documents and vmSettings (protocol/SPEC.md §7.4).
type GoalState struct {
	// Incarnation is compared for inequality only; it can repeat.
	Incarnation string
	ContainerID string
	InstanceID  string
	ConfigName  string

	// ID names the extensions goal state: incarnation_<n> or etag_<e>.
	ID     string
	Source Source
	// ETag is that of the vmSettings, if they were the source.
	ETag string
	// SeqNo is reported back as inSvdSeqNo: the incarnation as a JSON string
	// for Fabric, the number of the document for FastTrack.
	SeqNo json.RawMessage
	// Outdated: report but do not execute (protocol/SPEC.md §7.5).
	Outdated bool
	Desired

	// Certs are the certificates the platform delivered, keys among them.
	Certs []Certificate
	// CertsErr is why Certs may be incomplete; it never fails the goal state.
	CertsErr error
	// Users is nil when the goal state has no remote access document.
	Users *RemoteAccess

	// Names for telemetry; empty when the platform gave none.
	VMName, RoleName, TenantName string
	// SharedConfig is the document verbatim; other components read the file.
	SharedConfig []byte

	Received time.Time
}

// Key is equal for equal goal states.
func (g *GoalState) Key() string {
	if g == nil {
		return ""
	}
	return g.Incarnation + "/" + g.ID + "@" + strconv.FormatInt(g.CreatedTicks, 10)
}

// StatusBlob is where the status document goes.
type StatusBlob struct {
	URL  secret.URL
	Page bool // PageBlob; else BlockBlob
}

// Want is the state the platform asks for.
type Want string

const (
	WantEnabled   Want = "enabled"
	WantDisabled  Want = "disabled"
	WantUninstall Want = "uninstall"
)

// A Handler is one installed package (Publisher.Type) in a goal state.
type Handler struct {
	Name, Version string
	Want          Want
	// Manifests are the addresses of the version manifest, best first.
	Manifests []secret.URL
	// Signature is the detached CMS of the package, base64, or "".
	Signature string
	// MultiConfig: each Settings is an extension with a name of its own.
	MultiConfig bool
	// Settings is empty for a handler without settings (an empty 0.settings).
	Settings []Settings
	// Level and After are those of a handler without settings.
	Level int
	After []Dependency
	// Invalid says why this handler's part of the document can't be used; other
	// handlers are not affected (protocol/SPEC.md §6.2).
	Invalid string
}

// Settings is one extension: one set of settings for a handler.
type Settings struct {
	Name string // the handler's name for single-config
	Seq  int
	Want Want // enabled; disabled is a multi-config instance to be deleted
	// Public is the JSON object as received, nil for null or absent.
	Public json.RawMessage
	// Protected is base64 CMS for the handler; the agent does not open it.
	Protected  secret.Secret
	Thumbprint string
	Level      int
	After      []Dependency
}

// Dependency names an extension that another one waits for.
type Dependency struct{ Handler, Extension string }

// AgentFamily is one channel of agent versions (protocol/SPEC.md §14.1).
type AgentFamily struct {
	Name         string
	Version      string // empty when absent
	FromVersion  string
	VersionByRSM *bool // tri-state: nil is absent
	RSMEnabled   *bool
	ManifestURIs []secret.URL
}

// A Certificate is a certificate with or without its key. Thumbprint is the
// upper-case hex SHA-1 of the DER (protocol/SPEC.md §1.3).
type Certificate struct {
	Thumbprint string
	Name       string // friendly name
	CertPEM    []byte
	KeyPEM     secret.Secret // PKCS#8 PEM; not Set for a certificate without key
}

// RemoteAccess is the list of just-in-time users (protocol/SPEC.md §12).
type RemoteAccess struct {
	Incarnation string
	Users       []RemoteUser
	// Err: there is a document but it can't be fetched or read. Accounts that
	// exist must then be left as they are.
	Err error
}

// RemoteUser is one just-in-time account. Err says why it can't be used.
type RemoteUser struct {
	Name     string
	Password secret.Secret
	Expires  time.Time
	Err      error
}

// A Manifest lists the versions of a package (protocol/SPEC.md §8.1).
type Manifest struct {
	Versions []PackageVersion
	// From is the address that answered; package downloads name it.
	From secret.URL
}

// PackageVersion is one version and where its zip is.
type PackageVersion struct {
	Version  string
	URIs     []secret.URL
	Internal bool
}

package fabric

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric/pki"
)

// A VM is a virtual machine as the platform knows it. Its fields are guarded
// by the fabric's mutex.
type VM struct {
	f    *Fabric
	name string

	id         string // VM id
	container  string // changes when the VM moves to another host
	deployment string // first part of ConfigName
	configName string
	address    string // private address; tells VMs apart on a shared listener
	mac        string
	size       string
	setup      Provisioning
	cfg        Config
	tags       map[string]string
	budget     string // extensionsTimeBudget, ISO 8601

	events          events
	terminateNotice time.Duration // of terminateNotificationProfile

	noExtensions bool // allowExtensionOperations=false, by a client

	tenant *pki.Identity
	extra  []*pki.Identity // further certificates

	incarnation int
	svdSeq      int // inSvdSeqNo
	ordinal     int // counts goal states of both kinds
	etag        string
	current     *goalState            // newest
	fabric      *goalState            // newest announced by incarnation
	documents   map[string]*goalState // by request path; old incarnations stay readable
	configs     int
	configNames map[string]bool // announced for the current container
	seen        map[string]int  // ordinal by reported sequence number: "f7" Fabric, "s12" FastTrack

	extensions []*extension
	health     HealthReport
	status     *statusBlob // last complete status document
	statuses   int         // how many arrived
	lastStatus time.Time
	created    time.Time

	telemetry []time.Time // times of calls in the last 15 s
	reprovis  []byte      // body of reprovisiondata, when the VM is claimed
}

// Provisioning is the wanted configuration of the machine. It is the content of
// both the provisioning medium and IMDS.
type Provisioning struct {
	HostName   string   `json:"hostName,omitempty"` // default: the VM's name
	User       string   `json:"user,omitempty"`
	Password   string   `json:"password,omitempty"`
	SSHKeys    []string `json:"sshKeys,omitempty"`
	CustomData []byte   `json:"customData,omitempty"`
	UserData   []byte   `json:"userData,omitempty"`   // IMDS only
	VendorData []byte   `json:"vendorData,omitempty"` // IMDS only; an extension of the protocol
	// AllowPasswords leaves DisableSshPasswordAuthentication false; it is
	// always false when there is a password.
	AllowPasswords bool `json:"allowPasswords,omitempty"`
	// NoGuestAgent writes ProvisionGuestAgent false.
	NoGuestAgent bool   `json:"noGuestAgent,omitempty"`
	PPSType      string `json:"ppsType,omitempty"` // None, Running, Savable, PreprovisionedOSDisk
}

// Config is the configuration that can be changed while a VM runs. Change it
// with VM.Configure, which also announces a new goal state.
type Config struct {
	// FastTrack announces changes of extensions through vmSettings.
	FastTrack bool `json:"fastTrack,omitempty"`
	// NoVMSettings makes /vmSettings answer 404, as old hosts do.
	NoVMSettings bool `json:"noVMSettings,omitempty"`
	// HostGAVersion is hostGAPluginVersion; default 1.0.8.175.
	HostGAVersion string `json:"hostGAVersion,omitempty"`
	// MixedCaseKeys changes the case of the keys of vmSettings.
	MixedCaseKeys bool `json:"mixedCaseKeys,omitempty"`
	// StatusBlob is BlockBlob (default) or PageBlob.
	StatusBlob string `json:"statusBlob,omitempty"`
	// NoStatusBlob leaves the status blob out of the goal state.
	NoStatusBlob     bool     `json:"noStatusBlob,omitempty"`
	RequiredFeatures []string `json:"requiredFeatures,omitempty"`
	// AgentFamilies announces versions of the agent; the default is one family,
	// Prod, without a version.
	AgentFamilies []AgentFamily `json:"agentFamilies,omitempty"`
	Users         []User        `json:"users,omitempty"` // JIT accounts
	OnHold        bool          `json:"onHold,omitempty"`
	// Incomplete serves a goal state without RoleInstanceList.
	Incomplete bool `json:"incomplete,omitempty"`
	// NoExtensionsConfig leaves its URL out of the goal state.
	NoExtensionsConfig bool `json:"noExtensionsConfig,omitempty"`
	// OldShape serves hosting environment and shared config in the long,
	// older shape with Deployment and Role.
	OldShape bool `json:"oldShape,omitempty"`
	// StaleCode is the answer to HostGAPlugin requests with an outdated
	// container or config name: 410 (default), or 400 for
	// InvalidContainerConfiguration. /vmSettings always answers 410.
	StaleCode int `json:"staleCode,omitempty"`
	// StrictConfigName makes config names of earlier incarnations stale too; by
	// default only a move to another host does that.
	StrictConfigName bool              `json:"strictConfigName,omitempty"`
	Certificates     CertificateConfig `json:"certificates,omitzero"`
	// SettingsCipher is the cipher of protected settings: DES_EDE3_CBC
	// (default) or AES256_CBC.
	SettingsCipher string `json:"settingsCipher,omitempty"`
	// Immediate is the JSON that /immediateGoalState returns; if empty, it
	// answers 404.
	Immediate []byte `json:"immediate,omitempty"`
	// NoAgent is provisionVMAgent=false: extension operations are rejected.
	NoAgent bool `json:"noAgent,omitempty"`
	// Stopped rejects changes because the VM is not running.
	Stopped bool `json:"stopped,omitempty"`
}

// CertificateConfig modifies the certificates document.
type CertificateConfig struct {
	None    bool   `json:"none,omitempty"`    // no Data element
	Format  string `json:"format,omitempty"`  // default Pkcs7BlobWithPfxContents; "-" leaves the element out
	FIPS    bool   `json:"fips,omitempty"`    // PBES2 and a SHA-256 MAC
	OnlyDES bool   `json:"onlyDES,omitempty"` // AES128_CBC is answered with an error
	// Absent leaves the URL out of the goal state.
	Absent bool `json:"absent,omitempty"`
}

// AgentFamily is a GAFamily of the goal state; empty fields are left out.
type AgentFamily struct {
	Name                      string   `json:"name"`
	Version                   string   `json:"version,omitempty"`
	FromVersion               string   `json:"fromVersion,omitempty"`
	IsVersionFromRSM          *bool    `json:"isVersionFromRSM,omitempty"`
	IsVMEnabledForRSMUpgrades *bool    `json:"isVMEnabledForRSMUpgrades,omitempty"`
	URIs                      []string `json:"uris,omitempty"` // default: the manifest of package WALinuxAgent
}

// User is a JIT account of the remote access document.
type User struct {
	Name     string    `json:"name"`
	Password string    `json:"password"`
	Expires  time.Time `json:"expires,omitzero"`
	// RawExpiration replaces the formatted time, for invalid values.
	RawExpiration string   `json:"rawExpiration,omitempty"`
	Groups        []string `json:"groups,omitempty"`
}

// HealthReport is the guest's last health report.
type HealthReport struct {
	State       string    `json:"state"` // Ready or NotReady; empty before the first report
	SubStatus   string    `json:"subStatus,omitempty"`
	Description string    `json:"description,omitempty"`
	Time        time.Time `json:"time,omitzero"`
	Count       int       `json:"count"` // reports so far
}

// VMOption configures a new VM.
type VMOption func(*VM)

// Linux sets the administrator and, optionally, SSH public keys.
func Linux(user string, keys ...string) VMOption {
	return func(v *VM) { v.setup.User, v.setup.SSHKeys = user, keys }
}

// Provision sets the whole content of the medium and IMDS.
func Provision(p Provisioning) VMOption { return func(v *VM) { v.setup = p } }

// Address sets the VM's private address.
func Address(ip string) VMOption { return func(v *VM) { v.address = ip } }

// WithConfig changes the configuration before the first goal state.
func WithConfig(change func(*Config)) VMOption { return func(v *VM) { change(&v.cfg) } }

// VMID sets the VM id, for guests whose SMBIOS has one.
func VMID(id string) VMOption { return func(v *VM) { v.id = strings.ToLower(id) } }

// CreateVM adds a virtual machine and announces its first goal state,
// incarnation 1.
func (f *Fabric) CreateVM(name string, options ...VMOption) *VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &VM{
		f: f, name: name,
		id: newGUID(), container: newGUID(), deployment: newGUID(),
		mac: fmt.Sprintf("000D3A%06X", len(f.vms)+1), size: "Standard_B2s",
		address: fmt.Sprintf("10.0.0.%d", len(f.vms)+4),
		cfg:     Config{FastTrack: f.opts.FastTrack},
		tags:    map[string]string{}, documents: map[string]*goalState{}, configNames: map[string]bool{}, seen: map[string]int{},
		created: time.Now(),
	}
	for _, o := range options {
		o(v)
	}
	v.setup.HostName = or(v.setup.HostName, name)
	f.vms = append(f.vms, v)
	v.announce(false)
	return v
}

// VM returns a virtual machine by its name, ignoring case, or nil.
func (f *Fabric) VM(name string) *VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.vmNamed(name)
}

func (f *Fabric) vmNamed(name string) *VM {
	for _, v := range f.vms {
		if strings.EqualFold(v.name, name) {
			return v
		}
	}
	return nil
}

// VMs returns all virtual machines.
func (f *Fabric) VMs() []*VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.vms)
}

// Name returns the name of the VM.
func (v *VM) Name() string { return v.name }

// ID is the VM id; SMBIOS has it with the first three groups byte-swapped.
func (v *VM) ID() string { return v.id }

// ContainerID returns the id of the current container.
func (v *VM) ContainerID() string {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	return v.container
}

// ConfigName returns the current config name.
func (v *VM) ConfigName() string {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	return v.configName
}

// Incarnation returns the current incarnation.
func (v *VM) Incarnation() int {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	return v.incarnation
}

// ETag is the current ETag of vmSettings.
func (v *VM) ETag() string {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	return v.etag
}

// Health returns the last health report.
func (v *VM) Health() HealthReport {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	return v.health
}

// StatusDocument returns the last complete status blob as received, and how
// many there have been.
func (v *VM) StatusDocument() (document []byte, count int) {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	if v.status == nil {
		return nil, 0
	}
	return slices.Clone(v.status.raw), v.statuses
}

// Configure changes the VM and announces the change: with a new incarnation, or
// through vmSettings if the configuration has FastTrack.
func (v *VM) Configure(change func(*Config)) {
	v.f.mu.Lock()
	change(&v.cfg)
	v.announce(v.cfg.FastTrack)
	v.f.mu.Unlock()
	v.f.journal.wake()
}

// SetConfig changes the VM without announcing anything.
func (v *VM) SetConfig(change func(*Config)) {
	v.f.mu.Lock()
	change(&v.cfg)
	v.f.mu.Unlock()
}

// Announce publishes a new goal state without a change: a new incarnation, or
// with fastTrack a new vmSettings document.
func (v *VM) Announce(fastTrack bool) {
	v.f.mu.Lock()
	v.announce(fastTrack)
	v.f.mu.Unlock()
	v.f.journal.wake()
}

// Migrate moves the VM to another host: container and config name change, and
// the old ones become stale. With quiet the incarnation does not change.
func (v *VM) Migrate(quiet bool) {
	v.f.mu.Lock()
	v.newContainer()
	if quiet {
		v.configName = v.newConfigName()
		gs := *v.fabric
		v.configNames[v.configName] = true
		gs.container, gs.configName, gs.path = v.container, v.configName, v.machinePath()
		v.fabric = &gs
		v.documents[documentKey(gs.path, gs.incarnation)] = &gs
	} else {
		v.announce(false)
	}
	v.f.mu.Unlock()
	v.f.journal.wake()
}

// newContainer assigns a new container; everything issued for the old one
// becomes stale.
func (v *VM) newContainer() {
	v.container = newGUID()
	clear(v.documents)
	clear(v.configNames)
}

// Hibernate resumes the VM on another host: the incarnation returns to 1, the
// tenant certificate is replaced and everything is encrypted again
// (protocol/SPEC.md §4.5).
func (v *VM) Hibernate() error {
	tenant, err := pki.NewTenant()
	if err != nil {
		return err
	}
	v.f.mu.Lock()
	v.newContainer()
	v.tenant = tenant
	v.incarnation = 0
	v.announce(v.cfg.FastTrack)
	if v.cfg.FastTrack {
		v.announce(false)
	}
	v.f.mu.Unlock()
	v.f.journal.wake()
	return nil
}

// RotateCertificate replaces the tenant certificate and announces a new
// incarnation.
func (v *VM) RotateCertificate() error {
	tenant, err := pki.NewTenant()
	if err != nil {
		return err
	}
	v.f.mu.Lock()
	v.tenant = tenant
	v.announce(false)
	v.f.mu.Unlock()
	v.f.journal.wake()
	return nil
}

// AddCertificate adds a certificate to the VM, like one from Key Vault, and
// returns its thumbprint. text is PEM with a certificate and optionally its
// key; if it is empty, a new certificate is made, with an EC key if ec is set.
func (v *VM) AddCertificate(text string, ec bool) (string, error) {
	var (
		id  *pki.Identity
		err error
	)
	if text == "" {
		id, err = pki.NewIdentity("keyvault", ec)
	} else {
		id, err = pki.Import(text)
	}
	if err != nil {
		return "", err
	}
	v.f.mu.Lock()
	v.extra = append(v.extra, id)
	v.announce(false)
	v.f.mu.Unlock()
	v.f.journal.wake()
	return id.Thumbprint(), nil
}

// Certificate returns the VM's tenant certificate (DER) and its key, to which
// protected settings are encrypted.
func (v *VM) Certificate() (der []byte, key *rsa.PrivateKey, err error) {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	if err := v.ensureTenant(); err != nil {
		return nil, nil, err
	}
	key, ok := v.tenant.Key.(*rsa.PrivateKey)
	if !ok {
		return nil, nil, errors.New("tenant certificate has no rsa key")
	}
	return v.tenant.Certificate.Raw, key, nil
}

func (v *VM) ensureTenant() error {
	if v.tenant != nil {
		return nil
	}
	t, err := pki.NewTenant()
	if err != nil {
		return err
	}
	v.tenant = t
	return nil
}

// protect encrypts protected settings as CRP does.
func (v *VM) protect(plain []byte) (text, thumbprint string, err error) {
	if err := v.ensureTenant(); err != nil {
		return "", "", err
	}
	der, err := pki.Encrypt(plain, v.tenant.Certificate, or(v.cfg.SettingsCipher, pki.Cipher3DES), pki.ByIssuerSerial)
	if err != nil {
		return "", "", fmt.Errorf("encrypt protected settings: %w", err)
	}
	return base64.StdEncoding.EncodeToString(der), v.tenant.Thumbprint(), nil
}

// newConfigName returns the next config name. The name changes with each
// incarnation and with each quiet migration.
func (v *VM) newConfigName() string {
	v.configs++
	return fmt.Sprintf("%s.0.%s.0._%s.%d.xml", v.deployment, v.deployment, v.name, v.configs)
}

func (v *VM) instanceID() string { return v.deployment + "._" + v.name }

// machinePath is the path of the sub-documents. It is percent-encoded as on the
// platform: more than needed, and clients must not change it.
func (v *VM) machinePath() string {
	var b strings.Builder
	for _, r := range []byte(v.instanceID()) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.':
			b.WriteByte(r)
		default:
			fmt.Fprintf(&b, "%%%02X", r)
		}
	}
	return "/machine/" + v.container + "/" + b.String()
}

func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newETag returns a long number, like the HostGAPlugin's ETags.
func newETag() string {
	n, _ := rand.Int(rand.Reader, new(big.Int).SetUint64(1<<63))
	return n.String()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

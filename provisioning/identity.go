package provisioning

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// Identity says which VM this is.
type Identity struct {
	ID     string // lower-case UUID, as the platform calls the VM
	Source string // IDFromSMBIOS …
}

// Values of Identity.Source.
const (
	IDFromSMBIOS    = "smbios"     // product_uuid or the raw tables
	IDFromMetadata  = "imds"       // the instance metadata, see Input.Fill
	IDFromMachineID = "machine-id" // no SMBIOS at all: derived, good only for this installation
)

// Firm reports whether the id names the VM rather than the installation. An id
// derived from the machine id is the same on every copy of the disk.
func (i Identity) Firm() bool { return i.Source != IDFromMachineID }

// Identify finds the VM id: product_uuid, else the raw SMBIOS tables, else
// (containers, emulators, kernels without DMI) one derived from the machine
// id. The bytes are put in the platform's order
// (provisioning/SPEC.md §11.2).
func Identify(r host.Root) (Identity, error) {
	if b, err := r.ReadFile("/sys/class/dmi/id/product_uuid"); err == nil {
		if id := NormalID(string(b)); usable(id) {
			if swapNeeded(r) {
				id = SwapID(id)
			}
			return Identity{ID: id, Source: IDFromSMBIOS}, nil
		}
	}
	if b, err := r.ReadFile("/sys/firmware/dmi/tables/DMI"); err == nil {
		if id, ok := uuidFromTables(b); ok {
			return Identity{ID: id, Source: IDFromSMBIOS}, nil
		}
	}
	for _, name := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		b, err := r.ReadFile(name)
		if text := strings.TrimSpace(string(b)); err == nil && len(text) == 32 && strings.Trim(text, "0123456789abcdef") == "" {
			// Not the machine id itself: it is confidential (machine-id(5)).
			sum := sha256.Sum256([]byte("azguest vm id " + text))
			return Identity{ID: formatID(sum[:16]), Source: IDFromMachineID}, nil
		}
	}
	return Identity{}, fail(CodeID, "failure to identify Azure VM ID", errors.New("no SMBIOS UUID and no machine ID"))
}

// usable reports whether id is a real UUID. Firmware without one writes all
// zeros or all ones.
func usable(id string) bool {
	hexa := strings.ReplaceAll(id, "-", "")
	return id != "" && strings.Trim(hexa, "0") != "" && strings.Trim(hexa, "f") != ""
}

// NormalID is a UUID in lower case without braces and blanks; empty if the
// text is no UUID.
func NormalID(s string) string {
	s = strings.ToLower(strings.Trim(strings.TrimSpace(s), "{}\x00"))
	b, err := parseID(s)
	if err != nil {
		return ""
	}
	return formatID(b)
}

func parseID(s string) ([]byte, error) {
	if len(s) == 36 && (s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-') {
		return nil, errors.New("not a UUID")
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return nil, errors.New("not a UUID")
	}
	return b, nil
}

func formatID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// SwapID reverses the byte order of the first three fields, in which SMBIOS
// before 2.6 and the classic agent differ from the platform.
func SwapID(id string) string {
	b, err := parseID(NormalID(id))
	if err != nil {
		return id
	}
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return formatID(b)
}

// SameVM compares two ids in any case and either byte order: markers of the
// classic agent have the bytes swapped, and kernels have changed the case
// (provisioning/SPEC.md §11.3).
func SameVM(a, b string) bool {
	na, nb := NormalID(a), NormalID(b)
	if na == "" || nb == "" {
		a, b = strings.TrimSpace(a), strings.TrimSpace(b)
		return a != "" && strings.EqualFold(a, b)
	}
	return na == nb || na == SwapID(nb)
}

// swapNeeded reports whether the kernel printed the UUID in the wrong order.
// It goes by the SMBIOS version (2.6 defined the order; generation 1 VMs
// say 2.3); if that cannot be read, by the generation.
func swapNeeded(r host.Root) bool {
	if v := smbiosVersion(r); v != 0 {
		return v < 0x0206
	}
	return !r.Exists("/sys/firmware/efi")
}

// smbiosVersion is major<<8 | minor, 0 if unknown.
func smbiosVersion(r host.Root) int {
	b, err := r.ReadFile("/sys/firmware/dmi/tables/smbios_entry_point")
	switch {
	case err != nil:
		return 0
	case len(b) >= 9 && string(b[:5]) == "_SM3_":
		return int(b[7])<<8 | int(b[8])
	case len(b) >= 8 && string(b[:4]) == "_SM_":
		return int(b[6])<<8 | int(b[7])
	}
	return 0
}

// uuidFromTables walks the SMBIOS structures to the system one (type 1),
// whose UUID is at offset 8.
func uuidFromTables(b []byte) (string, bool) {
	for len(b) >= 4 {
		typ, n := b[0], int(b[1])
		if n < 4 || n > len(b) {
			return "", false
		}
		if typ == 1 && n >= 24 {
			// The first three fields are little-endian since SMBIOS 2.6, and on
			// the platform's generation 1 VMs, which say 2.3, as well.
			u := slices.Clone(b[8:24])
			binary.BigEndian.PutUint32(u[0:], binary.LittleEndian.Uint32(b[8:]))
			binary.BigEndian.PutUint16(u[4:], binary.LittleEndian.Uint16(b[12:]))
			binary.BigEndian.PutUint16(u[6:], binary.LittleEndian.Uint16(b[14:]))
			id := formatID(u)
			return id, usable(id)
		}
		// The strings after the formatted part end with two NULs.
		i := n
		for i+1 < len(b) && (b[i] != 0 || b[i+1] != 0) {
			i++
		}
		if i+2 > len(b) {
			return "", false
		}
		b = b[i+2:]
	}
	return "", false
}

// Standing is what the marker on disk says about this VM.
type Standing string

const (
	Fresh       Standing = "fresh"       // never provisioned
	Provisioned Standing = "provisioned" // this VM, nothing to do
	Adopted     Standing = "adopted"     // provisioned, but the marker does not say for whom
	Moved       Standing = "moved"       // the disk belongs to another VM: a clone or a restored copy
)

// Stand compares the marker with the identity. The result is Adopted for an
// empty marker, which the classic agent wrote when it could not read the id,
// for a marker that a power cut has damaged, and for any other if the id of
// this VM is not firm.
func (m *Machine) Stand() (Standing, error) {
	marker := m.Options.Lib + "/provisioned"
	if !m.Root.Exists(marker) {
		return Fresh, nil
	}
	b, err := m.Root.ReadFile(marker)
	if err != nil {
		return "", fail(CodeMarker, "failed to read the provisioned marker", err)
	}
	old := strings.TrimSpace(string(b))
	switch {
	case SameVM(old, m.VM.ID):
		return Provisioned, nil
	case NormalID(old) == "", !m.VM.Firm():
		return Adopted, nil
	}
	return Moved, nil
}

// Forget removes what belongs to the VM from which the disk was copied: cached
// goal states, certificates, keys, sequence numbers, status files. Logs,
// accounts and downloaded handlers stay (provisioning/SPEC.md §11.5). It
// returns the names that it removed. The marker is removed last, so that an
// interrupted run is repeated.
func (m *Machine) Forget() ([]string, error) {
	var gone []string
	var errs []error
	for _, p := range forgotten {
		names, err := m.Root.Glob(m.Options.Lib + "/" + p)
		if err != nil {
			return gone, fmt.Errorf("list %s: %w", p, err)
		}
		for _, n := range names {
			if err := m.Root.RemoveAll(n); err != nil {
				errs = append(errs, fmt.Errorf("remove %s: %w", n, err))
				continue
			}
			gone = append(gone, n)
		}
	}
	return gone, errors.Join(errs...)
}

// forgotten are patterns below the state directory, in order of removal.
var forgotten = []string{
	"HostingEnvironmentConfig.xml", "Incarnation", "partition", "Protocol", "SharedConfig.xml", "WireServerEndpoint",
	"published_hostname", "fast_track.json", "initial_goal_state", "waagent_rsm_update", "waagent_initial_update",
	"Extensions.*.xml", "ExtensionsConfig.*.xml", "GoalState.*.xml", "Certificates*", "*.crt", "*.prv", "*.p7m", "*.pem",
	"history", "events", "ovf-env.xml", "CustomData", "disable_agent",
	"*/status/*.status", "*/config/*.settings", "*/config/HandlerStatus", "*/config/HandlerState", "*/mrseq",
	"*" + host.AsideSuffix, "azguest/*" + host.AsideSuffix,
	"azguest/provision.json", "azguest/hostkeys.json", "azguest/custom-data.*", "azguest/ready_pending", "azguest/hooks", "azguest/data.json", "azguest/data",
	"provisioned",
}

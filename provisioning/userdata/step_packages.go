package userdata

import (
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

// A Packager is the program that installs packages.
type Packager string

// The ones that are known.
const (
	APT    Packager = "apt-get"
	DNF    Packager = "dnf"
	TDNF   Packager = "tdnf"
	YUM    Packager = "yum"
	Zypper Packager = "zypper"
)

// findPackager looks for the machine's package manager.
func findPackager(r host.Root) Packager {
	for _, p := range []Packager{APT, DNF, TDNF, YUM, Zypper} {
		if provisioning.Which(r, string(p)) != "" {
			return p
		}
	}
	return ""
}

package userdata

import (
	"fmt"

	"github.com/azguest/azguest/provisioning"
)

// Stable codes of steps that fail. `agentctl explain` describes each.
const (
	CodeFile     = "AZ-DATA-FILE"     // write_files
	CodeHostName = "AZ-DATA-HOSTNAME" // hostname, fqdn, manage_etc_hosts
	CodeMount    = "AZ-DATA-MOUNT"    // mounts
	CodeGroup    = "AZ-DATA-GROUP"    // groups
	CodeUser     = "AZ-DATA-USER"     // users: account, settings, password
	CodeSudo     = "AZ-DATA-SUDO"     // users: sudo
	CodeKeys     = "AZ-DATA-KEYS"     // ssh_authorized_keys
	CodeTimeZone = "AZ-DATA-TIMEZONE" // timezone
	CodeNTP      = "AZ-DATA-NTP"      // ntp
	CodePackages = "AZ-DATA-PACKAGES" // packages, package_update, package_upgrade
)

// failed returns the failure of a step. The code of a step of package
// provisioning that err may come from is not the one that is shown.
func failed(code, reason string, err error) error {
	return &provisioning.Error{ID: code, Reason: reason, Err: err}
}

// partly returns what a step could not do besides what it did.
func partly(code, format string, args ...any) error {
	return &provisioning.Warning{ID: code, Err: fmt.Errorf(format, args...)}
}

package agent

import "github.com/azguest/azguest/provisioning"

// noOrder is the failure of a machine that nobody says anything about.
func noOrder(err error) error {
	return &provisioning.Error{ID: "AZ-PROV-MEDIA", Reason: "error reading provisioning media", Err: err}
}

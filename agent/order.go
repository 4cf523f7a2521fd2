package agent

import (
	"errors"
	"strings"

	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/provisioning"
)

// noOrder is the failure of a machine that nobody says anything sensible
// about. The reasons are those that portals know (spec/provisioning §4.3).
func noOrder(err error) error {
	if oe, ok := errors.AsType[*ovf.Error](err); ok {
		reason, _, _ := strings.Cut(oe.Error(), ": ")
		return &provisioning.Error{ID: oe.Code(), Reason: reason, Err: err}
	}
	return &provisioning.Error{ID: "AZ-PROV-MEDIA", Reason: "error reading provisioning media", Err: err}
}

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
		return &provisioning.Error{ID: oe.Code(), Reason: reason, Err: shorter{err, reason + ": "}}
	}
	return &provisioning.Error{ID: "AZ-PROV-MEDIA", Reason: "error reading provisioning media", Err: err}
}

// shorter is an error without its beginning, which is said already.
type shorter struct {
	error
	prefix string
}

func (e shorter) Error() string { return strings.TrimPrefix(e.error.Error(), e.prefix) }
func (e shorter) Unwrap() error { return e.error }

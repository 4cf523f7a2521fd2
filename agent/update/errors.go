package update

import (
	"errors"
	"fmt"

	"github.com/azguest/azguest/protocol"
)

// Codes that `agentctl explain` knows.
const (
	codeFailed   = "AZ-UPD-FAILED"   // download, disk, a hand-over that did not start
	codeUnsigned = "AZ-UPD-UNSIGNED" // the signature
	codeForeign  = "AZ-UPD-FOREIGN"  // not this agent's package
	codeRefused  = "AZ-UPD-REFUSED"  // a request that can't be followed
	codeRollback = "AZ-UPD-ROLLBACK" // was tried and rolled back
)

// Error is why there is no update.
type Error struct {
	Kind string // the code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Code returns the code, which is stable.
func (e *Error) Code() string { return e.Kind }

// Final reports whether another attempt would fail as well, because the package
// or the request itself is at fault.
func Final(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Kind == codeUnsigned || e.Kind == codeForeign || e.Kind == codeRefused)
}

// Outlook implements protocol.OutlookOf: what is final was received whole.
func (e *Error) Outlook() protocol.Outlook {
	if Final(e) {
		return protocol.Never
	}
	return protocol.Later
}

// garbled is the error of a download that is not a whole zip file: a page that
// a proxy or a portal has sent instead, or half of the package. It says nothing
// about the package.
func garbled(err error) error {
	return &Error{Kind: codeFailed, Err: fmt.Errorf("download is not a whole zip file: %w", err)}
}

// CodeOf returns the code of an error, AZ-UPD-FAILED if it is not an [*Error].
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return codeFailed
}

func refuse(format string, args ...any) error {
	return &Error{Kind: codeRefused, Err: fmt.Errorf(format, args...)}
}

func unsigned(format string, args ...any) error {
	return &Error{Kind: codeUnsigned, Err: fmt.Errorf(format, args...)}
}

func foreign(format string, args ...any) error {
	return &Error{Kind: codeForeign, Err: fmt.Errorf(format, args...)}
}

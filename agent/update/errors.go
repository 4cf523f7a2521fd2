package update

import (
	"errors"
	"fmt"
)

// Codes that `agentctl explain` knows.
const (
	codeFailed   = "AZ-UPD-FAILED"   // download, disk, a hand-over that did not start
	codeUnsigned = "AZ-UPD-UNSIGNED" // the signature
	codeForeign  = "AZ-UPD-FOREIGN"  // not this agent's package
	codeRefused  = "AZ-UPD-REFUSED"  // a request that can't be followed
	codeRollback = "AZ-UPD-ROLLBACK" // was tried and taken back
)

// Error is why there is no update.
type Error struct {
	Kind string // the code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Code is stable.
func (e *Error) Code() string { return e.Kind }

// Final reports whether the package itself is to blame: trying again gives
// the same answer.
func Final(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Kind == codeUnsigned || e.Kind == codeForeign || e.Kind == codeRefused)
}

// CodeOf is the code of an error, AZ-UPD-FAILED if it has none of ours.
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

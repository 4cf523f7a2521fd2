package protocol

import (
	"errors"
	"fmt"
	"time"
)

// A Fault is a platform channel that does not work at the moment. The
// client that returns it has already paced itself (protocol/SPEC.md §2.5):
// calling again early costs no request and yields the same Fault with Waiting
// set.
type Fault struct {
	Op  string // what we were doing: "goalstate", "status", …
	Err error
	// Since is when this kind of request failed first; Tries is how often it
	// has failed since.
	Since time.Time
	Tries int
	// Next is when a request will be made again, unless something shows
	// earlier that the fault is gone.
	Next time.Time
	// Waiting: no request was made this time.
	Waiting bool
	// Loud: worth a log line. At most one Fault in ten minutes per cause is.
	Loud bool
}

func (f *Fault) Error() string {
	if f.Tries > 1 {
		return fmt.Sprintf("%s: %v (%d tries since %s)", f.Op, f.Err, f.Tries, f.Since.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s: %v", f.Op, f.Err)
}

func (f *Fault) Unwrap() error { return f.Err }

// Code is that of the cause: host-unreachable, host-timeout, host-throttled,
// host-gone, host-invalid-container, host-status, host-document.
func (f *Fault) Code() string {
	var c interface{ Code() string }
	if errors.As(f.Err, &c) {
		return c.Code()
	}
	return "host-unreachable"
}

// Loud reports whether err deserves a log line: everything does, except a
// Fault that was reported less than ten minutes ago.
func Loud(err error) bool {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f.Loud
	}
	return err != nil
}

// DocumentError is a document of the platform that can't be used.
type DocumentError struct {
	Doc string // "goalstate", "certificates", …
	Err error
}

func (e *DocumentError) Error() string { return fmt.Sprintf("read %s: %v", e.Doc, e.Err) }
func (e *DocumentError) Unwrap() error { return e.Err }

// Code is stable: host-document.
func (*DocumentError) Code() string { return "host-document" }

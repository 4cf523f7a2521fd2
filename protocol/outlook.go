package protocol

import (
	"errors"
	"slices"
	"syscall"
	"time"
)

// An Outlook says what becomes of a request for something that could not be
// had: a fetch has it, does not have it now, or never has it (DESIGN.md,
// decision 96). It is set where the fault occurs; nothing is derived from the
// text of an error.
type Outlook string

const (
	// Later means that nothing is known about what was asked for: no answer, an answer
	// about the state of a server or a proxy, a body that is not what was asked
	// for, a full disk. It is waited for.
	Later Outlook = "later"
	// Absent means that a well-formed answer says that it is not there. That is a failure
	// at once. It may still appear, as what is published is replicated, so it
	// is asked for again without being waited for.
	Absent Outlook = "absent"
	// Never means that what was received is whole and can't be used, or it can't be asked
	// for at all. Asking again would change nothing.
	Never Outlook = "never"
)

// judged is an error with an outlook.
type judged struct {
	outlook Outlook
	err     error
}

func (j *judged) Error() string    { return j.err.Error() }
func (j *judged) Unwrap() error    { return j.err }
func (j *judged) Outlook() Outlook { return j.outlook }

// Judge returns err with an outlook. If an error has several, the outermost one
// counts.
func Judge(o Outlook, err error) error { return &judged{o, err} }

// OutlookOf returns the outlook of an error: the one that it carries, Later for
// a failure of this machine's own disk or lack of resources, or else otherwise.
func OutlookOf(err error, otherwise Outlook) Outlook {
	if o, ok := errors.AsType[interface {
		error
		Outlook() Outlook
	}](err); ok {
		return o.Outlook()
	}
	if Local(err) {
		return Later
	}
	return otherwise
}

// Local reports whether this machine is at fault: its disk is full, can't be
// written or fails, or it has no memory or file descriptors left.
func Local(err error) bool {
	for _, no := range []syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO,
		syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EBUSY,
	} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// Expired reports whether one of the answers in err says that the address is no
// longer authorised (or not yet, by the clock of who signed it). A newer goal
// state, or a newer manifest, may have another.
func Expired(err error) bool {
	if x, ok := err.(interface{ Expired() bool }); ok { //nolint:errorlint // every error of the tree is visited
		return x.Expired()
	}
	switch u := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		return Expired(u.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(u.Unwrap(), Expired)
	}
	return false
}

// NextTry is when the earliest of the requests in err will be made again (see
// Fault). It is zero if err is not about requests.
func NextTry(err error) time.Time {
	var next time.Time
	var walk func(error)
	walk = func(err error) {
		if f, ok := err.(*Fault); ok { //nolint:errorlint // every error of the tree is visited
			if next.IsZero() || f.Next.Before(next) {
				next = f.Next
			}
			return
		}
		switch u := err.(type) { //nolint:errorlint // as above
		case interface{ Unwrap() error }:
			walk(u.Unwrap())
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		}
	}
	walk(err)
	return next
}

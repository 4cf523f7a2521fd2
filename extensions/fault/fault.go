package fault

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// A Problem is a failure with its code, cause and text, as set where it occurs.
// It is passed on and stored as a whole. The cause is never derived from the
// text, because texts quote scripts, servers and file names.
type Problem struct {
	Code  int    // reported to the platform (extensions/SPEC.md §15.6)
	Cause string // stable, documented by `agentctl explain`
	Text  string // for people; may begin with the cause
}

// Err returns the problem as an error.
func (p Problem) Err() error { return Because(p.Cause, errors.New(p.Text)) }

// Codes the agent reports (extensions/SPEC.md §15.6).
const (
	CodeOther         = -1
	CodeDownload      = 1001
	CodeManifestLoad  = 1002
	CodeManifestParse = 1003
	CodeInstall       = 1007
	CodeUpdate        = 1008
	CodeEnable        = 1009
	CodeDisable       = 1010
	CodeTimeout       = 1011
	CodeStatus        = 1012
	CodeUnsupported   = 2001
)

// None reports whether there is no problem.
func (p Problem) None() bool { return p == Problem{} }

// CausePolicyInvalid is the cause of all refusals while the policy can't be read.
const CausePolicyInvalid = "AZ-POL-INVALID"

// Causes of failures. handler.Classify has more, for failed commands.
const (
	CauseDownload       = "AZ-EXT-DOWNLOAD"
	CausePackage        = "AZ-EXT-PACKAGE"
	CauseManifest       = "AZ-EXT-MANIFEST"
	CauseExit           = "AZ-EXT-EXIT"
	CauseTimeout        = "AZ-EXT-TIMEOUT"
	CauseNotStarted     = "AZ-EXT-NOTSTARTED"
	CauseOverdue        = "AZ-EXT-OVERDUE"
	CauseCancelled      = "AZ-EXT-CANCELLED"
	CauseReported       = "AZ-EXT-REPORTED"
	CauseStatus         = "AZ-EXT-STATUS"
	CauseLimbo          = "AZ-EXT-LIMBO"
	CauseUnresponsive   = "AZ-EXT-UNRESPONSIVE"
	CauseBlocked        = "AZ-EXT-BLOCKED"
	CauseSettings       = "AZ-EXT-SETTINGS"
	CauseDisabled       = "AZ-EXT-DISABLED"
	CauseNoexec         = "AZ-EXT-NOEXEC"
	CausePolicyDenied   = "AZ-POL-DENIED"
	CausePolicyUnsigned = "AZ-POL-SIGNATURE"
	CauseDiskFull       = "AZ-DISK-FULL"
	CauseDiskLow        = "AZ-DISK-LOW"
	CauseReadOnly       = "AZ-DISK-READONLY"
)

// A caused is an error with a cause.
type caused struct {
	cause string
	err   error
}

func (f *caused) Error() string { return f.err.Error() }
func (f *caused) Unwrap() error { return f.err }

// Code returns the cause.
func (f *caused) Code() string { return f.cause }

// Because returns err with a cause. If an error has several, the outermost one
// counts.
func Because(cause string, err error) error { return &caused{cause, err} }

// Prefixed is Because with the cause in front of the text, for messages that are
// shown without their cause.
func Prefixed(cause string, err error) error { return Because(cause, fmt.Errorf("%s: %w", cause, err)) }

// CauseOf returns the cause of an error: the one set by Because, the one of a
// panic, one for a full or read-only disk, or else otherwise.
func CauseOf(err error, otherwise string) string {
	if f, ok := errors.AsType[*caused](err); ok {
		return f.cause
	}
	if p, ok := errors.AsType[*host.PanicError](err); ok {
		return p.Code()
	}
	switch {
	case errors.Is(err, unix.EROFS):
		return CauseReadOnly
	case NoRoom(err):
		return CauseDiskFull
	}
	return otherwise
}

// CauseOfCode returns the cause that corresponds to a code, for failures that an
// earlier version or another agent recorded without a cause.
func CauseOfCode(code int) string {
	switch code {
	case CodeDownload:
		return CauseDownload
	case CodeManifestLoad, CodeManifestParse:
		return CauseManifest
	case CodeTimeout:
		return CauseTimeout
	case CodeStatus:
		return CauseStatus
	}
	return CauseExit
}

// NoRoom reports whether a write failed because the disk is full.
func NoRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// OfDisk adds cause and prefix to an error of a full or read-only disk. It
// returns other errors as they are.
func OfDisk(err error) error {
	switch {
	case errors.Is(err, unix.EROFS):
		return Prefixed(CauseReadOnly, err)
	case NoRoom(err):
		return Prefixed(CauseDiskFull, err)
	}
	return err
}

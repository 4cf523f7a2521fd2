package extensions

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// A Problem is a failure as it is known where it happens. It is handed on and
// stored as a whole. Nobody reads the cause out of the text later: texts quote
// scripts, servers and names of files, which may say anything.
type Problem struct {
	Code  int    // what the platform is told (extensions/SPEC.md §15.6)
	Cause string // stable, known to `agentctl explain`
	Text  string // for people; begins with the cause where tools look for it
}

// err is the problem as an error.
func (p Problem) err() error { return because(p.Cause, errors.New(p.Text)) }

// Codes the agent reports (extensions/SPEC.md §15.6).
const (
	codeOther         = -1
	codeDownload      = 1001
	codeManifestLoad  = 1002
	codeManifestParse = 1003
	codeInstall       = 1007
	codeUpdate        = 1008
	codeEnable        = 1009
	codeDisable       = 1010
	codeTimeout       = 1011
	codeStatus        = 1012
	codeUnsupported   = 2001
)

// None reports whether there is no problem.
func (p Problem) None() bool { return p == Problem{} }

// PolicyInvalid is the cause of every refusal while the policy can't be read.
const PolicyInvalid = "AZ-POL-INVALID"

// Causes of failures that are not those of a command (see classify).
const (
	causeDownload     = "AZ-EXT-DOWNLOAD"
	causePackage      = "AZ-EXT-PACKAGE"
	causeManifest     = "AZ-EXT-MANIFEST"
	causeExit         = "AZ-EXT-EXIT"
	causeTimeout      = "AZ-EXT-TIMEOUT"
	causeNotStarted   = "AZ-EXT-NOTSTARTED"
	causeOverdue      = "AZ-EXT-OVERDUE"
	causeCancelled    = "AZ-EXT-CANCELLED"
	causeReported     = "AZ-EXT-REPORTED"
	causeStatus       = "AZ-EXT-STATUS"
	causeLimbo        = "AZ-EXT-LIMBO"
	causeUnresponsive = "AZ-EXT-UNRESPONSIVE"
	causeBlocked      = "AZ-EXT-BLOCKED"
	causeSettings     = "AZ-EXT-SETTINGS"
	causeDisabled     = "AZ-EXT-DISABLED"
	causeNoexec       = "AZ-EXT-NOEXEC"
	causeDenied       = "AZ-POL-DENIED"
	causeUnsigned     = "AZ-POL-SIGNATURE"
	causeDiskFull     = "AZ-DISK-FULL"
	causeDiskLow      = "AZ-DISK-LOW"
	causeReadOnly     = "AZ-DISK-READONLY"
)

// A fault is an error that knows its cause.
type fault struct {
	cause string
	err   error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// Code is the stable one.
func (f *fault) Code() string { return f.cause }

// because gives an error its cause. The outermost one counts.
func because(cause string, err error) error { return &fault{cause, err} }

// spelled is because with the cause in front of the text, for messages that
// people read where nothing explains them.
func spelled(cause string, err error) error { return because(cause, fmt.Errorf("%s: %w", cause, err)) }

// causeOf is the cause an error was given where it was made, or the one that
// the kernel's word implies, or otherwise.
func causeOf(err error, otherwise string) string {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.cause
	}
	if p, ok := errors.AsType[*host.PanicError](err); ok {
		return p.Code()
	}
	switch {
	case errors.Is(err, unix.EROFS):
		return causeReadOnly
	case noRoom(err):
		return causeDiskFull
	}
	return otherwise
}

// causeOfCode is for what was recorded without a cause: by an earlier version
// or by another agent.
func causeOfCode(code int) string {
	switch code {
	case codeDownload:
		return causeDownload
	case codeManifestLoad, codeManifestParse:
		return causeManifest
	case codeTimeout:
		return causeTimeout
	case codeStatus:
		return causeStatus
	}
	return causeExit
}

// noRoom: the write failed because the disk is full.
func noRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// diskError puts the stable code in front of what is the disk's fault.
func diskError(err error) error {
	switch {
	case errors.Is(err, unix.EROFS):
		return spelled(causeReadOnly, err)
	case noRoom(err):
		return spelled(causeDiskFull, err)
	}
	return err
}

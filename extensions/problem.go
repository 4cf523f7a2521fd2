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

// report is the row of a handler that has this problem.
func (p Problem) report() Report {
	return Report{Status: "NotReady", Code: p.Code, Message: p.Text, Cause: p.Cause}
}

// problem is what a report says is wrong. One that says nothing has no cause.
func (r Report) problem() Problem {
	p := Problem{Code: r.Code, Cause: r.Cause, Text: r.Message}
	if p.Cause == "" && p.Code != 0 {
		p.Cause = causeOfCode(p.Code)
	}
	return p
}

// problem is why the last enable of an extension failed.
func (e ExtRecord) problem() Problem {
	p := Problem{Code: e.Code, Cause: e.Cause, Text: e.Err}
	if p.Cause == "" && e.FailKey != "" {
		p.Cause = causeOfCode(p.Code)
	}
	return p
}

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

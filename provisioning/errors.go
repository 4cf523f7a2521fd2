package provisioning

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Stable codes of failures and warnings. `agentctl explain` describes each.
const (
	CodeMedia      = "AZ-PROV-MEDIA"      // no provisioning medium, or not readable
	CodeInput      = "AZ-PROV-INPUT"      // the document lacks or contradicts something
	CodeNoUser     = "AZ-PROV-NOUSER"     // no source names an account with a password or a key
	CodeID         = "AZ-PROV-ID"         // the VM id cannot be read
	CodeState      = "AZ-PROV-STATE"      // the agent's state directory cannot be written
	CodeReadOnly   = "AZ-PROV-READONLY"   // /etc cannot be written
	CodeHostName   = "AZ-PROV-HOSTNAME"   // host name
	CodeUserName   = "AZ-PROV-USERNAME"   // the user name is not allowed
	CodeUser       = "AZ-PROV-USER"       // the account cannot be made
	CodePassword   = "AZ-PROV-PASSWORD"   // password
	CodeSudo       = "AZ-PROV-SUDO"       // sudoers
	CodeKeys       = "AZ-PROV-KEYS"       // authorized keys
	CodeKeyPair    = "AZ-PROV-KEYPAIR"    // key pairs
	CodeSSHD       = "AZ-PROV-SSHD"       // sshd configuration
	CodeHostKeys   = "AZ-PROV-HOSTKEYS"   // ssh host keys
	CodeRoot       = "AZ-PROV-ROOT"       // root's password
	CodeCustomData = "AZ-PROV-CUSTOMDATA" // custom data
	CodeCopy       = "AZ-PROV-COPY"       // the redacted copy of the document
	CodeMarker     = "AZ-PROV-MARKER"     // the provisioned marker
	CodeProxy      = "AZ-PROV-PROXYAGENT" // the guest proxy agent that was ordered
	CodeOwner      = "AZ-PROV-OWNER"      // another provisioner failed or did not finish
	CodePPS        = "AZ-PROV-PPS"        // pre-provisioning
	CodeTimeout    = "AZ-PROV-TIMEOUT"    // a step or the first boot took too long
	CodeInternal   = "AZ-PROV-INTERNAL"   // none of the above
)

// An Error is a failure as the platform and the user see it: a stable code,
// the reason string that portals know (provisioning/SPEC.md §9.7), and
// supporting data.
type Error struct {
	ID     string // one of the Code constants
	Reason string
	Data   []Pair // supporting data, in order
	Err    error
}

// A Pair is one field of supporting data.
type Pair struct{ Key, Value string }

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Reason
	}
	return e.Reason + ": " + e.Err.Error()
}

// Unwrap returns the cause, for errors.Is.
func (e *Error) Unwrap() error { return e.Err }

// Code is the stable code.
func (e *Error) Code() string { return e.ID }

// A Warning is an error that does not fail provisioning: it is logged and
// shown, and Ready is still reported.
type Warning struct {
	ID  string
	Err error
	// Words is what a script or program of the machine has printed. It is not
	// part of the error, which is logged where everybody reads it: only root may
	// see it (DESIGN.md, decision 67).
	Words string
}

// ForRoot returns the text of an error with all that root may see.
func ForRoot(err error) string {
	if w, ok := errors.AsType[*Warning](err); ok && w.Words != "" {
		return w.Error() + ": " + w.Words
	}
	return err.Error()
}

func (w *Warning) Error() string { return w.Err.Error() }

// Unwrap returns the cause, for errors.Is.
func (w *Warning) Unwrap() error { return w.Err }

// Code is the stable code.
func (w *Warning) Code() string { return w.ID }

func fail(id, reason string, err error, data ...Pair) error {
	return &Error{ID: id, Reason: reason, Data: data, Err: err}
}

func warn(id, format string, args ...any) error {
	return &Warning{ID: id, Err: fmt.Errorf(format, args...)}
}

// CodeOf finds the code of an error; CodeInternal if it has none.
func CodeOf(err error) string {
	var c interface{ Code() string }
	if errors.As(err, &c) {
		return c.Code()
	}
	return CodeInternal
}

// Overdue is why a first boot is ended that took longer than it may.
func Overdue(limit time.Duration) error {
	return fail(CodeTimeout, "operation timed out", fmt.Errorf("provisioning took longer than %s", limit))
}

// A Failed error is what Apply returns when steps failed. Code and reason of
// the report are those of the first one; the report contains all.
type Failed struct{ Errors []*Error }

func (f *Failed) Error() string {
	var texts []string
	for _, e := range f.Errors {
		texts = append(texts, e.Error())
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns every failure, for errors.As.
func (f *Failed) Unwrap() []error {
	out := make([]error, 0, len(f.Errors))
	for _, e := range f.Errors {
		out = append(out, e)
	}
	return out
}

// Code is that of the first failure.
func (f *Failed) Code() string { return f.Errors[0].ID }

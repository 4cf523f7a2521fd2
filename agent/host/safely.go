package host

import (
	"errors"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/crash"
)

// A PanicError is a panic, that is a bug of the agent, that Safely has caught.
type PanicError = crash.Error

// Safely runs f and returns its error, or a PanicError if it panics. It wraps
// the work on one document or one extension: unexpected input there must stop
// neither the rest nor the agent, which would meet the same input after each
// restart.
func Safely(f func() error) (err error) {
	defer crash.Catch(&err)
	return f()
}

// LogStack adds the stack of a PanicError, if err is one, to a record.
func LogStack(err error) func(*zerolog.Event) {
	return func(e *zerolog.Event) {
		if p, ok := errors.AsType[*PanicError](err); ok {
			e.Str("stack", p.Stack)
		}
	}
}

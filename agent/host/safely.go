package host

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/rs/zerolog"
)

// A PanicError is a panic, that is a bug of the agent, that Safely has caught.
// Code is AZ-AGENT-FAULT.
type PanicError struct {
	Value any
	// Stack is the stack of the goroutine, for the log. It has addresses but no
	// contents of memory.
	Stack string
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("AZ-AGENT-FAULT: %v", e.Value)
}

// Code returns the error code, which is stable.
func (e *PanicError) Code() string { return "AZ-AGENT-FAULT" }

// Safely runs f and returns its error, or a PanicError if it panics. It wraps
// the work on one document or one extension: unexpected input there must stop
// neither the rest nor the agent, which would meet the same input after each
// restart.
func Safely(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, string(debug.Stack())}
		}
	}()
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

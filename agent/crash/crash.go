// Package crash has the one place where a panic, that is a bug, is caught and
// described. The Go runtime would print the value of a panic, which may be a
// text with a secret in it, and stacks with arguments. What is written here has
// neither: a stable code, a text that can't contain data, and the functions on
// the stack.
//
// Work that can fail alone is run with host.Safely, or defers Catch. Every other
// goroutine, and main, defers Guard. It imports nothing of this module, and all may import it.
package crash

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Code is the error code of a panic.
const Code = "AZ-AGENT-FAULT"

// ExitStatus is the exit status after a panic that nothing else has caught, as
// the Go runtime has it.
const ExitStatus = 2

// An Error is a panic.
type Error struct {
	text string
	// Stack has the functions on the stack, with file and line, one per line.
	Stack string
}

func (e *Error) Error() string { return Code + ": " + e.text }

// Code returns the error code, which is stable.
func (e *Error) Code() string { return Code }

// Private keeps the memory of this process, which has keys and passwords in it,
// out of core files, whatever the core limit and GOTRACEBACK are, and from
// debuggers of the same user. It is the first call of main. Programs that this
// process starts are not affected: exec resets it, and the core limit stays as
// it was, because what the agent starts would inherit a lower one.
func Private() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // can't fail with this argument
}

// New describes a value that was recovered. It is called by the deferred
// function itself.
func New(value any) *Error {
	return &Error{text: describe(value), Stack: stack()}
}

// Guard is deferred by main and by goroutines. It ends the program after a
// panic, with a description on stderr; the service manager starts the agent
// again. It is the last function that a goroutine defers, and so the first that
// runs: another one could tell main that the goroutine has ended, and main would
// end the program without a description, with the status of success.
func Guard() {
	if v := recover(); v != nil {
		e := New(v)
		fmt.Fprintf(os.Stderr, "azguest: %v\n%s", e, e.Stack)
		os.Exit(ExitStatus) //nolint:forbidigo // what a panic does anyway
	}
}

// Catch is deferred by functions that return an error, and makes a panic one.
func Catch(err *error) {
	if v := recover(); v != nil {
		*err = New(v)
	}
}

// describe returns a text without data: the runtime's own errors have numbers
// and types only, and constants of the program were known to its authors. Of
// everything else, only the type is shown.
func describe(value any) string {
	switch v := value.(type) {
	case *Error: // passed on
		return v.text
	case runtime.Error:
		return v.Error()
	case string:
		if constant(v) {
			return v
		}
	}
	return fmt.Sprintf("a value of type %T, which is not shown because it may contain data", value)
}

// constant reports whether a string is a constant of this program: its bytes are
// in a part of the program's file that can't be written to.
func constant(s string) bool {
	if s == "" {
		return true
	}
	maps, err := os.ReadFile("/proc/self/maps") //nolint:forbidigo // the kernel's file about this process; agent/host reports to this package
	if err != nil {
		return false
	}
	exe, err := os.Readlink("/proc/self/exe") //nolint:forbidigo // as above
	if err != nil {
		return false
	}
	first := uint64(uintptr(unsafe.Pointer(unsafe.StringData(s))))
	for line := range bytes.Lines(maps) {
		f := strings.Fields(string(line)) // addresses, permissions, offset, device, inode, path
		if len(f) < 6 || strings.Contains(f[1], "w") || !strings.HasPrefix(exe, f[5]) {
			continue
		}
		low, high, _ := strings.Cut(f[0], "-")
		from, ferr := strconv.ParseUint(low, 16, 64)
		to, terr := strconv.ParseUint(high, 16, 64)
		if ferr == nil && terr == nil && from <= first && first+uint64(len(s)) <= to {
			return true
		}
	}
	return false
}

// stack returns the stack without arguments, from the panic on.
func stack() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	var b strings.Builder
	for {
		f, more := frames.Next()
		if f.Function != "" {
			fmt.Fprintf(&b, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		}
		if !more {
			return b.String()
		}
	}
}

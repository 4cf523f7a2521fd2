package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// canary is put together when the test runs, as a secret of a document is.
func canary() string { return strings.Join([]string{"canary", "Passw0rd", "secret"}, "-") }

type named string

type holder struct{ password string }

func (h holder) Error() string { return h.password }

// causes are ways to panic with a secret in hand.
func causes() map[string]func(secret string) {
	return map[string]func(string){
		"text":      func(s string) { panic("bad value " + s) },
		"formatted": func(s string) { panic(fmt.Sprintf("bad value %q", s)) },
		"error":     func(s string) { panic(errors.New(s)) },
		"wrapped":   func(s string) { panic(fmt.Errorf("parse: %w", errors.New(s))) },
		"type":      func(s string) { panic(named(s)) },
		"struct":    func(s string) { panic(holder{s}) },
		"pointer":   func(s string) { panic(&holder{s}) },
		"bytes":     func(s string) { panic([]byte(s)) },
		"array":     func(s string) { panic([16]byte([]byte(s))) },
		"index":     func(s string) { _ = s[len(s)+len(os.Args)] },
		"nil map": func(s string) {
			var m map[string]string
			m[s] = s //nolint:staticcheck // the panic that is wanted
		},
		"nil pointer": func(s string) {
			var h *holder
			h.password = s
		},
		"type assertion":   func(s string) { _ = any(s).(fmt.Stringer) },
		"unhashable":       func(s string) { _ = map[any]int{}[[]string{s}] },
		"twice":            func(s string) { defer func() { panic(s) }(); panic(errors.New(s)) },
		"by value":         func(s string) { byValue([32]byte([]byte(s + s)[:32]), s) },
		"of the program":   func(string) { panic("not reached") },
		"syntax":           func(s string) { panic(json.Unmarshal([]byte("{"+s), &map[string]string{})) },
		"a slice of it":    func(s string) { panic(s[:8]) },
		"nothing":          func(string) { panic(nil) },
		"while a deferred": func(s string) { defer func() { _ = s }(); panic(s) },
	}
}

// byValue has a key among its arguments, which the runtime prints with a stack.
//
//go:noinline
func byValue(key [32]byte, s string) {
	if key[0] != 0 {
		panic(s)
	}
}

// TestPanicsShowNoSecret: whatever panics, and whatever GOTRACEBACK says, neither
// the error nor what the program prints at its end has data in it, and both say
// where it was.
func TestPanicsShowNoSecret(t *testing.T) {
	t.Parallel()
	for name, cause := range causes() {
		var err error
		func() {
			defer Catch(&err)
			cause(canary())
		}()
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%s: %v is no Error", name, err)
			continue
		}
		check(t, name, fmt.Sprintf("%v %+v %#v %s", err, err, e, e.Stack))
		if !strings.Contains(e.Stack, "crash_test.go") || !strings.HasPrefix(e.Error(), Code+": ") || e.Code() != Code {
			t.Errorf("%s: %v\n%s", name, e, e.Stack)
		}
		if name == "of the program" && e.Error() != Code+": not reached" {
			t.Errorf("a constant is not shown: %v", e)
		}
	}
}

func check(t *testing.T, name, text string) {
	t.Helper()
	hex := fmt.Sprintf("%x", "canary")
	for _, bad := range []string{"canary", "Passw0rd", hex, "0x63, 0x61", "Y2FuYXJ5"} {
		if strings.Contains(text, bad) {
			t.Errorf("%s: the secret is in %s", name, text)
		}
	}
}

// TestGuardedProgramsShowNoSecret: the same for a program that ends by a panic
// in main or in a goroutine.
func TestGuardedProgramsShowNoSecret(t *testing.T) {
	if name := os.Getenv("AZGUEST_TEST_PANIC"); name != "" {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer Guard()
			causes()[name](canary())
		}()
		<-done // never: Guard ends the program first
		os.Exit(0)
	}
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"formatted", "error", "array", "by value", "twice", "of the program"} {
		cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestGuardedProgramsShowNoSecret$")
		cmd.Env = append(os.Environ(), "AZGUEST_TEST_PANIC="+name, "GOTRACEBACK=system")
		out, err := cmd.CombinedOutput()
		if x, ok := errors.AsType[*exec.ExitError](err); !ok || x.ExitCode() != ExitStatus {
			t.Errorf("%s: %v", name, err)
		}
		check(t, name, string(out))
		if !strings.Contains(string(out), Code) || !strings.Contains(string(out), "crash_test.go") {
			t.Errorf("%s: %s", name, out)
		}
	}
}

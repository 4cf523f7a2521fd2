// Package machinetest is test/machine for tests: an error ends the test, and
// the machine's logs are printed if the test fails.
//
// Methods with the name of one of machine.Machine take the test instead of a
// context.
package machinetest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
	"github.com/azguest/azguest/test/release"
	"github.com/azguest/azguest/test/sandbox"
)

// Patience is the time limit of every wait. It only ends tests that hang, so it
// is longer than any slow machine needs.
const Patience = 5 * time.Minute

// Main implements TestMain for packages whose tests create machines.
func Main(m *testing.M, atEnd ...func()) {
	sandbox.Main()
	flag.Parse()
	code := m.Run()
	release.Remove()
	for _, do := range atEnd {
		do()
	}
	os.Exit(code)
}

// Need skips the test where a sandbox can't be created, or is not wanted.
func Need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
}

// A Machine is a machine.Machine that is closed at the end of its test.
type Machine struct{ *machine.Machine }

// New creates a machine. Nothing is started on it.
func New(t testing.TB, o machine.Options) *Machine {
	t.Helper()
	Need(t)
	if _, bench := t.(*testing.B); o.Sandbox.Log == nil && !bench {
		o.Sandbox.Log = Log{t}
	}
	if o.Fabric.Log == nil {
		o.Fabric.Log = func(string, ...any) {}
	}
	m, err := machine.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			m.Explain(t.Logf)
		}
		_ = m.Close()
	})
	return &Machine{m}
}

// WithAgent is New, with the release binaries of the agent installed.
func WithAgent(t testing.TB, o machine.Options) *Machine {
	t.Helper()
	Need(t)
	o.Agent, o.Ctl = release.Binary(t, "azguest"), release.Binary(t, "agentctl")
	return New(t, o)
}

// End closes the machine and the platform before the end of the test.
func (m *Machine) End(t testing.TB) {
	t.Helper()
	must(t, m.Close())
}

// Await waits until ok returns true.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	patiently(t, func(ctx context.Context) error {
		return machine.Until(ctx, 10*time.Millisecond, what, func() (bool, error) { return ok(), nil })
	})
}

// patiently calls do with a time limit of Patience, and fails the test if it
// returns an error.
func patiently(t testing.TB, do func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	must(t, do(ctx))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// InstallAgent installs the release binaries of the agent.
func (m *Machine) InstallAgent(t testing.TB) {
	t.Helper()
	must(t, m.Machine.InstallAgent(release.Binary(t, "azguest"), release.Binary(t, "agentctl")))
}

// StartAgent starts the agent as its unit does.
func (m *Machine) StartAgent(t testing.TB, env ...string) *sandbox.Process {
	t.Helper()
	must(t, m.Machine.StartAgent(env...))
	return m.Agent
}

// RestartAgent kills the agent, starts it again and waits for its status.
func (m *Machine) RestartAgent(t testing.TB) {
	t.Helper()
	patiently(t, m.Machine.RestartAgent)
}

// Reboot boots the machine; the agent is not started.
func (m *Machine) Reboot(t testing.TB) {
	t.Helper()
	must(t, m.Machine.Reboot(t.Context()))
}

// WaitReady waits for a Ready report and fails at once on ProvisioningFailed.
func (m *Machine) WaitReady(t testing.TB) {
	t.Helper()
	patiently(t, m.Machine.WaitReady)
}

// WaitStatus waits for another status document.
func (m *Machine) WaitStatus(t testing.TB) {
	t.Helper()
	patiently(t, m.Machine.WaitStatus)
}

// Put creates or updates an extension through the control plane.
func (m *Machine) Put(t testing.TB, x fabric.Extension) {
	t.Helper()
	if err := m.VM.Put(x); err != nil {
		t.Fatalf("put %s: %v", x.Handler, err)
	}
}

// Settle waits until operations end and returns the result of each: Succeeded,
// gone, or the error.
func (m *Machine) Settle(t testing.TB, extensions ...string) (out map[string]string) {
	t.Helper()
	patiently(t, func(ctx context.Context) (err error) {
		out, err = m.Machine.Settle(ctx, extensions...)
		return err
	})
	return out
}

// Rows returns the rows of the last status document by Key.
func (m *Machine) Rows(t testing.TB) map[string]machine.Row {
	t.Helper()
	rows, err := m.Machine.Rows()
	must(t, err)
	return rows
}

// WaitRow waits for a row for which ok returns true.
func (m *Machine) WaitRow(t testing.TB, key, what string, ok func(machine.Row) bool) {
	t.Helper()
	var last machine.Row
	there := false
	defer func() {
		if t.Failed() {
			t.Logf("last row of %s (there: %v): %+v", key, there, last)
		}
	}()
	Await(t, key+" to be "+what, func() bool {
		last, there = m.Rows(t)[key]
		return there && ok(last)
	})
}

// Sh runs a script in the machine and returns its output. The script must
// succeed.
func (m *Machine) Sh(t testing.TB, script string) string {
	t.Helper()
	out, err := m.Machine.Sh(t.Context(), script)
	must(t, err)
	return out
}

// Write writes a file of the machine.
func (m *Machine) Write(t testing.TB, name, text string, mode fs.FileMode) {
	t.Helper()
	must(t, m.WriteFile(name, []byte(text), mode))
}

// Read reads a file of the machine; a missing file counts as empty.
func (m *Machine) Read(t testing.TB, name string) string {
	t.Helper()
	b, err := m.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// Log is a writer that writes to the log of a test.
type Log struct{ T testing.TB }

func (l Log) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		l.T.Logf("%s", bytes.TrimRight(line, "\n"))
	}
	return len(p), nil
}

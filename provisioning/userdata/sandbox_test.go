package userdata

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/provisioning"
	"github.com/azguest/azguest/test/sandbox"
)

// insideEnv is the name of a test that this process is to run on the machine
// that it is on, which is a sandbox.
const insideEnv = "USERDATA_TEST_INSIDE"

const testVM = "d92bd1d2-6a47-4b49-9d5b-000000000001"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == job.SuperviseArg {
		os.Exit(job.Supervise(context.Background(), os.Args[2:]))
	}
	if dir := os.Getenv(agentEnv); dir != "" {
		os.Exit(standIn(dir))
	}
	sandbox.Main()
	os.Exit(m.Run())
}

// insideBox runs a whole test in a sandbox of its own. In the process there it
// returns true. In the process of "go test" it starts the other one, reports
// the result, and returns false.
func insideBox(t *testing.T, o sandbox.Options) bool {
	t.Helper()
	if os.Getenv(insideEnv) == t.Name() {
		return true
	}
	if testing.Short() {
		t.Skip("needs a sandbox")
	}
	if err := sandbox.Available(); err != nil {
		t.Skip(err)
	}
	t.Parallel()
	box, err := sandbox.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const program = "/usr/local/bin/userdata.test"
	if err := box.Install(exe, program, 0o755); err != nil {
		t.Fatal(err)
	}
	res, err := box.RunCmd(t.Context(), sandbox.Cmd{
		Args: []string{program, "-test.v", "-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"},
		Env:  []string{insideEnv + "=" + t.Name()},
	})
	if err != nil || !strings.Contains(res.Stdout, "--- PASS: "+t.Name()+" ") {
		t.Errorf("in the sandbox: %v\n%s%s", err, res.Stdout, res.Stderr)
	} else {
		t.Log(res.Stdout)
	}
	return false
}

// thisMachine is the machine on which the process runs: a sandbox, see
// insideBox.
func thisMachine(t *testing.T) *provisioning.Machine {
	t.Helper()
	return provisioning.NewMachine(&provisioning.System{
		Root: "/", Run: host.Exec{}, Kernel: host.LinuxKernel(), Events: event.Discard{}, Log: zerolog.New(zerolog.NewTestWriter(t)),
	}, provisioning.Options{}, provisioning.Identity{ID: testVM})
}

// applyAll applies the steps of a configuration and returns what went wrong, by
// the id of the step.
func applyAll(ctx context.Context, t *testing.T, m *provisioning.Machine, c Config, user string) map[string]error {
	t.Helper()
	f, err := gatherFacts(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	failures := map[string]error{}
	for _, s := range configSteps(c, f, Options{User: user, Provisioning: m.Options, Launcher: job.SelfLauncher()}) {
		if err := s.Step.Apply(ctx, m); err != nil {
			failures[s.Step.ID()] = err
		}
	}
	return failures
}

// sh runs a script on this machine.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// expect compares what scripts print with what is wanted.
func expect(t *testing.T, want map[string]string) {
	t.Helper()
	for script, w := range want {
		if got := sh(t, script); got != w {
			t.Errorf("%s\ngot  %q\nwant %q", script, got, w)
		}
	}
}

// codes renders failures by their codes.
func codes(failures map[string]error) map[string]string {
	out := map[string]string{}
	for id, err := range failures {
		out[id] = provisioning.CodeOf(err)
		if _, ok := err.(*provisioning.Warning); ok { //nolint:errorlint // the outermost
			out[id] += " warning"
		}
	}
	return out
}

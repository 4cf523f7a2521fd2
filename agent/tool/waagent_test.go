package tool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/cli"
	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/agent/host/process"
)

func TestParseWaagent(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Waagent{
		"":                                    {Command: "help"},
		"-deprovision+user -force":            {Command: "deprovision+user", Force: true},
		"-force --deprovision":                {Command: "deprovision", Force: true},
		"-deprovision+user -deprovision":      {Command: "deprovision"},
		"/daemon -configuration-path:/etc/x":  {Command: "daemon", ConfigFile: "/etc/x"},
		"-run-exthandlers -debug":             {Command: "run-exthandlers", Verbose: true},
		"collect-logs -full":                  {Command: "collect-logs", Full: true},
		"-setup-firewall=168.63.129.16":       {Command: "setup-firewall", Address: "168.63.129.16"},
		"-register-service -verbose":          {Command: "register-service", Verbose: true},
		"-collect-logs -for-upload":           {Command: "collect-logs", upload: true},
		"-help -start -configuration-path:/y": {Command: "start", ConfigFile: "/y"},
	} {
		got, err := ParseWaagent(strings.Fields(in))
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Waagent{})); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", in, err, diff)
		}
		if runs := strings.Contains(in, "daemon") || strings.Contains(in, "exthandlers"); got.Runs() != runs {
			t.Errorf("%q runs: %v", in, got.Runs())
		}
	}
	for _, in := range []string{"-deprovisionnow", "-setup-firewall=::1", "-setup-firewall", "-setup-firewall=1.2.3", "-Version", "x"} {
		if w, err := ParseWaagent([]string{in}); err == nil {
			t.Errorf("%q is understood as %+v", in, w)
		}
	}
}

// toolOn returns a Tool on a machine made of files.
func toolOn(t *testing.T, files map[string]string) (*Tool, *hosttest.Runner, *bytes.Buffer) {
	t.Helper()
	root := host.Root(t.TempDir())
	for name, text := range files {
		if err := root.MkdirAll(dirName(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run, out := &hosttest.Runner{Answers: map[string]hosttest.Answer{}}, &bytes.Buffer{}
	return &Tool{
		Version: "3.0.0.1", Config: config.Default(), Root: root, Runner: run, In: strings.NewReader(""), Out: out, Err: out,
		Service: func(string) error { return errors.New("no service manager") },
		Detach:  func(context.Context, process.Daemon) error { return errors.New("not started") },
	}, run, out
}

func dirName(name string) string { return name[:strings.LastIndexByte(name, '/')+1] }

// used returns the files of a machine that was provisioned.
func used() map[string]string {
	return map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "/etc/shadow": "root:*:1::::::\n", "/etc/hostname": "vm-01\n", "/usr/bin/waagent": "", "/etc/machine-id": "0123\n",
		"/etc/ssh/ssh_host_rsa_key": "key\n", "/var/lib/waagent/provisioned": "id\n", "/var/log/azure/A.B/x.log": "x\n",
	}
}

func TestGeneralize(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args   string
		answer string
		code   int
		gone   bool
		off    bool
		says   string
	}{
		"plan":                {"--plan", "", exitOK, false, false, "host key"},
		"plan as JSON":        {"--plan --json", "", exitOK, false, false, `"actions"`},
		"yes":                 {"--yes", "", exitOK, true, false, "remove /etc/ssh"},
		"asked, and yes":      {"", "yes\n", exitOK, true, false, "(y/n)"},
		"asked, and no":       {"", "no\n", exitFailed, false, false, "not confirmed"},
		"nobody answers":      {"", "", exitFailed, false, false, "not confirmed"},
		"shutdown":            {"--yes --shutdown", "", exitOK, true, true, ""},
		"plan and shutdown":   {"--plan --shutdown", "", cli.ExitUsage, false, false, "usage: azguest generalize"},
		"what is not a flag":  {"now", "", cli.ExitUsage, false, false, "usage: azguest generalize"},
		"a flag that is none": {"--force", "", cli.ExitUsage, false, false, `unknown flag "--force"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tool, run, out := toolOn(t, used())
			tool.In = strings.NewReader(tc.answer)
			run.Answers["poweroff"] = hosttest.Answer{}
			code := tool.Generalize(t.Context(), strings.Fields(tc.args))
			if gone := !tool.Root.Exists("/etc/ssh/ssh_host_rsa_key"); code != tc.code || gone != tc.gone || run.Ran("poweroff") != tc.off || !strings.Contains(out.String(), tc.says) {
				t.Errorf("exit %d, done: %v, off: %v\n%s", code, gone, run.Ran("poweroff"), out)
			}
			if tc.gone && !tc.off {
				out.Reset()
				if code := tool.Generalize(t.Context(), []string{"-plan"}); code != exitOK || !strings.Contains(out.String(), "Nothing to do") {
					t.Errorf("the second time: exit %d\n%s", code, out)
				}
			}
		})
	}
}

func TestGeneralizeSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	files := used()
	files["/usr/bin/cloud-init"], files["/var/lib/cloud/instance/x"] = "", "" // and cloud-init clean fails
	tool, run, out := toolOn(t, files)
	run.Answers["cloud-init"] = hosttest.Answer{Code: 1, Stderr: "no"}
	run.Answers["poweroff"] = hosttest.Answer{}
	if code := tool.Generalize(t.Context(), []string{"-yes", "-shutdown"}); code != exitFailed || run.Ran("poweroff") || !strings.Contains(out.String(), "cloud-init") {
		t.Errorf("exit %d, off %v\n%s", code, run.Ran("poweroff"), out)
	}
	// Its state is removed even if its own command fails.
	if err := errors.Join(tool.Root.MkdirAll("/var/lib/cloud/instance", 0o755), tool.Root.WriteFile("/var/lib/cloud/instance/x", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if code := tool.Waagent(t.Context(), Waagent{Command: "deprovision+user", Force: true}); code != exitFailed {
		t.Errorf("deprovision with a failure exits with %d", code)
	}
}

func TestInterruptedQuestionChangesNothing(t *testing.T) {
	t.Parallel()
	tool, _, _ := toolOn(t, used())
	r, w := io.Pipe() // no input
	defer func() { _ = w.Close() }()
	tool.In = r
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := tool.Generalize(ctx, nil); code != exitFailed || !tool.Root.Exists("/etc/ssh/ssh_host_rsa_key") {
		t.Errorf("exit %d", code)
	}
}

func TestImageVerify(t *testing.T) {
	t.Parallel()
	dirty, _, out := toolOn(t, used())
	if code := dirty.Image(t.Context(), []string{"verify", string(dirty.Root), "--profile", "cis", "-json"}); code != exitFailed || !strings.Contains(out.String(), `"fit": false`) {
		t.Errorf("exit %d\n%s", code, out)
	}
	clean, _, out := toolOn(t, map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "/etc/shadow": "root:*:1::::::\n", "/usr/bin/waagent": ""})
	if err := os.Chmod(clean.Root.Path("/etc/shadow"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"marketplace", "cis", "immutable"} {
		if code := clean.Image(t.Context(), []string{"verify", "-profile", p, "--", string(clean.Root)}); code != exitOK {
			t.Errorf("%s: exit %d\n%s", p, code, out)
		}
	}
	for want, args := range map[int]string{cli.ExitUsage: "verify", exitUnread: "verify /nowhere"} {
		if code := clean.Image(t.Context(), strings.Fields(args)); code != want {
			t.Errorf("%q: exit %d", args, code)
		}
	}
}

func TestServiceCommands(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		w      Waagent
		unit   bool
		broken string // action that fails
		want   string
		code   int
	}{
		"register with a packaged unit": {Waagent{Command: "register-service"}, true, "", "systemctl enable azguest.service stop start", 0},
		"register without":              {Waagent{Command: "register-service"}, false, "", "install stop start", 0},
		"register, and it runs not":     {Waagent{Command: "register-service"}, true, "stop", "systemctl enable azguest.service stop start", 0},
		"register that cannot start":    {Waagent{Command: "register-service"}, true, "start", "systemctl enable azguest.service stop start", 1},
		"start":                         {Waagent{Command: "start"}, true, "", "start", 0},
		"start without a service":       {Waagent{Command: "start", Verbose: true}, false, "start", "start detach run -verbose", 0},
		"start with a file":             {Waagent{Command: "start", ConfigFile: "/c"}, true, "", "detach run -config /c", 0},
		"something else":                {Waagent{Command: "version"}, true, "", "", exitClassic},
		"provision":                     {Waagent{Command: "provision"}, true, "", "", exitClassic},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{}
			if tc.unit {
				files["/run/systemd/system/x"], files["/usr/lib/systemd/system/azguest.service"] = "", ""
			}
			tool, run, _ := toolOn(t, files)
			var did []string
			run.Answers["systemctl"] = hosttest.Answer{Do: func(c host.Cmd) error { did = append(did, c.String()); return nil }}
			tool.Service = func(action string) error {
				did = append(did, action)
				if action == tc.broken {
					return errors.New("no")
				}
				return nil
			}
			tool.Detach = func(_ context.Context, d process.Daemon) error {
				did = append(append(did, "detach"), d.Args...)
				return nil
			}
			if code := tool.Waagent(t.Context(), tc.w); code != tc.code || strings.Join(did, " ") != tc.want {
				t.Errorf("exit %d, did %q", code, did)
			}
		})
	}
}

// TestClassicScriptIsPythonToo: extensions without a copy of the classic agent
// load /usr/sbin/waagent as a Python module, to report events.
func TestClassicScriptIsPythonToo(t *testing.T) {
	t.Parallel()
	const script = "../../scripts/packaging/waagent"
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	// A shell exits before it reaches what it could not parse.
	sh := filepath.Join(t.TempDir(), "waagent")
	if err := os.WriteFile(sh, bytes.Replace(text, []byte("exec /usr/bin/agentctl"), []byte("exec echo"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", sh, "-deprovision+user", "a b").CombinedOutput()
	if got := string(out); err != nil || got != "waagent-compat -deprovision+user a b\n" {
		t.Errorf("sh: %v, %q", err, got)
	}
	const load = `
import sys, types
m = types.ModuleType("waagent")
with open(sys.argv[1]) as f:
    exec(compile(f.read(), sys.argv[1], "exec"), m.__dict__)
for op in ("HeartBeat", "Provision", "Install", "UnIsntall", "Uninstall", "Disable", "Enable", "Download", "Upgrade", "Update"):
    m.AddExtensionEvent(name="x", op=getattr(m.WALAEventOperation, op), isSuccess=True, message="y")
m.AddExtensionEvent("x", m.WALAEventOperation.Enable, True, 3, "1.0", "y")
`
	ran := false
	for _, python := range []string{"python3", "python2", "python"} {
		if exec.Command(python, "-c", "").Run() != nil {
			continue // not installed
		}
		ran = true
		if out, err := exec.Command(python, "-c", load, script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", python, err, out)
		}
	}
	if !ran {
		t.Skip("needs a Python")
	}
}

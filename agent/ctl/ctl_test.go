package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/status"
)

var update = flag.Bool("update", false, "write testdata/*.golden")

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func wellSnapshot() status.Snapshot {
	s := status.Snapshot{
		WrittenAt: ago(4 * time.Second),
		Agent: status.Agent{
			Version: "1.4.2", PID: os.Getpid(), Started: ago(12*24*time.Hour + time.Hour),
			RSS: 11<<20 + 200<<10, CPUSeconds: 320, CPUPercent: 0.03, FDs: 21, Update: status.Update{Mode: "channel", Channel: "stable"},
		},
		VM: status.VM{Name: "vm-01", ContainerID: "4f0c9e11-7e6b-4d3e-9c5b-0f6d6c2d8a01"},
		Platform: status.Platform{
			Health:     "Ready",
			LastReport: status.Report{At: ago(14 * time.Second), HTTPStatus: 201, Sent: true, Accepted: true, AcceptedAt: ago(14 * time.Second)},
			GoalState:  status.GoalState{ID: "37", Received: ago(124*time.Minute + 3*time.Second), Applied: ago(124 * time.Minute), LagS: 3},
		},
		Provisioning: status.Provisioning{State: status.ProvDone, By: status.ByAgent, Started: ago(12*24*time.Hour + 9*time.Second), Finished: ago(12 * 24 * time.Hour)},
		Endpoints: []status.Endpoint{
			{Name: "wireserver", State: status.OK, Via: "direct", LatencyS: 0.003},
			{Name: "hostplugin", State: status.OK, LatencyS: 0.005},
			{Name: "storage", State: status.OK, Via: "hostplugin"},
		},
		Firewall: status.Firewall{State: status.OK, Backend: "nftables", VerifiedAt: ago(41 * time.Second), Results: map[string]string{"user blocked": "yes", "root allowed": "yes"}},
		Disk:     status.Disk{State: status.OK, Used: 84 << 20, Budget: 256 << 20, Files: 312, Free: 12 << 30, FreePercent: 41},
		Certs:    []status.Cert{{Thumbprint: "AB12", State: status.OK, HasKey: true}},
		Extensions: []status.Extension{
			{Name: "Contoso.Echo", Version: "1.0.0", Seq: 2, Desired: status.WantEnabled, Actual: status.ActualEnabled, Status: status.StatusSuccess, Finished: ago(time.Hour), Message: "hello"},
		},
		History: []status.Transition{{At: ago(124 * time.Minute), What: "goal state", From: "36", To: "37", Why: "requested by the platform"}},
	}
	s.Overall = s.Judge()
	return s
}

func sickSnapshot() status.Snapshot {
	s := wellSnapshot()
	s.Disk.State, s.Disk.FreePercent, s.Disk.Free = status.Warn, 3, 300<<20
	s.Disk.Problem = status.Problem{Code: "AZ-DISK-LOW", Since: ago(2 * time.Hour)}
	s.Platform.LastReport = status.Report{At: ago(30 * time.Second), HTTPStatus: 403, Sent: true, Error: "403 Forbidden: <Error>AuthenticationFailed</Error>", AcceptedAt: ago(time.Hour)}
	s.Platform.Problem = status.Problem{Code: "AZ-PLAT-REJECTED", Since: ago(time.Hour)}
	s.Extensions = append(
		s.Extensions,
		status.Extension{
			Name: "Microsoft.Azure.Monitor.AzureMonitorLinuxAgent", Version: "1.33.1", Seq: 4, Desired: status.WantEnabled, Actual: status.ActualFetched,
			Exit: &status.Exit{Code: 126, Class: "failed"}, Attempts: 2, NextRetry: now.Add(14 * time.Minute),
			Problem: status.Problem{Code: "AZ-EXEC-NOEXEC", Since: ago(16 * time.Minute)}, Message: "install: exit 126:\n/var is mounted noexec \x1b[31mred\x1b[0m",
			StdoutTail: "out\nput",
		},
		status.Extension{
			Name: "Microsoft.Azure.Extensions.CustomScript", Version: "2.1.13", Seq: 2, Desired: status.WantEnabled, Actual: status.ActualInstalled,
			Phase: "enable", Started: ago(192 * time.Second), Deadline: ago(192 * time.Second).Add(90 * time.Minute), PID: 4121, LastOutput: ago(4 * time.Second), Status: status.StatusTransitioning,
		},
		status.Extension{
			Name: "Contoso.App", Config: "blue", Version: "3.0", Seq: 0, Desired: status.WantEnabled, Actual: status.ActualAbsent, BlockedBy: "Microsoft.Azure.Monitor.AzureMonitorLinuxAgent",
		},
	)
	s.Overall = s.Judge()
	return s
}

func failedSnapshot() status.Snapshot {
	s := status.Snapshot{
		WrittenAt: ago(time.Second), Agent: status.Agent{Version: "1.4.2", Started: ago(time.Minute)},
		Provisioning: status.Provisioning{
			Problem: status.Problem{Code: "AZ-PROV-USER", Since: ago(9 * time.Second)},
			State:   status.ProvFailed, By: status.ByAgent, Error: "create user root: reserved name",
			Steps: []status.Step{{Name: "set host name vm-01", State: "done"}, {Name: "create user root", State: "failed", Error: "reserved name"}, {Name: "set password", State: "skipped"}},
		},
		Platform: status.Platform{Health: "NotReady", LastHealth: status.Report{At: ago(8 * time.Second), HTTPStatus: 200, Sent: true, Accepted: true, AcceptedAt: ago(8 * time.Second)}},
	}
	s.Overall = s.Judge()
	return s
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestStatusScreen(t *testing.T) {
	alive := status.Life{Known: true, Running: true, PID: 812, How: "lock"}
	old := sickSnapshot()
	old.WrittenAt = ago(3*time.Hour + 12*time.Minute)
	starting := status.Snapshot{WrittenAt: ago(time.Second), Agent: status.Agent{Version: "1.4.2"}, Provisioning: status.Provisioning{State: status.ProvPending, By: status.ByCloudInit, Waiting: "cloud-init to finish its config stage"}}
	starting.Overall = starting.Judge()
	tests := []struct {
		name string
		view view
		exit int
	}{
		{"well", view{snap: wellSnapshot(), life: alive}, ExitHealthy},
		{"sick", view{snap: sickSnapshot(), life: alive}, ExitDegraded},
		{"sick-colour", view{snap: sickSnapshot(), life: alive, color: true, width: 100}, ExitDegraded},
		{"failed", view{snap: failedSnapshot(), life: alive}, ExitFailed},
		{"starting", view{snap: starting, life: alive}, ExitDegraded},
		{"dead", view{snap: old, life: status.Life{Known: true}}, ExitDown},
		{"hung", view{snap: old, life: alive}, ExitFailed},
		{"never", view{snapErr: os.ErrNotExist, life: status.Life{Known: true}}, ExitDown},
		{"no-status-yet", view{snapErr: os.ErrNotExist, life: alive}, ExitUnknown},
		{"cannot-tell", view{snap: wellSnapshot(), life: status.Life{How: "processes of others are hidden; ask as root"}}, ExitUnknown},
		{"newer", view{snap: wellSnapshot(), snapErr: fmt.Errorf("status.json: schema 9: %w", status.ErrSchema), life: alive}, ExitUnknown},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tc.view.now = now
			var b bytes.Buffer
			tc.view.render(&b)
			golden(t, "status-"+tc.name, b.String())
			if got := tc.view.verdict().ExitCode; got != tc.exit {
				t.Errorf("exit code %d, want %d", got, tc.exit)
			}
		})
	}
	var b bytes.Buffer
	(view{snap: sickSnapshot(), life: alive, now: now}).prometheus(&b)
	golden(t, "status-prometheus", b.String())
}

// run runs agentctl on the machine below root.
func run(t *testing.T, root string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), args, Env{
		Version: "1.4.2", Stdout: &out, Stderr: &errs, Root: root, Now: func() time.Time { return now },
		Exec: func(path string, argv []string) error {
			if _, err := os.Stat(path); err != nil {
				return err
			}
			fmt.Fprintf(&out, "exec %s %q\n", strings.TrimPrefix(path, root), argv)
			return nil
		},
	})
	return code, out.String(), errs.String()
}

func put(t *testing.T, root, name, text string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// machine makes a machine with a running agent and a snapshot, and returns its
// root.
func machine(t *testing.T, s status.Snapshot) string {
	t.Helper()
	root := t.TempDir()
	p := status.DefaultPaths(root)
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := status.Acquire(t.Context(), p.Lock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Release() })
	if err := status.Save(p.Snapshot, s); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestCommands(t *testing.T) {
	sick := machine(t, sickSnapshot())
	put(t, sick, "/etc/waagent.conf", "Logs.Verbose=y # loud\nLog.Verbose=n\nResourceDisk.MountOptions=None\n")
	put(t, sick, "/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n")
	put(t, sick, "/usr/bin/azguest", "")
	put(t, sick, "/run/azguest/metadata.json", `{"schema_version":1,"fetched":"2026-11-22T11:00:00Z","document":{"compute":{"vmId":"v","vmSize":"s","name":"n"}}}`)
	put(t, sick, "/var/log/waagent.log", "one\ntwo\nthree\n")
	put(t, sick, "/var/log/azure/Contoso.Echo/handler.log", "echo\x1b[31m\n")
	put(t, sick, "/var/log/azure/Contoso.Gone/handler.log", "")
	put(t, sick, "/var/lib/waagent/Contoso.Gone-1.2/bin/run", "")
	put(t, sick, "/var/lib/waagent/Contoso.Gone-1.1.zip", "")
	put(t, sick, "/var/lib/waagent/WALinuxAgent-2.9.1/x", "")
	put(t, sick, "/etc/systemd/system/gone.service", "[Service]\nExecStart=-/var/lib/waagent/Contoso.Gone-1.1/bin/run 'all'\n")
	put(t, sick, "/etc/systemd/system/good.service", "[Service]\nExecStart=/var/lib/waagent/Contoso.Gone-1.2/bin/run\n")
	put(t, sick, "/var/log/azure/azguest-audit.log", `{"time":"2026-11-22T11:00:00Z","what":"package","handler":"Contoso.Echo","version":"1.0.0","seq":0,"code":0}
{"time":"2026-11-22T11:00:01Z","what":"begin","handler":"Contoso.Echo","version":"1.0.0","op":"install","seq":2,"why":"not installed","goalState":"37","command":"x","job":"aa","code":0}
{"time":"2026-11-22T11:00:02.5Z","what":"end","handler":"Contoso.Echo","version":"1.0.0","op":"install","seq":2,"job":"aa","class":"ok","code":0}
{"time":"2026-11-22T11:00:03Z","what":"begin","handler":"Contoso.Echo","version":"1.0.0","op":"enable","seq":2,"why":"first enable","goalState":"37","job":"bb","code":0}
{"time":"2026-11-22T11:00:04Z","what":"end","handler":"Contoso.Echo","version":"1.0.0","op":"enable","seq":2,"job":"bb","class":"failed","code":52,"text":"it wants more"}
half a li`)
	empty := t.TempDir()
	tests := []struct {
		root   string
		args   string
		code   int
		golden string // of standard output
		stderr string // contained
	}{
		{sick, "status", ExitDegraded, "", ""},
		{sick, "version", 0, "", ""},
		{sick, "ext list", 0, "ext-list", ""},
		{sick, "ext show azuremonitorlinuxagent", 0, "ext-show", ""},
		{sick, "ext show nothing", 1, "", "unknown extension nothing"},
		{sick, "ext show azuremonitorlinuxagnet", 1, "", `did you mean "AzureMonitorLinuxAgent"?`},
		{sick, "ext history", 0, "ext-history", ""},
		{sick, "ext history echo", 0, "ext-history-echo", ""},
		{sick, "ext history nothing", 0, "ext-history-nothing", "no history of nothing: unknown extension nothing"},
		{sick, "diff", 0, "diff", ""},
		{sick, "inventory", 0, "inventory", ""},
		{sick, "certs", 0, "certs", ""},
		{sick, "disk", 0, "disk", ""},
		{sick, "endpoints", 0, "endpoints", ""},
		{sick, "telemetry", 0, "telemetry", ""},
		{sick, "config show --origin", 0, "config-show", ""},
		{sick, "config show --effective", 0, "config-effective", ""},
		{sick, "config check", 1, "config-check", ""},
		{sick, "config keys", 0, "config-keys", ""},
		{sick, "explain AZ-EXEC-NOEXEC", 0, "explain", ""},
		{sick, "explain az-nothing", ExitUsage, "", `unknown code "az-nothing"`},
		{sick, "config show Logs.Console", 0, "config-one", ""},
		{sick, "config show Nothing", ExitUsage, "", "no setting begins with Nothing"},
		{sick, "doctor nothing", ExitUsage, "", `unknown check "nothing" (must be one of: network)`},
		{sick, "policy", 0, "policy", ""},
		{sick, "policy explain azuremonitorlinuxagent --signer Contoso -o json", 0, "policy-explain", ""},
		{sick, "policy explain", ExitUsage, "", "an argument is missing; usage: agentctl policy explain EXTENSION"},
		{sick, "ext decrypt 0.settings --cert ABCD", 0, "ext-decrypt", ""},
		{sick, "metadata compute/vmId --json --cached", 0, "metadata", ""},
		{sick, "metadata --wait-change compute/tags/a --was b --timeout 1m", 0, "metadata-wait", ""},
		{sick, "metadata a b", ExitUsage, "", "unexpected argument"},
		{sick, "metadata --timeout soon a", ExitUsage, "", "--timeout takes a duration"},
		{sick, "__complete metadata compute/vm", 0, "metadata-complete", "NoFileComp"},
		{empty, "__complete metadata u", 0, "metadata-complete-empty", "NoFileComp"},
		{sick, "ext orphans", 1, "ext-orphans", ""},
		{sick, "ext logs contoso.echo", 0, "logs-ext", ""},
		{sick, "ext retry contoso.echo", ExitDown, "", "AZ-AGENT-DOWN"},
		{sick, "status --prometheus", ExitDegraded, "", ""},
		{sick, "logs -n 2", 0, "logs", ""},
		{sick, "logs contoso.echo", 0, "logs-ext", ""},
		{sick, "logs ../etc", ExitUsage, "", "invalid extension name"},
		{sick, "man", 0, "man", ""},
		{sick, "retry nothing", 1, "", "unknown extension nothing"},
		{sick, "retry contoso.echo", ExitDown, "", "AZ-AGENT-DOWN"},
		{sick, "waagent-compat -version", 0, "compat-version", ""},
		{sick, "waagent-compat", 0, "compat-help", ""},
		{sick, "waagent-compat --show-configuration", 0, "compat-config", ""},
		{sick, "waagent-compat -force /deprovision+user", 0, "compat-deprovision", ""},
		{sick, "generalize --plan -o json", 0, "generalize-plan", ""},
		{sick, "generalize --yes --keep-user --shutdown", 0, "generalize-yes", ""},
		{sick, "generalize --plan --yes", ExitUsage, "", "--plan cannot be used"},
		{sick, "generalize --root=/x --yes", ExitUsage, "", "--root is not supported"},
		{sick, "image verify /mnt --profile cis", 0, "image-verify", ""},
		{sick, "image verify /mnt --profile best", ExitUsage, "", "--profile"},
		{sick, "image verify", ExitUsage, "", "an argument is missing; usage: agentctl image verify ROOT"},
		{empty, "generalize", 1, "", "not installed"},
		{sick, "waagent-compat -versionXYZ", 2, "", "unknown argument"},
		{sick, "waagent-compat -configuration-path:/nowhere -version", 1, "", "no such file"},
		{empty, "status", ExitDown, "", ""},
		{empty, "ext list", ExitUnknown, "", "no status"},
		{empty, "waagent-compat -deprovision", 1, "", "not installed"},
		{empty, "config check", 0, "config-check-empty", ""},
		{empty, "nonsense", ExitUsage, "", "unknown command"},
		{empty, "status --output yaml", ExitUsage, "", "--output"},
		{empty, "status --nonsense", ExitUsage, "", "unknown flag"},
		{empty, "status ready", ExitUsage, "", "unexpected argument"},
		{empty, "status --wait=never", ExitUsage, "", "--wait"},
		{empty, "status --wait ready --timeout 1ms", ExitDown, "", "not ready after 1ms"},
		{empty, "hold --for 0s", ExitUsage, "", "--for"},
	}
	for _, tc := range tests {
		t.Run(tc.args, func(t *testing.T) {
			code, stdout, stderr := run(t, tc.root, strings.Fields(tc.args)...)
			if code != tc.code {
				t.Errorf("exit code %d, want %d\n%s%s", code, tc.code, stdout, stderr)
			}
			if !strings.Contains(stderr, tc.stderr) || tc.stderr == "" && stderr != "" {
				t.Errorf("stderr %q, want %q in it", stderr, tc.stderr)
			}
			if tc.golden != "" {
				golden(t, tc.golden, strings.ReplaceAll(stdout, fmt.Sprint(os.Getpid()), "PID"))
			}
		})
	}
}

// TestHostileText: whatever the platform or a publisher writes into a name or a
// message, a terminal shows it and is not controlled by it; JSON has the exact
// text.
func TestHostileText(t *testing.T) {
	const evil = "a\x1b]0;owned\x07\x1b[2J\u009b31m\u202eb\u2066\u200bc\r\x7f\u2028d\U000e0041"
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Kind() { //nolint:exhaustive // a snapshot has no other kinds
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					fill(v.Field(i))
				}
			}
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem())
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0))
			fill(v.Index(1))
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf(evil), reflect.ValueOf(evil))
		case reflect.String:
			v.SetString(evil)
		case reflect.Int, reflect.Int64:
			v.SetInt(3)
		}
	}
	var s status.Snapshot
	fill(reflect.ValueOf(&s).Elem())
	for i := range s.Extensions {
		s.Extensions[i].Phase = ""
	}
	s.WrittenAt, s.Hold.Until = ago(4*time.Second), now.Add(time.Hour)
	root := machine(t, s)
	put(t, root, "/etc/waagent.conf", "OS.HomeDir=/\x1b[31m\nFoo\x1b[31m=1\n")
	put(t, root, "/var/lib/waagent/events/1.json", evil)
	put(t, root, "/var/lib/waagent/Contoso.\x1b[31mX-1.0/x", "")
	for _, args := range []string{
		"status", "status --prometheus", "ext list", "ext show " + evil, "ext history", "ext orphans", "diff", "inventory", "certs", "disk", "endpoints",
		"telemetry", "telemetry show", "policy", "doctor", "config show --origin", "config check", "explain " + evil, "retry " + evil, "logs " + evil, "version",
		evil, "--" + evil,
	} {
		for _, flags := range [][]string{nil, {"-o", "json"}} {
			words := strings.Fields(args)
			if i := strings.Index(args, evil[:3]); i >= 0 {
				words = append(strings.Fields(args[:i]), args[i:])
			}
			_, stdout, stderr := run(t, root, append(words, flags...)...)
			for _, r := range stdout + stderr {
				if r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) {
					t.Errorf("%q %v: %q in %q", args, flags, r, stdout+stderr)
					break
				}
			}
		}
	}
	_, stdout, _ := run(t, root, "status", "-o", "json")
	var back struct{ VM status.VM }
	if err := json.Unmarshal([]byte(stdout), &back); err != nil || back.VM.Name != evil {
		t.Errorf("JSON says %q (%v), want %q", back.VM.Name, err, evil)
	}
}

func TestStatusJSON(t *testing.T) {
	root := machine(t, sickSnapshot())
	for _, flags := range []string{"--json", "--output json", "--format json", "-o json"} {
		code, stdout, _ := run(t, root, append([]string{"status"}, strings.Fields(flags)...)...)
		var got struct {
			SchemaVersion int `json:"schema_version"`
			Overall       struct {
				State string
				Codes []string
			}
			Observed struct {
				AgeS    float64 `json:"age_s"`
				Verdict struct {
					ExitCode int `json:"exit_code"`
				}
			}
		}
		if err := json.Unmarshal([]byte(stdout), &got); err != nil {
			t.Fatal(err)
		}
		if code != 1 || got.SchemaVersion != status.Schema || got.Overall.State != "degraded" || got.Observed.AgeS != 4 || got.Observed.Verdict.ExitCode != 1 {
			t.Errorf("%s: exit %d, %+v", flags, code, got)
		}
	}
}

// TestWait: waiting ends with the write that reaches the goal, also if the
// directory does not exist at first.
func TestWait(t *testing.T) {
	root := t.TempDir()
	type result struct {
		code   int
		stdout string
		stderr string
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		code, stdout, stderr := run(t, root, "status", "--wait=converged", "--timeout=5m")
		done <- result{code, stdout, stderr}
	}()
	p := status.DefaultPaths(root)
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := status.Acquire(ctx, p.Lock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Release() }()
	for _, s := range []status.Snapshot{{WrittenAt: now}, sickSnapshot(), wellSnapshot()} {
		if err := status.Save(p.Snapshot, s); err != nil {
			t.Fatal(err)
		}
	}
	if r := <-done; r.code != 0 {
		t.Errorf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}

	if err := status.Save(p.Snapshot, failedSnapshot()); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := run(t, root, "status", "--wait", "ready", "--timeout", "0"); code != ExitFailed || !strings.Contains(stderr, "provisioning failed") {
		t.Errorf("failed provisioning: exit %d, %s", code, stderr)
	}
}

func TestRetry(t *testing.T) {
	root := machine(t, sickSnapshot())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	got := make(chan status.Request, 1)
	path := status.DefaultPaths(root).Socket
	go func() {
		done <- status.Serve(ctx, path, func(_ context.Context, r status.Request) status.Response {
			got <- r
			return status.Response{OK: true, Message: "queued"}
		})
	}()
	for {
		if fi, err := os.Stat(path); err == nil && fi.Mode().Perm() == 0o600 {
			break
		}
		select { // until Serve listens
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	code, stdout, stderr := run(t, root, "retry", "blue")
	if code != 0 || stdout != "queued\n" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if r := <-got; r.Op != status.OpRetry || r.Extension != "Contoso.App" || r.Config != "blue" {
		t.Errorf("request %+v", r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestParseCompat(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "-help"},
		{"--version", "-version"},
		{"/version", "-version"},
		{"version", "-version"},
		{"-?", "-help"},
		{"-usage", "-help"},
		{"-deprovision+user -deprovision", "-deprovision"},
		{"-force -deprovision+user", "-deprovision+user -force"},
		{"-deprovision -force -verbose", "-deprovision -force -verbose"},
		{"-configuration-path:/etc/w.conf -daemon", "-daemon -configuration-path:/etc/w.conf"},
		{"-collect-logs -full", "-collect-logs -full"},
		{"-setup-firewall=168.63.129.16", "-setup-firewall=168.63.129.16"},
		{"-setup-firewall 168.63.129.16", "error"},
		{"-setup-firewall=;reboot", "error"},
		{"-configuration-path /etc/w.conf", "error"},
		{"-configuration-path:/a;b", "error"},
		{"-Version", "error"},
		{"-versionXYZ", "error"},
	}
	for _, tc := range tests {
		c, err := parseCompat(strings.Fields(tc.in))
		got := strings.Join(c.argv(), " ")
		if err != nil {
			got = "error"
		}
		if got != tc.want {
			t.Errorf("%q: %s, want %s", tc.in, got, tc.want)
		}
	}
}

func TestLastLines(t *testing.T) {
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb", 1, "b"}, {"a\n", 5, "a\n"}, {"", 3, ""}, {"a\nb\n", 0, ""}, {"\n\n", 1, "\n"}} {
		if got := string(lastLines([]byte(tc.in), tc.n)); got != tc.want {
			t.Errorf("lastLines(%q, %d) = %q, want %q", tc.in, tc.n, got, tc.want)
		}
	}
}

// TestAgentctlAvoidsLargePackages: agentctl must start fast, and these packages
// would make it large and slow.
func TestAgentctlAvoidsLargePackages(t *testing.T) {
	bi := "net/http crypto/tls os/exec"
	for _, dir := range []string{".", "../status", "../config", "../doctor", "../cmd/agentctl"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for p := range strings.FieldsSeq(bi) {
				if bytes.Contains(data, []byte(`"`+p+`"`)) {
					t.Errorf("%s imports %s", f, p)
				}
			}
		}
	}
}

// TestSEC11StatusForEverybody: without the texts of handlers, the screen still
// shows what is wrong, what to do, and where to find more.
func TestSEC11StatusForEverybody(t *testing.T) {
	s := sickSnapshot()
	var b strings.Builder
	view{snap: s.Redact(), life: status.Life{Known: true, Running: true, PID: 812, How: "lock"}, now: now}.render(&b)
	golden(t, "status-everybody", b.String())
	for _, word := range []string{"mounted noexec \x1b", "install: exit 126", "out\nput"} {
		if strings.Contains(b.String(), word) {
			t.Errorf("shown: %q", word)
		}
	}
	for _, want := range []string{"AZ-EXEC-NOEXEC", "fix: ", "exit 126", "run as root to see the message"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("not shown: %q", want)
		}
	}
}

package status

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/test/peak"
)

var at = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)

func good() Snapshot {
	return Snapshot{
		WrittenAt:    at,
		Provisioning: Provisioning{State: ProvDone},
		Platform: Platform{
			Health:     "Ready",
			LastReport: Report{Sent: true, Accepted: true, AcceptedAt: at},
			GoalState:  GoalState{ID: "7", Received: at, Applied: at},
		},
		Extensions: []Extension{{Name: "Contoso.Echo", Version: "1.0", Actual: ActualEnabled, Status: StatusSuccess}},
	}
}

func TestSaveLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.json")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of nothing: %v, want not exist", err)
	}
	s := good()
	s.Extensions[0].StdoutTail = "password=hunter2"
	s.Extensions[0].Message = "done\n[stdout]\nhunter2"
	if err := Save(path, s); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	s.SchemaVersion = Schema
	if diff := cmp.Diff(s, got); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}

	pub, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(pub), "hunter2") {
		t.Errorf("the public file holds output:\n%s", pub)
	}
	for name, want := range map[string]fs.FileMode{"status.json": 0o644, "status.root.json": 0o600} {
		fi, err := os.Stat(filepath.Join(filepath.Dir(path), name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, fi.Mode().Perm(), err, want)
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 2 {
		t.Errorf("leftovers: %v", entries)
	}
	// Without the private file, the public one is read.
	if err := os.Remove(rootPath(path)); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(path); err != nil || !got.Redacted || got.Platform.GoalState.ID != "7" {
		t.Errorf("Load of the public file: %+v, %v", got, err)
	}
}

func TestLoadBad(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "half": `{"schema_version":1,`, "list": `[]`, "type": `{"overall":3}`,
	} {
		path := filepath.Join(t.TempDir(), "status.json")
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	path := filepath.Join(t.TempDir(), "status.json")
	if err := os.WriteFile(path, []byte(`{"schema_version":9,"agent":{"version":"9.9"},"clock":"new"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(path); !errors.Is(err, ErrSchema) || s.Agent.Version != "9.9" {
		t.Errorf("newer schema: %+v, %v", s.Agent, err)
	}
}

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		change func(*Snapshot)
		want   Overall
	}{
		"well": {func(*Snapshot) {}, Overall{State: Healthy, Line: "healthy, goal state 7, 1 of 1 extensions ok"}},
		"starting": {func(s *Snapshot) {
			*s = Snapshot{Provisioning: Provisioning{State: ProvPending, Waiting: "cloud-init"}}
		}, Overall{State: Starting, Line: "starting, waiting for cloud-init"}},
		"extension failed": {
			func(s *Snapshot) { s.Extensions[0].Code = "AZ-EXT-EXIT" },
			Overall{State: Degraded, Codes: []string{"AZ-EXT-EXIT"}, Line: "degraded, goal state 7, 0 of 1 extensions ok, AZ-EXT-EXIT"},
		},
		"codes once and sorted": {
			func(s *Snapshot) {
				s.Disk.Code, s.Clock.Code = "AZ-DISK-LOW", "AZ-CLOCK-SKEW"
				s.Problems = []Item{{Problem: Problem{Code: "AZ-DISK-LOW"}}}
			},
			Overall{State: Degraded, Codes: []string{"AZ-CLOCK-SKEW", "AZ-DISK-LOW"}, Line: "degraded, goal state 7, 1 of 1 extensions ok, AZ-CLOCK-SKEW, AZ-DISK-LOW"},
		},
		"provisioning failed": {
			func(s *Snapshot) {
				*s = Snapshot{Provisioning: Provisioning{State: ProvFailed, Problem: Problem{Code: "AZ-PROV-USER"}}}
			},
			Overall{State: Failed, Codes: []string{"AZ-PROV-USER"}, Line: "failed, AZ-PROV-USER"},
		},
		"platform lost later": {
			func(s *Snapshot) { s.Platform.Code, s.Platform.LastReport.Accepted = "AZ-NET-WIRESERVER", false },
			Overall{State: Degraded, Codes: []string{"AZ-NET-WIRESERVER"}, Line: "degraded, goal state 7, 1 of 1 extensions ok, AZ-NET-WIRESERVER"},
		},
		"platform never": {
			func(s *Snapshot) { s.Platform = Platform{Problem: Problem{Code: "AZ-NET-WIRESERVER"}} },
			Overall{State: Failed, Codes: []string{"AZ-NET-WIRESERVER"}, Line: "failed, 1 of 1 extensions ok, AZ-NET-WIRESERVER"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := good()
			tc.change(&s)
			if diff := cmp.Diff(tc.want, s.Judge()); diff != "" {
				t.Errorf("Judge (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConverged(t *testing.T) {
	tests := map[string]struct {
		change func(*Snapshot)
		want   bool
	}{
		"well":            {func(*Snapshot) {}, true},
		"not ready":       {func(s *Snapshot) { s.Platform.Health = "NotReady" }, false},
		"not applied":     {func(s *Snapshot) { s.Platform.GoalState.Applied = time.Time{} }, false},
		"older applied":   {func(s *Snapshot) { s.Platform.GoalState.Received = at.Add(time.Second) }, false},
		"running":         {func(s *Snapshot) { s.Extensions[0].Phase = "enable" }, false},
		"transitioning":   {func(s *Snapshot) { s.Extensions[0].Status = StatusTransitioning }, false},
		"retry to come":   {func(s *Snapshot) { s.Extensions[0].NextRetry = at }, false},
		"failed for good": {func(s *Snapshot) { s.Extensions[0].Status = StatusError }, true},
	}
	for name, tc := range tests {
		s := good()
		tc.change(&s)
		if got := s.Converged(); got != tc.want {
			t.Errorf("%s: Converged() = %v, want %v", name, got, tc.want)
		}
	}
}

func TestRedactText(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", ""},
		{"one\ntwo", "one"},
		{"ok [stdout] x", "ok"},
		{"get https://u:p@a.blob/c?sv=1&sig=x failed", "get https://…@a.blob/c?… failed"},
		{strings.Repeat("é", 200), strings.Repeat("é", 80) + "…"},
	}
	for _, tc := range tests {
		if got := publicText(tc.in); got != tc.want {
			t.Errorf("publicText(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.lock")
	if l := Probe(path, "/proc", Snapshot{}); !l.Known || l.Running {
		t.Errorf("no file: %+v", l)
	}
	l, err := Acquire(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Probe(path, "/proc", Snapshot{}), (Life{Known: true, Running: true, PID: os.Getpid(), How: "lock"}); got != want {
		t.Errorf("held: %+v, want %+v", got, want)
	}
	_, err = Acquire(t.Context(), path)
	if le, ok := errors.AsType[*LockedError](err); !ok || le.PID != os.Getpid() {
		t.Errorf("second Acquire: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Acquire(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Acquire with a dead context: %v", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if got := Probe(path, "/proc", Snapshot{}); !got.Known || got.Running {
		t.Errorf("released: %+v", got)
	}
}

// TestProbeProcess: a user who may not open the lock checks the process
// instead.
func TestProbeProcess(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "dir") // opens, but flock is refused below
	if err := os.Symlink(lock, lock); err != nil {
		t.Fatal(err) // a loop: neither absent nor readable
	}
	ticks, err := StartTicks("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	snap := func(pid int, ticks uint64) Snapshot { return Snapshot{Agent: Agent{PID: pid, StartTicks: ticks}} }
	if got := Probe(lock, "/proc", snap(os.Getpid(), ticks)); !got.Running || got.How != "process" {
		t.Errorf("our own process: %+v", got)
	}
	if got := Probe(lock, "/proc", snap(os.Getpid(), ticks+1)); !got.Known || got.Running {
		t.Errorf("reused process id: %+v", got)
	}
	if got := Probe(lock, "/proc", snap(1<<30, 1)); !got.Known || got.Running {
		t.Errorf("gone: %+v", got)
	}
	if got := Probe(lock, t.TempDir(), snap(7, 1)); got.Known {
		t.Errorf("hidden /proc: %+v", got)
	}
	if got := Probe(lock, "/proc", Snapshot{}); got.Known {
		t.Errorf("no process id: %+v", got)
	}
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ctl.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil { // left over
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var seen Request
	go func() {
		done <- Serve(ctx, path, func(_ context.Context, r Request) Response {
			seen = r
			return Response{OK: true, Message: "again"}
		})
	}()
	var (
		resp Response
		err  error
	)
	for resp, err = Call(t.Context(), path, Request{Op: OpRetry, Extension: "Contoso.Echo"}); err != nil; {
		select { // until Serve listens
		case err := <-done:
			t.Fatalf("Serve: %v", err)
		case <-time.After(2 * time.Millisecond):
		}
		resp, err = Call(t.Context(), path, Request{Op: OpRetry, Extension: "Contoso.Echo"})
	}
	if err != nil || !resp.OK || resp.Message != "again" {
		t.Fatalf("Call: %+v, %v", resp, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	want := Request{Op: OpRetry, Extension: "Contoso.Echo", PID: os.Getpid(), UID: os.Geteuid()}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if _, err := Call(t.Context(), path, Request{Op: OpRetry}); err == nil {
		t.Error("Call without a server: no error")
	}
}

func FuzzRedact(f *testing.F) {
	f.Add(`{"extensions":[{"message":"x"}]}`)
	f.Fuzz(peak.Target(func(t *testing.T, data string) {
		var s Snapshot
		if json.Unmarshal([]byte(data), &s) != nil {
			return
		}
		s.Redact()
		s.Judge()
		s.Converged()
		publicText(data)
	}))
}

// TestSocketNonsense: whatever a client sends, it gets one line with an error,
// and the next client is served.
func TestSocketNonsense(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ctl.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	handled := make(chan Request, 100)
	go func() {
		done <- Serve(ctx, path, func(_ context.Context, r Request) Response {
			handled <- r
			return Response{OK: true}
		})
	}()
	for {
		if _, err := Call(t.Context(), path, Request{Op: OpReport}); err == nil {
			break
		}
		select { // until Serve listens
		case err := <-done:
			t.Fatalf("Serve: %v", err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	<-handled
	for name, text := range map[string]string{
		"nothing": "", "garbage": "\x00\xff\x1b[2J\n", "half": `{"op":"ret`, "list": "[]\n", "number": "1e999\n", "deep": strings.Repeat("[", 50000) + "\n",
		"types": `{"op":7,"for_s":"long"}` + "\n", "huge": strings.Repeat("x", 8<<20), "http": "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				_, _ = io.Copy(c, strings.NewReader(text)) // it may be cut off
				_ = c.(*net.UnixConn).CloseWrite()
			}()
			line, err := bufio.NewReader(c).ReadBytes('\n')
			var r Response
			// A client that sends more than is read may find the connection
			// reset.
			if err == nil && (json.Unmarshal(line, &r) != nil || r.OK || r.Error == "") || err != nil && name != "huge" {
				t.Errorf("answer %q %v", line, err)
			}
		})
	}
	if len(handled) != 0 {
		t.Errorf("acted upon: %+v", <-handled)
	}
	if r, err := Call(t.Context(), path, Request{Op: OpReport}); err != nil || !r.OK {
		t.Errorf("afterwards: %+v %v", r, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Who may read both files never gets the public one, even while the agent
// writes them.
func TestLoadWhileSaving(t *testing.T) {
	path := filepath.Join(t.TempDir(), "status.json")
	save := func(n int64) {
		if err := Save(path, Snapshot{WrittenAt: time.Unix(n, 0)}); err != nil {
			t.Error(err)
		}
	}
	save(1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range int64(600) {
			save(2 + n)
		}
	}()
	var last time.Time
	for saving := true; saving; {
		select {
		case <-done:
			saving = false
		default:
		}
		s, err := Load(path)
		if err != nil || s.Redacted || s.WrittenAt.Before(last) {
			t.Errorf("redacted %v, of %v after %v: %v", s.Redacted, s.WrittenAt, last, err)
		}
		last = s.WrittenAt
	}
}

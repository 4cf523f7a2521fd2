package extensions

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/store"
)

// TestSEC7ForgedResult: a command can forge the result file of its supervisor.
// Texts from it become part of the report of all handlers, which the platform
// accepts or rejects as a whole.
func TestSEC7ForgedResult(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("<\u0001\xc3", 40_000)
	forge := func(t *testing.T, res job.Result) string {
		dir := t.TempDir()
		b, err := json.Marshal(res)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "result.json"), string(b))
		return dir
	}
	for _, class := range []string{job.OK, job.Failed, job.Timeout, job.Signal, job.NotStarted, job.Lost} {
		dir := forge(t, job.Result{Class: class, Code: 1, Signal: long, Error: long, Scope: long, ScopeErr: long, Started: time.Now(), CPU: -1, Throttled: -1})
		res, ok := job.ResultOf(dir)
		if !ok {
			t.Errorf("ResultOf() accepts no result of class %s", class)
			continue
		}
		b, err := json.Marshal(res)
		if err != nil || len(b) > 100<<10 {
			t.Errorf("%s: %d bytes, %v", class, len(b), err)
		}
		w := &work{}
		d := store.Doing{Command: "bin/" + long, Started: time.Now(), Deadline: time.Now().Add(time.Minute)}
		cause := handler.Classify(res, time.Minute, handler.Probe{}, "")
		if _, text := w.failureText("/base", d, res, cause, long, long, 1); len(text) > 64<<10 {
			t.Errorf("%s: a message of %d bytes", class, len(text))
		}
	}
	if res, ok := job.ResultOf(forge(t, job.Result{Class: "AZ-NET-DNS"})); ok {
		t.Errorf("a class of its own is a result: %+v", res)
	}
	if res, _ := job.ResultOf(forge(t, job.Result{Class: job.Signal, Signal: "SIGAZ-NET-DNS"})); res.Signal != "" {
		t.Errorf("a signal of its own: %q", res.Signal)
	}
	if res, _ := job.ResultOf(forge(t, job.Result{Class: job.Signal, Signal: "SIGSEGV"})); res.Signal != "SIGSEGV" {
		t.Errorf("a real signal: %q", res.Signal)
	}
}

// TestAuditLongCommand: line numbers of the audit log continue after a manifest
// with a command line of a megabyte.
func TestAuditLongCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("\x01", 1<<20)
	for want := int64(1); want < 4; want++ {
		a := store.NewAuditLog(dir + "/audit.log") // as after a restart
		if err := a.Write(store.AuditEntry{What: "begin", Command: long, Text: long, Why: long, GoalState: long, Signer: long}); err != nil {
			t.Fatal(err)
		}
		if n := store.NewAuditLog(dir + "/audit.log").Seq(); n != want {
			t.Errorf("the last line has the number %d, want %d", n, want)
		}
	}
}

// TestHandlerStatusWord: a status that is too long is not accepted.
func TestHandlerStatusWord(t *testing.T) {
	t.Parallel()
	if r, ok := handler.ParseStatusRecord([]byte(`{"status": "` + strings.Repeat("R", 1<<20) + `"}`)); ok {
		t.Errorf("a status of %d bytes", len(r.Status))
	}
}

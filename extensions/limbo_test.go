package extensions

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/store"
)

// unknown starts a process in which nothing tells that it belongs to a handler.
// It writes a status when the file "speak" exists.
const unknown = `w="$base/../w$$"; f="$base/status/$seq.status"
printf '%s\n' ": >'$w.runs'" "while [ ! -e '$base/../speak' ] && [ -d '$base' ]; do sleep 0.05; done" \
  "printf '[{\"status\":{\"operation\":\"x\",\"status\":\"success\",\"code\":0,\"formattedMessage\":{\"lang\":\"en\",\"message\":\"late\"}}}]' >'$f.x' && mv '$f.x' '$f'" >"$w"
(cd / && setsid env -i PATH="$PATH" sh -s <"$w" >/dev/null 2>&1 &)
while [ ! -e "$w.runs" ]; do sleep 0.05; done
`

// TestPAT2LateStatusFile: a status file that comes long after enable, from a
// process that does not look like the handler's, is no error before. An error
// that the agent has reported is taken back when the handler speaks, and what
// was skipped because of it runs.
func TestPAT2LateStatusFile(t *testing.T) {
	t.Parallel()
	mute := "log\nexit 0\n"
	w := newWorld(t, pkg{name: "P.Late", version: "1.0", script: mute}, pkg{name: "P.Given", version: "1.0", script: mute}, pkg{name: "P.After", version: "1.0", script: simple})
	w.cfg.Timeouts = Timeouts{Dead: 50 * time.Millisecond, Late: 2 * time.Second}
	w.start()
	gs := w.state(ext("P.Late", "1.0", 0), ext("P.Given", "1.0", 0), level(ext("P.After", "1.0", 0), 1, "P.Given"))
	w.m.Offer(gs)
	began := time.Now()
	s := w.await("the errors", func(s Snapshot) bool {
		return s.Key == gs.Key() && len(s.Handlers) == 3 && lastWord(s.Handlers[0]) == "error -1" && lastWord(s.Handlers[1]) == "error -1" && s.Handlers[2].Status == "NotReady"
	})
	if took := time.Since(began); took < w.cfg.Timeouts.Late {
		t.Errorf("an error after %v: %s", took, show(s))
	}
	if m := message(s, 0); !strings.Contains(m, "AZ-EXT-LIMBO") || !strings.Contains(m, "it wrote no status file") {
		t.Errorf("message %q", m)
	}
	writeFile(t, w.base("P.Given-1.0/status/0.status"), `[{"status":{"status":"success","operation":"late","code":0}}]`)
	w.await("the end", func(s Snapshot) bool {
		return show(s) == "P.Late 1.0 Ready 0 | 0 error -1\nP.Given 1.0 Ready 0 | 0 success 0\nP.After 1.0 Ready 0 | 0 success 0\n"
	})
}

// TestPAT2UnknownWriters: as long as somebody unknown may write the status, the
// agent waits for long: for a process that a command has left without any
// trace, and for one that was seen to write.
func TestPAT2UnknownWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: "log\n[ $op = enable ] || exit 0\nstatus transitioning\n" + unknown})
	w.cfg.Timeouts = Timeouts{Dead: time.Minute, Late: time.Hour}
	w.start()
	w.processed(ext("P.X", "1.0", 0))
	w.stop()
	v, q := w.m.live(), w.m.pass.pairs[0]
	first := w.m.deadlineOf(v, q, deadline{})
	if first.since.IsZero() {
		t.Fatal("the process counts as the handler's")
	}
	overdue := first
	overdue.since = time.Now().Add(-5 * time.Minute)
	if d := w.m.deadlineOf(v, q, overdue); d.final {
		t.Errorf("a process that the command has left: %+v", d)
	}
	// The same without that process, as after a boot.
	r := v.row(q, &w.m.files)
	e := r.rec.Exts[""]
	e.Attempts = 2
	r.rec.Last = nil
	if got, want := w.m.grace(row{rec: r.rec}, e, overdue), 2*time.Minute; got != want {
		t.Errorf("without a process: %v, want %v", got, want)
	}
	written := overdue
	written.stamp.Inode++
	if d := w.m.deadlineOf(v, q, written); !d.heard || w.m.grace(row{rec: r.rec}, e, d) != time.Hour {
		t.Errorf("after a change of the file: %+v", d)
	}
	writeFile(t, w.root.Path("/var/lib/waagent/speak"), "")
	w.await("the unknown process", func(s Snapshot) bool { return lastWord(s.Handlers[0]) == "late" })
}

// TestPAT2AtJob: an at job of root's that a command has submitted keeps its
// handler alive. It has the command's environment.
func TestPAT2AtJob(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start()
	base := w.base("P.X-1.0")
	for _, dir := range []string{"/var/spool/at", "/var/spool/cron/atjobs"} {
		if w.m.handedOver("P.X", base) {
			t.Fatalf("%s: before", dir)
		}
		if err := w.root.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		file := dir + "/a0000101a2b3c4"
		if err := w.root.WriteFile(file, []byte("#!/bin/sh\nAZURE_GUEST_AGENT_EXTENSION_PATH="+base+"; export AZURE_GUEST_AGENT_EXTENSION_PATH\ntrue\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if !w.m.handedOver("P.X", base) {
			t.Errorf("%s does not count", dir)
		}
		if err := os.Remove(w.root.Path(file)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPAT2GraceIgnoresTheClock: how long the agent waits for a status does not
// depend on the clock of the machine, and a restart of the agent does not begin
// the wait anew.
func TestPAT2GraceIgnoresTheClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: "log\nexit 0\n"})
	w.cfg.Timeouts = Timeouts{Dead: 20 * time.Millisecond, Late: time.Hour}
	w.start()
	w.processed(ext("P.X", "1.0", 0))
	w.stop()
	h := w.m.handlers["p.x"]
	rec := h.recs["1.0"]
	for name, tc := range map[string]struct {
		change func(e *store.Ended)
		final  bool
	}{
		"clock set forward": {func(e *store.Ended) { e.Finished = e.Finished.AddDate(-10, 0, 0) }, false},
		"clock set back":    {func(e *store.Ended) { e.Finished = e.Finished.AddDate(10, 0, 0) }, false},
		"an hour ago":       {func(e *store.Ended) { e.Over = host.Moment{Boot: e.Over.Boot, At: e.Over.At - time.Hour} }, true},
	} {
		e := rec.Exts[""]
		last := *e.Last
		tc.change(&last)
		e.Last = &last
		h.recs = map[string]store.Record{"1.0": rec.SetExt("", e)}
		v, q := w.m.live(), w.m.pass.pairs[0]
		if d := w.m.deadlineOf(v, q, w.m.deadlineOf(v, q, deadline{})); d.final != tc.final {
			t.Errorf("%s: final %v, want %v", name, d.final, tc.final)
		}
	}
}

// TestPAT2UnusableStatusIsRepaired: a status file that stays incomplete is an
// error of the agent's, not of the handler. When it is replaced, the error is
// taken back, and what was skipped because of it runs. An error that a handler
// has reported itself stays its word.
func TestPAT2UnusableStatusIsRepaired(t *testing.T) {
	t.Parallel()
	good := `[{"version":1.0,"timestampUTC":"2024-01-01T00:00:00Z","status":{"operation":"Enable","status":"success","code":0}}]`
	for name, first := range map[string]string{
		"half":          good[:40],
		"no array":      "{}",
		"no status":     `[{"version":1.0,"status":{}}]`,
		"its own":       strings.Replace(good, "success", "error", 1),
		"its own words": strings.Replace(good, "success", "failed", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script := "log\nif [ $op = enable ]; then f=$base/status/$seq.status; printf '%s' '" + first + "' >$f; touch -d '1 hour ago' $f; fi\n"
			w := newWorld(t, pkg{name: "P.A", version: "1.0", script: script}, pkg{name: "P.B", version: "1.0", script: simple}).start()
			w.m.Offer(w.state(level(ext("P.A", "1.0", 0), 0), level(ext("P.B", "1.0", 0), 1, "P.A")))
			w.await("the error", func(s Snapshot) bool { return strings.Contains(show(s), "P.B 1.0 NotReady -1 | 0 error -1\n") })
			writeFile(t, w.base("P.A-1.0/status/0.status"), good)
			w.await("the success", func(s Snapshot) bool { return strings.HasPrefix(show(s), "P.A 1.0 Ready 0 | 0 success 0\n") })
			if strings.HasPrefix(name, "its own") {
				if n := countCalls(w.calls(), "enable"); n != 1 {
					t.Errorf("%d enables, calls %q", n, w.calls())
				}
				return
			}
			w.await("what was skipped", func(s Snapshot) bool { return strings.Count(show(s), "success 0\n") == 2 })
		})
	}
}

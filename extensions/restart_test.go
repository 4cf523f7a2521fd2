package extensions

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// TestRestartDuring: if the agent ends while a command runs, the command goes on,
// runs once, and the next start takes its result (DESIGN.md, decision 8).
func TestRestartDuring(t *testing.T) {
	if testing.Short() {
		t.Skip("starts dozens of engines")
	}
	t.Parallel()
	for _, op := range []string{"install", "enable", "disable", "update", "uninstall"} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			script := "log\nif [ \"$op\" = " + op + " ]; then touch $base/../here; while [ ! -e $base/../go ]; do sleep 0.02; done; log done; fi\n[ \"$op\" = enable ] && status success\nexit 0\n"
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}, pkg{name: "P.X", version: "2.0", script: script}).start()
			var gs any
			first := w.state(ext("P.X", "1.0", 0))
			second := w.state(ext("P.X", "2.0", 1))
			third := w.state(gone(ext("P.X", "2.0", 1)))
			_ = gs
			here, goOn := w.base("here"), w.base("go")
			if op != "install" && op != "enable" {
				w.m.Offer(first)
				w.await("enabled", func(s Snapshot) bool { return s.Converged && w.m.settled() })
			} else {
				w.m.Offer(first)
			}
			if op == "disable" || op == "update" || op == "uninstall" {
				w.m.Offer(second)
				first = second
			}
			w.await("command runs", func(Snapshot) bool { return exists(here) })
			w.restart()
			w.m.Offer(first)
			w.restart() // a second time
			writeFile(t, goOn, "")
			w.m.Offer(first)
			s := w.await("done", func(s Snapshot) bool { return s.Converged && s.Key == first.Key() && w.m.settled() })
			if len(s.Handlers) != 1 || s.Handlers[0].Status != "Ready" {
				t.Errorf("report %s", show(s))
			}
			done := 0
			for _, c := range w.calls() {
				if strings.Contains(c, op+" ") && strings.HasSuffix(c, " done") {
					done++
				}
			}
			if starts := countCalls(w.calls(), op) - done; starts != done {
				t.Errorf("%d starts, %d ends of %s: %q", starts, done, op, w.calls())
			}
			w.m.Offer(third)
			w.await("gone", func(s Snapshot) bool { return s.Key == third.Key() && len(s.Handlers) == 0 })
			w.await("directories gone", func(Snapshot) bool { return !exists(w.base("P.X-2.0")) && !exists(w.base("P.X-1.0")) })
		})
	}
}

func countCalls(calls []string, op string) int {
	n := 0
	for _, c := range calls {
		if strings.Fields(c)[1] == op {
			n++
		}
	}
	return n
}

// TestSupervisorKilled: if a supervisor is killed, its command goes on, and the
// operation does not hang, even if the supervisor had not yet recorded the PID.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	for _, noted := range []bool{true, false} {
		t.Run(fmt.Sprint("noted ", noted), func(t *testing.T) {
			t.Parallel()
			script := "log\nif [ \"$op\" = enable ]; then if [ ! -e once ]; then touch once; while [ ! -e go ]; do sleep 0.02; done; fi; log done; status success; fi\nexit 0\n"
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script}).start()
			w.m.Offer(w.state(ext("P.X", "1.0", 0)))
			var dir string
			var st job.State
			w.await("enable runs, and the supervisor knows it", func(Snapshot) bool {
				for _, d := range w.m.Details() {
					if d.Phase == plan.Enable {
						dir = strings.TrimSuffix(d.StdoutPath, "/"+job.Stdout)
						st, _ = job.StateOf(dir)
					}
				}
				return exists(w.base("P.X-1.0/once")) && st.Child != 0
			})
			if !noted {
				early := st
				early.Child, early.ChildTicks = 0, 0
				b, err := json.Marshal(early)
				if err != nil {
					t.Fatal(err)
				}
				writeFile(t, dir+"/state.json", string(b))
			}
			if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			w.await("its end", func(Snapshot) bool { return unix.Kill(st.PID, 0) != nil })
			w.restart() // the next agent does not know it either
			w.m.Offer(w.state(ext("P.X", "1.0", 0)))
			impatient, cancel := context.WithCancel(t.Context())
			cancel()
			if res, err := job.Wait(impatient, dir); err == nil {
				t.Errorf("the orphan is not waited for: %+v", res)
			}
			writeFile(t, w.base("P.X-1.0/go"), "")
			w.await("enabled", func(s Snapshot) bool { return s.Converged && w.m.settled() })
			// The agent waited for the orphan and then repeated the operation.
			want := []string{"1.0 install 0", "1.0 enable 0", "1.0 enable 0 done", "1.0 enable 0", "1.0 enable 0 done"}
			if diff := cmp.Diff(want, w.calls()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBoot: each extension is enabled once after a boot, and not for a goal state
// that changes others (DESIGN.md, decision 9).
func TestBoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.A", version: "1.0", script: simple}, pkg{name: "P.B", version: "1.0", script: simple})
	w.boot = "one"
	w.start()
	for i := range 20 {
		w.offer(ext("P.A", "1.0", i), ext("P.B", "1.0", 0))
	}
	if n := strings.Count(strings.Join(w.calls(), "\n"), "enable"); n != 21 {
		t.Errorf("%d enables, want 20 of A and 1 of B", n)
	}
	w.clearCalls()
	w.restart()
	w.offer(ext("P.A", "1.0", 19), ext("P.B", "1.0", 0))
	if got := w.calls(); got != nil {
		t.Errorf("restart ran %q", got)
	}
	w.stop()
	w.boot = "two"
	w.start()
	w.offer(ext("P.A", "1.0", 19), ext("P.B", "1.0", 0))
	w.offer(ext("P.A", "1.0", 19), ext("P.B", "1.0", 0))
	if n := len(w.calls()); n != 2 {
		t.Errorf("boot ran %q, want one enable each", w.calls())
	}
	w.stop()
	w.clearCalls()
	w.cfg.Agent = "2.0"
	w.start()
	w.offer(ext("P.A", "1.0", 19), ext("P.B", "1.0", 0))
	if n := len(w.calls()); n != 2 {
		t.Errorf("agent upgrade ran %q, want one enable each", w.calls())
	}
}

// TestShutdown: the machine shuts down while a command runs. Whether the command
// was killed or finished just before, enable runs again after the boot, because
// daemons that it had started are gone.
func TestShutdown(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, op, end string }{
		{"enable killed", "enable", "kill -TERM $$"},
		{"enable failed", "enable", "exit 1"}, // a process that it waited for was killed
		{"enable done", "enable", ":"},
		{"install killed", "install", "kill -TERM $$"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: "log\nif [ $op = " + tc.op + " ] && [ ! -e down ]; then touch here\n" +
				"while [ ! -e down ]; do sleep 0.02; done\n" + tc.end + "\nfi\n[ $op = enable ] && status success\nexit 0\n"})
			w.boot = "one"
			w.start()
			gs := w.state(ext("P.X", "1.0", 0))
			w.m.Offer(gs)
			w.await("the command", func(Snapshot) bool { return exists(w.base("P.X-1.0/here")) })
			w.stop()
			writeFile(t, w.base("P.X-1.0/down"), "")
			w.await("its end", func(Snapshot) bool {
				jobs, err := w.root.Glob("/var/lib/waagent/azguest/ext/jobs/*")
				for _, dir := range jobs {
					if st, ok := job.StateOf(w.root.Path(dir)); !ok || unix.Kill(st.PID, 0) == nil {
						return false
					}
				}
				return err == nil
			})
			w.clearCalls()
			w.boot = "two"
			w.start()
			w.m.Offer(gs)
			s := w.await("enabled", func(s Snapshot) bool { return s.Key == gs.Key() && s.Converged && w.m.settled() })
			want := []string{"1.0 enable 0"}
			if tc.op == "install" {
				want = []string{"1.0 install 0", "1.0 enable 0"}
			}
			if diff := cmp.Diff(want, w.calls()); diff != "" {
				t.Errorf("calls after the boot (-want +got):\n%s", diff)
			}
			if len(s.Handlers) != 1 || s.Handlers[0].Status != "Ready" {
				t.Errorf("report %s", show(s))
			}
		})
	}
}

// TestEmptySequenceNumberFile: a handler is not stuck for ever after a power
// cut has emptied its mrseq file, in which it keeps the last sequence number it
// has seen.
func TestEmptySequenceNumberFile(t *testing.T) {
	t.Parallel()
	script := "f=$base/${ext:+$ext.}mrseq\nlog \"saw $(cat $f 2>/dev/null || echo none)\"\n[ $op = enable ] && { echo $seq >$f; status success; }\nexit 0\n"
	for _, tc := range []struct{ name, ext, left, want string }{
		{"empty", "", "", "3"},
		{"zeros", "", "\x00\x00", "3"},
		{"of one of many", "e", "", "3"},
		{"handler's own business", "", "three", "three"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := pkg{name: "P.X", version: "1.0", script: script}
			at := func(seq int) protocol.Handler { return ext("P.X", "1.0", seq) }
			file := "mrseq"
			if tc.ext != "" {
				p.manifest, file = multiManifest, tc.ext+".mrseq"
				at = func(seq int) protocol.Handler { return multi("P.X", "1.0", tc.ext+":"+strconv.Itoa(seq)) }
			}
			w := newWorld(t, p).start()
			w.offer(at(3))
			w.restart()
			w.clearCalls()
			writeFile(t, w.base("P.X-1.0/"+file), tc.left)
			w.offer(at(4))
			got := strings.Join(w.calls(), "\n")
			if !strings.HasSuffix(got, "4 saw "+tc.want) {
				t.Errorf("calls %q, want the number %s", got, tc.want)
			}
		})
	}
	t.Run("first", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, pkg{name: "P.X", version: "1.0", script: script, files: map[string]string{"mrseq": ""}}).start()
		w.offer(ext("P.X", "1.0", 3))
		if diff := cmp.Diff([]string{"1.0 install 3 saw none", "1.0 enable 3 saw none"}, w.calls()); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
}

// TestEnableEveryStart: with this option everything is enabled once per start, as
// WALinuxAgent does, but not once per goal state.
func TestEnableEveryStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple}, pkg{name: "P.Y", version: "1.0", script: simple})
	w.cfg.EnableEveryStart = true
	w.start()
	w.offer(ext("P.X", "1.0", 3))
	for range 2 {
		w.restart()
		w.clearCalls()
		if err := os.Remove(w.base("P.X-1.0/config/3.settings")); err != nil { // as some handlers do
			t.Fatal(err)
		}
		w.offer(ext("P.X", "1.0", 3))
		w.offer(ext("P.X", "1.0", 3), ext("P.Y", "1.0", -1))
		w.offer(ext("P.X", "1.0", 3))
		mine := slices.DeleteFunc(w.calls(), func(c string) bool { return c != "1.0 enable 3" })
		if len(mine) != 1 || !exists(w.base("P.X-1.0/config/3.settings")) {
			t.Errorf("enabled %d times in a life of the agent: %q", len(mine), w.calls())
		}
	}
}

// TestTenExtensionsInParallel: ten new extensions do not wait for each other.
func TestTenExtensionsInParallel(t *testing.T) {
	t.Parallel()
	var ps []pkg
	w := newWorld(t)
	hs := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	for _, n := range hs {
		ps = append(ps, pkg{name: "P." + n, version: "1.0", script: simple})
	}
	w.repo.publish(t, ps...)
	w.start()
	began := time.Now()
	gs := w.state()
	for _, n := range hs {
		gs.Handlers = append(gs.Handlers, ext("P."+n, "1.0", 0))
	}
	w.m.Offer(gs)
	s := w.await("all", func(s Snapshot) bool { return s.Converged && w.m.settled() && len(s.Handlers) == 10 })
	t.Logf("ten extensions: %v", time.Since(began))
	for _, h := range s.Handlers {
		if h.Extension == nil || h.Extension.Status != handler.Success {
			t.Errorf("%s: %s", h.Name, show(s))
		}
	}
}

// TestTimeout: at the deadline the process group is killed and reported with code
// 1011. Background processes of a command that ends in time go on.
func TestTimeout(t *testing.T) {
	t.Parallel()
	// The deadline has to be long enough for the command to write something,
	// which depends on the machine.
	for deadline := 300 * time.Millisecond; ; deadline *= 4 {
		w := newWorld(t, pkg{name: "P.Slow", version: "1.0", script: "log\n[ \"$op\" = enable ] && { echo working; exec sleep 1000; }\nexit 0\n"})
		w.cfg.Timeouts.Enable = deadline
		w.start()
		s := w.processed(ext("P.Slow", "1.0", 0))
		if got, want := show(s), "P.Slow 1.0 NotReady 1011 | 0 error 1011\n"; got != want {
			t.Errorf("got %s want %s", got, want)
		}
		m := message(s, 0)
		if !strings.Contains(m, fmt.Sprintf("Timeout(%d): ", int(deadline.Seconds()))) || !strings.Contains(m, "AZ-EXT-TIMEOUT") {
			t.Errorf("message %q", m)
		}
		if strings.Contains(m, "working") {
			break
		}
		if deadline > patience {
			t.Fatalf("what the command said is not in the message: %q", m)
		}
	}
	w := newWorld(t,
		pkg{name: "P.Back", version: "1.0", script: "log\n[ \"$op\" = enable ] && { nohup sh -c 'echo late; sleep 0.5; echo later; touch $0/../outlived' $base & }\n[ \"$op\" = enable ] && status success\nexit 0\n"},
	)
	w.start()
	if got, want := show(w.processed(ext("P.Back", "1.0", 0))), "P.Back 1.0 Ready 0 | 0 success 0\n"; got != want {
		t.Errorf("got %s want %s", got, want)
	}
	w.await("background child", func(Snapshot) bool { return exists(w.base("outlived")) })
}

// TestSuperviseJob: result and output of a job are right for each way to end.
func TestSuperviseJob(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, shell, class string
		code               int
		signal, out        string
		late               bool
	}{
		{name: "ok", shell: "echo hi; echo ho >&2", class: job.OK, out: "hi\n"},
		{name: "failed", shell: "exit 7", class: job.Failed, code: 7},
		{name: "signal", shell: "kill -9 $$", class: job.Signal, code: -1, signal: "SIGKILL"},
		// As in published shims: the error message comes through another process.
		{name: "piped output", shell: "cd $(mktemp -d) && mkfifo p && { (sleep 0.3; exec cat) <p & exec >p 2>&1; rm -r \"$PWD\"; echo why >&2; exit 3; }", class: job.Failed, code: 3, out: "why\n", late: true},
		{name: "timeout", shell: "sleep 1000", class: job.Timeout, code: -1},
		{name: "environment", shell: "test -n \"$HOME$USER\" && test -z \"$GOGC$GOMAXPROCS\" && pwd && test \"$A\" = b", class: job.OK, out: "/\n"},
		{name: "descriptors", shell: "ls /proc/self/fd | wc -l", class: job.OK, out: "4\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			spec := job.Job{Shell: tc.shell, Dir: "/", Env: []string{"A=b"}, Timeout: patience}
			if tc.class == job.Timeout {
				spec.Timeout = 50 * time.Millisecond
			}
			var out []byte
			// The wait for late output is limited, so a slow machine may need more
			// than one try.
			for try := 0; try == 0 || tc.late && try < 20 && string(out) != tc.out; try++ {
				dir := t.TempDir() + "/job"
				spec.ID = store.NewID()
				if err := launcher().Start(dir, spec); err != nil {
					t.Fatal(err)
				}
				res, err := job.Wait(context.Background(), dir)
				if err != nil {
					t.Fatal(err)
				}
				if res.Class != tc.class || res.Code != tc.code || res.Signal != tc.signal {
					t.Errorf("got %+v, want %s %d %s", res, tc.class, tc.code, tc.signal)
				}
				if out, err = os.ReadFile(dir + "/" + job.Stdout); err != nil {
					t.Error(err)
				}
			}
			if string(out) != tc.out {
				t.Errorf("stdout %q, want %q", out, tc.out)
			}
		})
	}
}

// TestScope: under systemd a command has a scope in the handler's slice, in which
// its background processes stay. It needs systemd.
func TestScope(t *testing.T) {
	t.Parallel()
	if !cgroup.HasSystemd() || os.Getuid() != 0 {
		t.Skip("no systemd here")
	}
	dir := t.TempDir() + "/job"
	id := store.NewID()
	spec := job.Job{
		ID: id, Shell: "cat /proc/self/cgroup; sleep 1000 >/dev/null 2>&1 &", Dir: "/", Timeout: patience,
		Scope: "azguest-" + id + ".scope", Slice: handler.SliceName("Pub.Some-Handler", ""), CPUPercent: 50,
	}
	if err := launcher().Start(dir, spec); err != nil {
		t.Fatal(err)
	}
	res, err := job.Wait(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if res.Class != job.OK || res.ScopeErr != "" || !strings.Contains(res.Scope, "/azure-vmextensions-Pub.Some_Handler.slice/azguest-"+id+".scope") {
		t.Errorf("result %+v", res)
	}
	if b, err := os.ReadFile(dir + "/" + job.Stdout); err != nil || !strings.Contains(string(b), spec.Scope) {
		t.Errorf("the command ran in %s (%v)", b, err)
	}
	left := cgroup.Procs(res.Scope)
	if len(left) == 0 {
		t.Error("the background child has left the scope")
	}
	for _, pid := range left {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// TestScopeRefused: if systemd is missing or refuses to create a scope, a command
// runs without one, once (extensions/SPEC.md §9.8).
func TestScopeRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/job"
	spec := job.Job{ID: store.NewID(), Shell: "echo ran", Dir: "/", Timeout: patience, Scope: "not the name of a scope", Slice: "neither"}
	if err := launcher().Start(dir, spec); err != nil {
		t.Fatal(err)
	}
	res, err := job.Wait(t.Context(), dir)
	if err != nil || res.Class != job.OK || res.ScopeErr == "" || res.Scope != "" {
		t.Errorf("result %+v, %v", res, err)
	}
	if b, err := os.ReadFile(dir + "/" + job.Stdout); err != nil || string(b) != "ran\n" {
		t.Errorf("stdout %q, %v", b, err)
	}
}

// TestPowerCutEmptiesFiles: state files that a power cut has emptied are ignored.
// The state comes from the record, and a package with an empty manifest is
// fetched again.
func TestPowerCutEmptiesFiles(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ file, calls string }{
		{"config/HandlerState", "1.0 enable 0"},
		{"HandlerManifest.json", "1.0 install 0 1.0 enable 0"},
	} {
		for _, left := range []string{"", "\x00\x00\x00\x00"} {
			w := newWorld(t, pkg{name: "P.X", version: "1.0", script: simple})
			w.boot = "one"
			w.start()
			w.offer(ext("P.X", "1.0", 0))
			w.stop()
			w.clearCalls()
			writeFile(t, w.base("P.X-1.0/"+tc.file), left)
			w.boot = "two"
			w.start()
			s := w.offer(ext("P.X", "1.0", 0))
			if got := strings.Join(w.calls(), " "); got != tc.calls || !strings.Contains(show(s), "Ready 0 | 0 success") {
				t.Errorf("%s %q: ran %q, %s", tc.file, left, got, show(s))
			}
		}
	}
}

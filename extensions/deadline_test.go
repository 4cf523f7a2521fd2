package extensions

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/plan"
	"github.com/azguest/azguest/extensions/store"
	"github.com/azguest/azguest/protocol"
)

// trick is a handler whose enable tampers with its supervisor (PID $super) or
// its job directory ($job) and then runs for ever. If the file `calm` exists, it
// behaves normally.
func trick(name, what string) pkg {
	return pkg{name: name, version: "1.0", script: `log
if [ "$op" = enable ] && [ ! -e "$base/../calm" ]; then
  super=$PPID # or, if the shell has not made way for us, its parent
  grep -qz '^supervise$' /proc/$super/cmdline || super=$(cut -d' ' -f4 /proc/$PPID/stat)
  job=$(tr '\0' '\n' </proc/$super/cmdline | sed -n 3p)
  [ -f "$job/job.json" ] || exit 99
  ` + what + `
  touch "$base/../tricked"
  # apt-get is not used, but the agent shall think so
  sleep 600
fi
[ "$op" = enable ] && status success
exit 0
`}
}

// apt is a handler that uses the package manager.
func apt(name string) pkg {
	return pkg{name: name, version: "1.0", script: simple + "# apt-get install\n"}
}

// TestSEC5DeadlineWithoutSupervisor: whatever a command does to its supervisor,
// it is killed soon after its deadline and reported with a code, and handlers
// that wait for it continue.
func TestSEC5DeadlineWithoutSupervisor(t *testing.T) {
	if testing.Short() {
		t.Skip("starts dozens of engines")
	}
	t.Parallel()
	const overdue = "the supervisor did not kill the command at its deadline: it "
	for _, tc := range []struct{ name, what, says string }{
		{"stopped", "kill -STOP $super", "AZ-EXT-OVERDUE: it did not finish within 1s, and " + overdue + "was stopped by a signal; the agent killed both"},
		{"killed", "kill -KILL $super", "AZ-EXT-OVERDUE: it did not finish within 1s, and " + overdue + "was killed"},
		{"killed, and its state removed", "rm -f $job/state.json; kill -KILL $super", "AZ-EXT-OVERDUE"},
		{"stopped, and its state is another's", `kill -STOP $super; printf '{"pid":1,"child":1,"boot":"x"}' >$job/state.json`, overdue + "was stopped by a signal"},
		{"stopped, and its state is a FIFO", "kill -STOP $super; rm $job/state.json; mkfifo $job/state.json", overdue + "was stopped by a signal"},
		{"stopped, and its output is a FIFO", "kill -STOP $super; rm $job/stdout; mkfifo $job/stdout", overdue + "was stopped by a signal"},
		{"stopped, and its directory renamed", "kill -STOP $super; mv $job $job.old", overdue + "was stopped by a signal"},
		{"killed, and its lock held", "setsid flock $job/lock -c 'sleep 600' & kill -KILL $super", "AZ-EXT-OVERDUE"},
		{"its descriptors are closed", "kill -STOP $super; exec >&- 2>&- <&-", overdue + "was stopped by a signal"},
		{"it leaves the group and forgets its environment", "kill -STOP $super; env -i /usr/bin/setsid /bin/sleep 600 &", overdue + "was stopped by a signal"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, trick("P.Bad", tc.what), apt("P.Apt"), pkg{name: "P.Dep", version: "1.0", script: simple}, pkg{name: "P.Free", version: "1.0", script: simple})
			w.cfg.Timeouts.Enable, w.cfg.Timeouts.Grace = time.Second, time.Second
			w.start()
			gs := w.state(ext("P.Bad", "1.0", 0), ext("P.Apt", "1.0", 0), level(ext("P.Dep", "1.0", 0), 1, "P.Bad"), ext("P.Free", "1.0", 0))
			w.m.Offer(gs)
			s := w.await("the end of all", func(s Snapshot) bool { return s.Key == gs.Key() && s.Converged && w.m.settled() })
			want := "P.Bad 1.0 NotReady 1011 | 0 error 1011\nP.Apt 1.0 Ready 0 | 0 success 0\nP.Dep 1.0 NotReady -1 | 0 error -1\nP.Free 1.0 Ready 0 | 0 success 0\n"
			if got := show(s); got != want {
				t.Errorf("got %s want %s", got, want)
			}
			if m := message(s, 0); !strings.Contains(m, tc.says) {
				t.Errorf("message %q does not say %q", m, tc.says)
			}
			jobs, err := w.root.Glob("/var/lib/waagent/azguest/ext/jobs/*")
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range jobs {
				if end := job.End(t.Context(), w.root.Path(strings.TrimSuffix(dir, ".old"))); end.Killed > 0 {
					t.Errorf("%d processes were left of %s", end.Killed, dir)
				}
			}
			// The next goal state tries it again, successfully.
			writeFile(t, w.base("calm"), "")
			if s := w.offer(ext("P.Bad", "1.0", 1), ext("P.Apt", "1.0", 0)); strings.Count(show(s), "success") != 2 {
				t.Errorf("then: %s", show(s))
			}
		})
	}
}

// stuck starts a world with a handler that stops its supervisor, and waits until
// it has done so.
func stuck(t *testing.T, what string, timeout, grace time.Duration) (*world, *protocol.GoalState) {
	t.Helper()
	w := newWorld(t, trick("P.Bad", what), pkg{name: "P.Dep", version: "1.0", script: simple})
	w.cfg.Timeouts.Enable, w.cfg.Timeouts.Grace = timeout, grace
	w.start()
	t.Cleanup(func() { endJobs(w) })
	gs := w.state(ext("P.Bad", "1.0", 0), level(ext("P.Dep", "1.0", 0), 1, "P.Bad"))
	w.m.Offer(gs)
	w.await("the trick", func(Snapshot) bool { return exists(w.base("tricked")) })
	return w, gs
}

// meanwhile restarts the agent and advances the clocks: the wall clock by jump,
// the monotonic one by passed.
func meanwhile(w *world, jump, passed time.Duration) {
	w.t.Helper()
	w.stop()
	recs, _, err := w.m.store.Load()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range recs {
		if d := r.Doing; d != nil {
			d.Started, d.Deadline, d.Began.At = d.Started.Add(-jump), d.Deadline.Add(-jump), d.Began.At-passed
			if err := w.m.store.Save(r); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	w.start()
}

func endJobs(w *world) {
	dirs, _ := w.root.Glob("/var/lib/waagent/azguest/ext/jobs/*")
	for _, dir := range dirs {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		job.End(ctx, w.root.Path(dir))
		cancel()
	}
}

// TestSEC5AfterRestart: after a restart, the agent still enforces the deadline,
// by a clock that can't be set.
func TestSEC5AfterRestart(t *testing.T) {
	t.Parallel()
	const tenYears = 10 * 365 * 24 * time.Hour
	for _, jump := range []time.Duration{-tenYears, 0, tenYears} {
		t.Run(jump.String(), func(t *testing.T) {
			t.Parallel()
			w, gs := stuck(t, "kill -STOP $super", time.Hour, time.Hour)
			// The wall clock jumps; by the monotonic clock the deadline is over.
			meanwhile(w, jump, 3*time.Hour)
			w.m.Offer(gs)
			s := w.await("the end", func(s Snapshot) bool { return s.Key == gs.Key() && s.Converged && w.m.settled() })
			if got, want := show(s), "P.Bad 1.0 NotReady 1011 | 0 error 1011\nP.Dep 1.0 NotReady -1 | 0 error -1\n"; got != want {
				t.Errorf("got %s want %s", got, want)
			}
			if n := countCalls(w.calls(), "enable"); n != 1 {
				t.Errorf("%d enables: %q", n, w.calls())
			}
		})
	}
}

// TestSEC5StoredTime: no times in a record let a command run for longer than the
// longest timeout.
func TestSEC5StoredTime(t *testing.T) {
	t.Parallel()
	times := Timeouts{}.filled()
	now := time.Now()
	for _, tc := range []struct {
		d    store.Doing
		want time.Duration
	}{
		{store.Doing{Started: now, Deadline: now.Add(time.Minute)}, time.Minute},
		{store.Doing{Started: now, Deadline: now.Add(1000 * time.Hour)}, 900 * time.Second},
		{store.Doing{Started: now.Add(-1000 * time.Hour), Deadline: now}, 900 * time.Second},
	} {
		if got := times.limit(tc.d); got != tc.want {
			t.Errorf("%v, want %v", got, tc.want)
		}
	}
	if !times.overdue(store.Doing{Job: "x", Started: now, Deadline: now.Add(-time.Hour)}) {
		t.Error("a deadline before the start is not overdue")
	}
}

// TestSEC5Overdue: while a command is overdue, the report says so, and why.
func TestSEC5Overdue(t *testing.T) {
	t.Parallel()
	w, gs := stuck(t, "kill -STOP $super", time.Hour, 10*time.Hour)
	meanwhile(w, 0, time.Hour+time.Minute)
	w.m.Offer(gs)
	s := w.await("the report", func(s Snapshot) bool { return strings.Contains(message(s, 0), "AZ-EXT-OVERDUE") })
	const why = "the supervisor did not kill the command at its deadline: it was stopped by a signal; the agent kills both 10h0m0s after the deadline"
	if m := message(s, 0); !strings.Contains(m, why) {
		t.Errorf("message %q", m)
	}
	for _, d := range w.m.Details() {
		if want := d.Name == "P.Bad"; strings.Contains(d.Overdue, why) != want {
			t.Errorf("%s: overdue %q", d.Name, d.Overdue)
		}
	}
	if did, err := w.m.Cancel(t.Context(), "p.bad", ""); err != nil || !strings.Contains(did, "stopped P.Bad: enable") {
		t.Errorf("cancel: %q, %v", did, err)
	}
	w.await("the end", func(s Snapshot) bool { return s.Converged && w.m.settled() })
}

// given is the goal state of a case.
type given struct{ gs *protocol.GoalState }

func (g *given) offer(w *world, hs ...protocol.Handler) {
	g.gs = w.state(hs...)
	w.m.Offer(g.gs)
}

// done waits until nothing is left to be run.
func (g *given) done(w *world, hs ...protocol.Handler) {
	g.offer(w, hs...)
	w.await("goal state processed", func(s Snapshot) bool { return s.Key == g.gs.Key() && w.m.settled() })
}

// TestSEC5Cancel: a cancellation by the operator stops the processing of an
// extension in any state, and affects no other extension.
func TestSEC5Cancel(t *testing.T) {
	if testing.Short() {
		t.Skip("starts dozens of engines")
	}
	t.Parallel()
	quiet := func(name string) pkg { return pkg{name: name, version: "1.0", script: simple} }
	endless := func(name string) pkg {
		return pkg{name: name, version: "1.0", script: "log\n[ \"$op\" = enable ] && sleep 600\nexit 0\n"}
	}
	phase := func(w *world, name string, op plan.Op) func(Snapshot) bool {
		return func(Snapshot) bool {
			for _, d := range w.m.Details() {
				if d.Name == name && d.Phase == op && d.PID > 0 {
					return true
				}
			}
			return false
		}
	}
	for _, tc := range []struct {
		name  string
		setup func(w *world, g *given)
		says  string // result of Cancel
		row   string // of P.X, finally
		why   string // its message
		other string // row of P.Y
	}{
		{"running", func(w *world, g *given) {
			w.repo.publish(w.t, endless("P.X"))
			g.offer(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			w.await("enable", phase(w, "P.X", plan.Enable))
		}, "stopped P.X: enable of version 1.0", "P.X 1.0 NotReady 1009 | 0 error 1009", "AZ-EXT-SIGNAL: it was killed by SIGKILL: cancelled by the operator", "success"},
		{"running, stopped", func(w *world, g *given) {
			w.repo.publish(w.t, trick("P.X", "kill -STOP $super"))
			g.offer(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			w.await("the trick", func(Snapshot) bool { return exists(w.base("tricked")) })
		}, "stopped P.X: enable of version 1.0; ", "P.X 1.0 NotReady 1009 | 0 error 1009", "cancelled by the operator", "success"},
		{"running, its supervisor dead", func(w *world, g *given) {
			w.repo.publish(w.t, trick("P.X", "kill -KILL $super"))
			g.offer(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			w.await("the trick", func(Snapshot) bool { return exists(w.base("tricked")) })
		}, "stopped P.X: enable of version 1.0", "P.X 1.0 NotReady 1009 | 0 error 1009", "cancelled by the operator", "success"},
		{"running, after a restart of the agent", func(w *world, g *given) {
			w.repo.publish(w.t, trick("P.X", "kill -STOP $super"))
			g.offer(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			w.await("the trick", func(Snapshot) bool { return exists(w.base("tricked")) })
			w.restart()
			w.m.Offer(g.gs)
			w.await("a report", func(s Snapshot) bool { return s.Key != "" })
		}, "stopped P.X: enable of version 1.0", "P.X 1.0 NotReady 1009 | 0 error 1009", "cancelled by the operator", "success"},
		{"after a restart of the agent, before a goal state", func(w *world, g *given) {
			w.repo.publish(w.t, trick("P.X", "kill -STOP $super"))
			g.offer(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			w.await("the trick", func(Snapshot) bool { return exists(w.base("tricked")) })
			w.restart()
			if did, err := w.m.Cancel(w.t.Context(), "P.X", ""); err != nil || !strings.Contains(did, "stopped P.X") {
				w.t.Errorf("cancel: %q, %v", did, err)
			}
			w.m.Offer(g.gs)
			w.await("processed", func(s Snapshot) bool { return s.Key == g.gs.Key() && w.m.settled() })
		}, "", "P.X 1.0 NotReady 1009 | 0 error 1009", "cancelled by the operator", "success"},
		{"downloading", func(w *world, g *given) {
			w.repo.publish(w.t, quiet("P.X"))
			w.repo.hang, w.repo.hangs = "P.X", make(chan struct{})
			g.offer(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			<-w.repo.hangs
		}, "stopped P.X: fetch of version 1.0", "P.X 1.0 NotReady 1001", "AZ-EXT-CANCELLED: cancelled by the operator while its package was downloaded", "success"},
		{"waiting for a dependency", func(w *world, g *given) {
			w.repo.publish(w.t, quiet("P.X"))
			w.repo.publish(w.t, endless("P.Y"))
			g.offer(w.start(), level(ext("P.X", "1.0", 0), 1, "P.Y"), ext("P.Y", "1.0", 0))
			w.await("waiting", func(s Snapshot) bool { return strings.Contains(message(s, 0), "is waiting for dependency P.Y") })
		}, "P.X was waiting for dependency P.Y; cancelled until the next goal state", "P.X 1.0 NotReady -1", "AZ-EXT-CANCELLED: cancelled by the operator while it waited for dependency P.Y", "transitioning"},
		{"waiting for the package manager", func(w *world, g *given) {
			w.repo.publish(w.t, apt("P.X"))
			y := endless("P.Y")
			y.script += "# apt-get\n"
			w.repo.publish(w.t, y)
			g.offer(w.start(), ext("P.Y", "1.0", 0))
			w.await("the other", phase(w, "P.Y", plan.Enable))
			g.offer(w, ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			w.await("waiting", func(s Snapshot) bool {
				return strings.Contains(message(s, 0), "is waiting for the package manager, used by P.Y")
			})
		}, "P.X was waiting for the package manager, used by P.Y; cancelled", "P.X 1.0 NotReady -1", "AZ-EXT-CANCELLED", "transitioning"},
		{"queued", func(w *world, g *given) {
			w.cfg.Parallel = 1
			w.repo.publish(w.t, quiet("P.X"))
			w.repo.publish(w.t, endless("P.Y"))
			g.offer(w.start(), ext("P.Y", "1.0", 0))
			w.await("the other", phase(w, "P.Y", plan.Enable))
			g.offer(w, ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
			w.await("queued", func(s Snapshot) bool { return strings.Contains(message(s, 0), "is waiting to be processed") })
		}, "P.X was waiting for its turn; cancelled", "P.X 1.0 NotReady -1", "AZ-EXT-CANCELLED", "transitioning"},
		{"held by the operator", func(w *world, g *given) {
			w.cfg.Gate = func() string { return "the operator" }
			w.repo.publish(w.t, quiet("P.X"))
			g.offer(w.start(), ext("P.X", "1.0", 0))
			w.await("held", func(s Snapshot) bool { return s.Waiting != "" })
		}, "P.X was waiting for the operator; cancelled", "P.X 1.0 NotReady -1", "AZ-EXT-CANCELLED", ""},
		{"without an end", func(w *world, g *given) {
			w.repo.publish(w.t, pkg{name: "P.X", version: "1.0", script: "log\n[ \"$op\" = enable ] && { status transitioning; sleep 600 >/dev/null 2>&1 & }\nexit 0\n"})
			g.done(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
		}, "stopped P.X: enable had finished, but the status was still transitioning; ", "P.X 1.0 Ready 0 | 0 error -1", "AZ-EXT-CANCELLED: cancelled by the operator before it reported a final status", "success"},
		{"without a status", func(w *world, g *given) {
			w.repo.publish(w.t, pkg{name: "P.X", version: "1.0", script: "log\n[ \"$op\" = enable ] && { setsid sleep 600 >/dev/null 2>&1 & }\nexit 0\n"})
			g.done(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
		}, "stopped P.X: enable had finished", "P.X 1.0 Ready 0 | 0 error -1", "AZ-EXT-CANCELLED", "success"},
		{"well", func(w *world, g *given) {
			w.repo.publish(w.t, quiet("P.X"))
			g.done(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
		}, "cancel P.X: nothing is running or waiting", "P.X 1.0 Ready 0 | 0 success 0", "", "success"},
		{"failed", func(w *world, g *given) {
			w.repo.publish(w.t, pkg{name: "P.X", version: "1.0", script: "exit 9"})
			g.done(w.start(), ext("P.X", "1.0", 0), ext("P.Y", "1.0", 0))
		}, "cancel P.X: nothing is running or waiting", "P.X 1.0 NotReady 1007", "Non-zero exit code: 9", "success"},
		{"never heard of", func(w *world, g *given) {
			g.done(w.start(), ext("P.Y", "1.0", 0))
		}, "cancel P.X: nothing is running or waiting", "", "", "success"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, quiet("P.Y"))
			w.cfg.Timeouts = Timeouts{Dead: time.Hour, Enable: time.Hour}
			g := &given{}
			tc.setup(w, g)
			gs := g.gs
			t.Cleanup(func() { endJobs(w) })
			if tc.says != "" {
				did, err := w.m.Cancel(t.Context(), "p.X", "")
				if err != nil {
					did = strings.Replace(err.Error(), "p.X", "P.X", 1)
				}
				if !strings.Contains(did, tc.says) || (err != nil) != strings.Contains(tc.says, "nothing is") {
					t.Errorf("it says %q (%v), want %q", did, err, tc.says)
				}
			}
			row := func(s Snapshot, name string) (string, string) {
				for i, h := range s.Handlers {
					if h.Name == name {
						return strings.Split(show(s), "\n")[i], message(s, i)
					}
				}
				return "", ""
			}
			w.await("the end of P.X", func(s Snapshot) bool {
				got, why := row(s, "P.X")
				return strings.HasPrefix(got, tc.row) && strings.Contains(why, tc.why)
			})
			w.await("the other, undisturbed", func(s Snapshot) bool { got, _ := row(s, "P.Y"); return strings.Contains(got, tc.other) })
			if tc.row == "" {
				return
			}
			// Nothing is left to be cancelled, and after a restart it is still not
			// processed in this goal state.
			if did, err := w.m.Cancel(t.Context(), "P.X", ""); err == nil {
				t.Errorf("once more: %q", did)
			}
			w.cfg.Gate = nil
			w.restart()
			w.m.Offer(gs)
			w.await("the same after a restart", func(s Snapshot) bool {
				got, why := row(s, "P.X")
				return s.Key == gs.Key() && strings.HasPrefix(got, tc.row) && strings.Contains(why, tc.why)
			})
			w.await("nothing to do", func(Snapshot) bool {
				return !slices.ContainsFunc(w.m.Details(), func(d Detail) bool { return d.Name == "P.X" && d.Phase != "" })
			})
			if got, _ := row(w.m.Status(), "P.X"); !strings.HasPrefix(got, tc.row) {
				t.Errorf("after a restart: %s", got)
			}
		})
	}
}

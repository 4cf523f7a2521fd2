package extensions

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/extensions/policy"
	"github.com/azguest/azguest/protocol"
)

// slow is a script that reports success a moment after enable has returned.
const slow = `log
[ "$op" = enable ] && { status transitioning; (sleep 0.2; log finished; status success) >/dev/null 2>&1 & }
exit 0
`

func named(script string, names ...string) []pkg {
	var ps []pkg
	for _, n := range names {
		ps = append(ps, pkg{name: n, version: "1.0", script: strings.ReplaceAll(script, "log", `log "`+n+`"`)})
	}
	return ps
}

// TestSequencing is process_dependency_chain_extensions_properly: a level is
// processed when the one below has reported success.
func TestSequencing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, named(slow, "P.A", "P.B", "P.C")...).start()
	s := w.offer(level(ext("P.C", "1.0", 0), 2, "P.B"), level(ext("P.A", "1.0", 0), 0), level(ext("P.B", "1.0", 0), 1, "P.A"))
	var order []string
	for _, c := range w.calls() {
		f := strings.Fields(c)
		order = append(order, strings.Join(f[1:2], "")+" "+strings.Join(f[3:], " "))
	}
	at := func(s string) int { return slices.Index(order, s) }
	if !(at("enable P.A finished") < at("install P.B") && at("enable P.B finished") < at("install P.C")) || at("enable P.A finished") < 0 {
		t.Errorf("order %q", order)
	}
	if strings.Count(show(s), "success") != 3 {
		t.Errorf("report %s", show(s))
	}
}

// TestDependencyFails: dependants of a failed extension fail at once, others
// run.
func TestDependencyFails(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, script, message string }{
		{"enable fails", "log\n[ \"$op\" = enable ] && exit 1\nexit 0\n", "Skipping processing of extensions since execution of dependent extension P.Bad failed"},
		{"status error", "log\n[ \"$op\" = enable ] && status error\nexit 0\n", "Dependent Extension P.Bad did not succeed. Status was error"},
		{"status garbage", "log\n[ \"$op\" = enable ] && { echo '{' > status/$seq.status; touch -d '1 hour ago' status/$seq.status; }\nexit 0\n", "Dependent Extension P.Bad did not succeed. Status was error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, append(named(simple, "P.Dep", "P.Other", "P.Last"), pkg{name: "P.Bad", version: "1.0", script: tc.script})...).start()
			s := w.processed(level(ext("P.Bad", "1.0", 0), 0), level(ext("P.Dep", "1.0", 0), 1, "P.Bad"),
				level(ext("P.Other", "1.0", 0), 1, "P.Unknown"), level(ext("P.Last", "1.0", 0), 2, "P.Dep"))
			lines := strings.Split(show(s), "\n")
			want := []string{"P.Dep 1.0 NotReady -1 | 0 error -1", "P.Other 1.0 Ready 0 | 0 success 0", "P.Last 1.0 NotReady -1 | 0 error -1", ""}
			if diff := cmp.Diff(want, lines[1:]); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if m := message(s, 1); m != tc.message {
				t.Errorf("message %q, want %q", m, tc.message)
			}
			// A retry happens with the next goal state.
			w.repo.publish(t, pkg{name: "P.Bad", version: "1.1", script: simple})
			s = w.offer(level(ext("P.Bad", "1.1", 1), 0), level(ext("P.Dep", "1.0", 1), 1, "P.Bad"),
				level(ext("P.Other", "1.0", 0), 1), level(ext("P.Last", "1.0", 1), 2, "P.Dep"))
			if strings.Count(show(s), "success") != 4 {
				t.Errorf("after the next goal state: %s", show(s))
			}
		})
	}
}

// TestDependencyWaits: waiting for a dependency is limited, and reported.
func TestDependencyWaits(t *testing.T) {
	t.Parallel()
	t.Run("transitioning", func(t *testing.T) { t.Parallel(); dependencyWaits(t, "status transitioning", "transitioning") })
	t.Run("no status file", func(t *testing.T) { t.Parallel(); dependencyWaits(t, ":", "warning") })
}

func dependencyWaits(t *testing.T, says, last string) {
	never := pkg{name: "P.Never", version: "1.0", script: "log\n[ \"$op\" = enable ] && { " + says + "; while [ -d \"$base\" ]; do sleep 0.1; done >/dev/null 2>&1 & }\nexit 0\n"}
	want := "Dependent Extension P.Never did not reach a terminal state within the allowed timeout. Last status was " + last
	// On a slow machine, the wait may end before enable has run or the test has
	// seen the report.
	for most := 800 * time.Millisecond; ; most *= 4 {
		w := newWorld(t, append(named(simple, "P.Dep"), never)...)
		w.cfg.Timeouts.Depend = most
		w.start()
		w.m.Offer(w.state(ext("P.Never", "1.0", 0), level(ext("P.Dep", "1.0", 0), 1)))
		waited := false
		s := w.await("given up", func(s Snapshot) bool {
			waited = waited || len(s.Handlers) == 2 && strings.Contains(message(s, 1), "is waiting for dependency P.Never") && s.Handlers[1].Extension.Status == handler.Transitioning
			return len(s.Handlers) == 2 && s.Handlers[1].Status == "NotReady"
		})
		if waited && message(s, 1) == want {
			return
		}
		if most > patience/4 {
			t.Fatalf("the wait was not reported (%v), or message %q", waited, message(s, 1))
		}
	}
}

// TestUninstallFirst: removals come before installations, and dependants are
// removed before their dependencies.
func TestUninstallFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t, named(simple, "P.A", "P.B", "P.C")...).start()
	w.offer(level(ext("P.A", "1.0", 0), 0), level(ext("P.B", "1.0", 0), 1))
	w.clearCalls()
	w.offer(level(gone(ext("P.A", "1.0", 0)), 0), ext("P.C", "1.0", 0), level(gone(ext("P.B", "1.0", 0)), 1))
	want := []string{
		"1.0 disable 0 P.B", "1.0 uninstall 0 P.B", "1.0 disable 0 P.A", "1.0 uninstall 0 P.A", "1.0 install 0 P.C", "1.0 enable 0 P.C",
	}
	if diff := cmp.Diff(want, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

// TestGates: goal states on hold, with unsupported features, with extensions
// switched off, and behind a gate.
func TestGates(t *testing.T) {
	t.Parallel()
	t.Run("on hold", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, named(simple, "P.A", "P.B")...).start()
		w.offer(ext("P.A", "1.0", 0))
		w.clearCalls()
		gs := w.state(ext("P.A", "1.0", 1), ext("P.B", "1.0", 0))
		gs.OnHold = true
		w.m.Offer(gs)
		s := w.await("held", func(s Snapshot) bool { return s.Key == gs.Key() })
		if got, want := show(s), "P.A 1.0 Ready 0 | 1 transitioning 0\n"; got != want {
			t.Errorf("got %s want %s", got, want)
		}
		s = w.offer(ext("P.A", "1.0", 1), ext("P.B", "1.0", 0))
		if strings.Count(show(s), "success") != 2 {
			t.Errorf("released: %s", show(s))
		}
	})
	t.Run("on hold after a failure and a restart", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, pkg{name: "P.Bad", version: "1.0", script: "exit 9"}, pkg{name: "P.Dep", version: "1.0", script: simple}).start()
		s := w.processed(ext("P.Bad", "1.0", 0), level(ext("P.Dep", "1.0", 0), 1, "P.Bad"))
		if got, want := show(s), "P.Bad 1.0 NotReady 1007\nP.Dep 1.0 NotReady -1 | 0 error -1\n"; got != want {
			t.Errorf("got %s want %s", got, want)
		}
		w.restart()
		gs := w.state(ext("P.Bad", "1.0", 1), ext("P.Dep", "1.0", 1))
		gs.OnHold = true
		w.m.Offer(gs)
		s = w.await("held", func(s Snapshot) bool { return s.Key == gs.Key() })
		if got, want := show(s), "P.Bad 1.0 Installing 0 | 1 transitioning 0\nP.Dep 1.0 Installing 0 | 1 transitioning 0\n"; got != want {
			t.Errorf("an earlier failure is reported for a goal state on hold:\n%s", got)
		}
	})
	t.Run("Fact22 required features", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, named(simple, "P.A", "P.B")...).start()
		w.offer(ext("P.A", "1.0", 0))
		w.clearCalls()
		gs := w.state(ext("P.B", "1.0", 0))
		gs.RequiredFeatures = []string{"MultipleExtensionsPerHandler", "Telepathy", "Magic"}
		w.m.Offer(gs)
		s := w.await("refused", func(s Snapshot) bool { return s.Key == gs.Key() })
		want := &protocol.GoalStateStatus{Code: 2001, SeqNo: gs.SeqNo, Message: "Failing GS incarnation_2 as Unsupported features found: Telepathy, Magic"}
		if s.GoalState != nil {
			s.GoalState.Done = time.Time{}
		}
		if diff := cmp.Diff(want, s.GoalState); diff != "" {
			t.Errorf("goal state (-want +got):\n%s", diff)
		}
		if got, want := show(s), "P.A 1.0 Ready 0 | 0 success 0\n"; got != want || w.calls() != nil {
			t.Errorf("got %s want %s; ran %q", got, want, w.calls())
		}
		// The next goal state finds everything unchanged.
		if got, want := show(w.offer(ext("P.A", "1.0", 0))), "P.A 1.0 Ready 0 | 0 success 0\n"; got != want || w.calls() != nil {
			t.Errorf("got %s want %s; ran %q", got, want, w.calls())
		}
	})
	t.Run("Fact10 outdated", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, named(simple, "P.A", "P.B")...).start()
		w.offer(ext("P.A", "1.0", 1))
		w.clearCalls()
		gs := w.state(ext("P.A", "1.0", 0), ext("P.B", "1.0", 0))
		gs.Outdated = true
		w.m.Offer(gs)
		s := w.await("reported", func(s Snapshot) bool { return s.Key == gs.Key() })
		if got := show(s); !strings.HasPrefix(got, "P.A 1.0 Ready 0 | 0 ") {
			t.Errorf("report %s", got)
		}
		// The goal state is older than the handler, which is still reported.
		gs = w.state(ext("P.B", "1.0", 0))
		gs.Outdated = true
		w.m.Offer(gs)
		s = w.await("reported", func(s Snapshot) bool { return s.Key == gs.Key() })
		if got, want := show(s), "P.A 1.0 Ready 0 | 1 success 0\n"; got != want {
			t.Errorf("got %s want %s", got, want)
		}
		if s := w.offer(ext("P.A", "1.0", 1)); w.calls() != nil || !strings.Contains(show(s), "1 success") {
			t.Errorf("ran %q, then %s", w.calls(), show(s))
		}
	})
	t.Run("extensions disabled", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, named(simple, "P.A")...)
		w.cfg.Mode = ModeOff
		w.start()
		s := w.processed(ext("P.A", "1.0", 0))
		if got, want := show(s), "P.A 1.0 NotReady 1009 | 0 error 1009\n"; got != want || w.calls() != nil {
			t.Errorf("got %s want %s; ran %q", got, want, w.calls())
		}
		if m := message(s, 0); m != "Extension 'P.A' will not be processed since extension processing is disabled. To enable extension processing, set Extensions.Enabled=y in '/etc/waagent.conf'" {
			t.Errorf("message %q", m)
		}
		w.stop()
		w.cfg.Mode = ModeOn
		w.start()
		if s := w.offer(ext("P.A", "1.0", 0)); strings.Count(show(s), "success") != 1 {
			t.Errorf("switched on again: %s", show(s))
		}
	})
	t.Run("reported only", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, named(simple, "P.A", "P.B")...)
		w.start()
		if got, want := show(w.offer(ext("P.A", "1.0", 0))), "P.A 1.0 Ready 0 | 0 success 0\n"; got != want {
			t.Fatalf("got %s want %s", got, want)
		}
		w.stop()
		before := len(w.calls())
		w.cfg.Mode = ModeReportOnly
		w.start()
		s := w.processed(ext("P.A", "1.0", 0), ext("P.B", "1.0", 0))
		if got, want := show(s), "P.A 1.0 Ready 0 | 0 success 0\nP.B 1.0 NotReady 1009 | 0 error 1009\n"; got != want || len(w.calls()) != before {
			t.Errorf("got %s want %s; ran %q", got, want, w.calls())
		}
	})
	t.Run("gate", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, named(simple, "P.A")...)
		closed := make(chan struct{})
		w.cfg.Gate = func() string {
			select {
			case <-closed:
				return ""
			default:
				return "cloud-init"
			}
		}
		w.start()
		gs := w.state(ext("P.A", "1.0", 0))
		w.m.Offer(gs)
		if s := w.await("gated", func(s Snapshot) bool { return s.Key == gs.Key() }); s.Waiting != "cloud-init" || s.Converged {
			t.Errorf("waiting %q", s.Waiting)
		}
		close(closed)
		w.m.Wake()
		w.await("run", func(s Snapshot) bool { return s.Converged && strings.Contains(show(s), "success") })
	})
}

// TestPolicy: refusals are reported at once, also those of removals.
func TestPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, named(simple, "P.A", "P.B", "P.C")...)
	w.cfg.Policy.Mode = policy.Enforce
	w.start()
	w.offer(ext("P.B", "1.0", 0))
	writeFile(t, w.root.Path("/etc/waagent_policy.json"), `{"policyVersion":"0.1.0","extensionPolicies":{"allowListedExtensionsOnly":true,"extensions":{"p.a":{}}}}`)
	w.clearCalls()
	s := w.processed(ext("P.A", "1.0", 0), gone(ext("P.B", "1.0", 0)), level(ext("P.C", "1.0", 0), 0))
	want := "P.A 1.0 Ready 0 | 0 success 0\nP.B 1.0 NotReady 1010 | 0 success 0\nP.C 1.0 NotReady 1009 | 0 error 1009\n"
	if diff := cmp.Diff(want, show(s)); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if !exists(w.base("P.B-1.0/run.sh")) {
		t.Error("a handler that must not be uninstalled is gone")
	}
	if diff := cmp.Diff([]string{"1.0 install 0 P.A", "1.0 enable 0 P.A"}, w.calls()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if m := message(s, 2); !strings.Contains(m, "failed to run extension 'P.C' because it is not specified as an allowed extension") || !strings.Contains(m, "/etc/waagent_policy.json") {
		t.Errorf("message %q", m)
	}
	writeFile(t, w.root.Path("/etc/waagent_policy.json"), `{"policyVersion":"0.1.0","oops":1}`)
	s = w.processed(ext("P.A", "1.0", 1))
	if m := message(s, 0); !strings.Contains(m, "[InvalidPolicyError]") || !strings.Contains(m, "oops") {
		t.Errorf("message %q", m)
	}
}

// TestDependencyWithoutSettings: a handler without settings can have a list of
// dependencies, too, and is not affected by others. Found by test/chaos.
func TestDependencyWithoutSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.Bad", version: "1.0", script: "exit 9"}, pkg{name: "P.Good", version: "1.0", script: simple}, pkg{name: "P.Bare", version: "1.0", script: simple}).start()
	bare := ext("P.Bare", "1.0", 0)
	bare.Settings, bare.Level, bare.After = nil, 1, []protocol.Dependency{{Handler: "P.Good"}}
	// It runs when its level does, and fails if its dependency fails.
	late := newWorld(t, append(named(slow, "P.First"), named(simple, "P.Bare")...)...).start()
	after := bare
	after.After = []protocol.Dependency{{Handler: "P.First"}}
	late.offer(after, ext("P.First", "1.0", 0))
	if calls := late.calls(); len(calls) != 5 || !strings.Contains(calls[2], "finished") || !strings.Contains(calls[3], "P.Bare") {
		t.Errorf("order %q", calls)
	}
	after.After = []protocol.Dependency{{Handler: "P.Bad"}}
	if s := w.processed(ext("P.Bad", "1.0", 0), after); show(s) != "P.Bad 1.0 NotReady 1007\nP.Bare 1.0 NotReady -1\n" {
		t.Errorf("report %s", show(s))
	}
	s := w.processed(ext("P.Bad", "1.0", 0), ext("P.Good", "1.0", 0), bare)
	for _, h := range s.Handlers {
		if want := map[string]string{"P.Bad": "NotReady", "P.Good": "Ready", "P.Bare": "Ready"}[h.Name]; h.Status != want {
			t.Errorf("%s is %s, want %s", h.Name, h.Status, want)
		}
	}
}

// TestSameGoalStateOnceMore: the platform client delivers a goal state again
// when its certificates have changed. Waiting extensions keep waiting and are
// then enabled. Found by test/chaos.
func TestSameGoalStateOnceMore(t *testing.T) {
	t.Parallel()
	sign := t.TempDir() + "/go"
	waiting := pkg{name: "P.Slow", version: "1.0", script: `log
[ "$op" = enable ] && { status transitioning; (until [ -e ` + sign + ` ]; do sleep 0.02; done; status success) >/dev/null 2>&1 & }
exit 0
`}
	w := newWorld(t, append(named(simple, "P.Dep"), waiting)...).start()
	handlers := []protocol.Handler{ext("P.Slow", "1.0", 0), level(ext("P.Dep", "1.0", 0), 1)}
	gs := w.state(handlers...)
	w.m.Offer(gs)
	w.await("waiting", func(s Snapshot) bool {
		return len(s.Handlers) == 2 && strings.Contains(message(s, 1), "is waiting for dependency P.Slow")
	})
	again := *gs
	again.Handlers = slices.Clone(handlers)
	w.m.Offer(&again)
	w.await("taken", func(Snapshot) bool { return len(w.m.offers) == 0 })
	if err := os.WriteFile(sign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.await("both", func(s Snapshot) bool { return s.Converged && w.m.settled() })
	if got := show(s); strings.Count(got, "success") != 2 {
		t.Errorf("report %s", got)
	}
}

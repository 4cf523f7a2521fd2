package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/status"
)

func problemOf(a *Agent, what string) status.Item {
	all := a.live.copy().Problems
	if i := slices.IndexFunc(all, func(p status.Item) bool { return p.What == what }); i >= 0 {
		return all[i]
	}
	return status.Item{}
}

// TestERR2PartsEndAlone: a part that fails, panics or returns is shown with a
// code and restarted with pauses, and the others are not affected.
func TestERR2PartsEndAlone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		end  func() error
		code string
	}{
		"error": {func() error { return errors.New("no such directory") }, codePart},
		"panic": {func() error { panic("nobody thought of this") }, "AZ-AGENT-FAULT"},
		"end":   {func() error { return nil }, codePart},
	} {
		synctest.Test(t, func(t *testing.T) {
			a := testAgent(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			bad, good, once := 0, 0, 0
			var starts []time.Time
			done := make(chan struct{})
			go func() {
				defer close(done)
				a.runParts(ctx,
					part{name: "bad", run: func(ctx context.Context) error {
						starts = append(starts, time.Now())
						if bad++; bad <= 10 {
							return tc.end()
						}
						<-ctx.Done()
						return context.Cause(ctx)
					}},
					part{name: "good", run: func(ctx context.Context) error {
						good++
						<-ctx.Done()
						return context.Cause(ctx)
					}},
					part{name: "once", once: true, run: func(context.Context) error { once++; return nil }},
				)
			}()
			time.Sleep(10 * time.Second)
			if p := problemOf(a, "part bad"); p.Code != tc.code || !strings.Contains(p.Message, "bad is not running") {
				t.Errorf("%s: shown: %+v, want %s", name, p, tc.code)
			}
			time.Sleep(time.Hour)
			if p := problemOf(a, "part bad"); p.Code != "" {
				t.Errorf("%s: it runs for an hour, and is shown: %+v", name, p)
			}
			cancel()
			<-done
			if bad != 11 || good != 1 || once != 1 {
				t.Errorf("%s: bad was started %d times, good %d, once %d; want 11, 1, 1", name, bad, good, once)
			}
			for i, s := range starts[1:] {
				if gap := s.Sub(starts[i]); gap < partFirst || gap > partMax {
					t.Errorf("%s: start %d came after %v", name, i+1, gap)
				}
			}
		})
	}
}

// TestWatchdogSaysThatAPartHangs: a job that hangs ends the process, with the
// reason in status, log and events, and the next process reports it.
func TestWatchdogSaysThatAPartHangs(t *testing.T) {
	t.Parallel()
	for _, managed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var ended time.Time
			a := testAgent(t, nil)
			if managed {
				a.Hung = func() { ended = time.Now() }
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				a.runParts(ctx, part{name: "watchdog", run: a.watchdog}, part{name: "reporter", run: a.reporter})
			}()
			// A job that works for an hour, and then waits for something that
			// its context does not end.
			stuck := make(chan struct{})
			end := a.pulse.begin(jobGoalState, time.Second)
			start := time.Now()
			sched, err := startJobs(ctx, a.Log, []periodicJob{{jobGoalState, time.Second, func(context.Context) error {
				defer a.pulse.beat(jobGoalState)
				if time.Since(start) > time.Hour {
					<-stuck
				}
				return nil
			}}})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if p := problemOf(a, "watchdog"); p.Code != "" || !ended.IsZero() {
				t.Errorf("while all is well: %+v, ended %v", p, ended)
			}
			time.Sleep(20 * time.Minute)
			if p := problemOf(a, "watchdog"); p.Code != codeHung || !strings.Contains(p.Message, jobGoalState) {
				t.Errorf("shown: %+v, want %s", p, codeHung)
			}
			if took := ended.Sub(start.Add(time.Hour)); managed && (took < hungAfter || took > hungAfter+2*time.Minute) {
				t.Errorf("ended %v after the hang, want %v", took, hungAfter)
			}
			saved, err := status.Load(a.paths.Snapshot)
			if err != nil || !slices.Contains(saved.Overall.Codes, codeHung) {
				t.Errorf("codes in the snapshot: %v, %v", saved.Overall.Codes, err)
			}
			if b, err := a.Root.ReadFile(hungStacks); err != nil || !strings.Contains(string(b), "TestWatchdogSaysThatAPartHangs") {
				t.Errorf("no stacks: %v", err)
			}
			if n, err := a.spool.Take(10); err != nil || len(n) == 0 || !strings.Contains(n[0].Message, codeHung) {
				t.Errorf("events: %+v, %v", n, err)
			}
			close(stuck) // it continues
			time.Sleep(5 * time.Minute)
			if p := problemOf(a, "watchdog"); p.Code != "" {
				t.Errorf("still shown: %+v", p)
			}
			end()
			cancel()
			if err := sched.Shutdown(); err != nil {
				t.Error(err)
			}
			<-done

			next := testAgent(t, nil)
			next.Root = a.Root
			next.afterHang()
			p := problemOf(next, "watchdog")
			if told := p.Code == codeHung && strings.Contains(p.Message, jobGoalState); told != managed {
				t.Errorf("managed %v: after the restart: %+v", managed, p)
			}
			if next.Root.Exists(hungFile) {
				t.Error("the record of the hang is left and would be reported again")
			}
		})
	}
}

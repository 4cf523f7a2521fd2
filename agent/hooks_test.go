package agent

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/hook"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/test/fabric"
)

// TestHooksGoOn: a run whose record cannot be written is shown as a problem, and
// goes on as soon as it can be.
func TestHooksGoOn(t *testing.T) {
	t.Parallel()
	event := func(t *testing.T, a *Agent, x hook.Runner, r status.HookRun) {
		t.Helper()
		w := newEventWatch(a, x, nil)
		c := newEventCase(w, r)
		c.tell(t.Context(), nil)
		w.all.Wait()
	}
	for name, tc := range map[string]struct {
		key string
		run func(t *testing.T, a *Agent, x hook.Runner, r status.HookRun)
	}{
		"startup": {hook.Startup + "-", func(t *testing.T, a *Agent, x hook.Runner, _ status.HookRun) {
			t.Helper()
			a.startupHooks(t.Context(), x)
		}},
		"earlier boot": {"run-1", func(t *testing.T, a *Agent, x hook.Runner, r status.HookRun) {
			t.Helper()
			r.Boot, r.Scripts = "earlier", []status.HookScript{{Name: "10-a", State: status.HookPending}}
			a.resumeHooks(t.Context(), x, []status.HookRun{r})
		}},
		"event": {"event-1", event},
		"first seen as started": {"event-2", func(t *testing.T, a *Agent, x hook.Runner, r status.HookRun) {
			t.Helper()
			r.Event.Status = "Started"
			event(t, a, x, r)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := testAgent(t, fabric.New(t))
				a.showHooks(nil)
				if err := a.Root.MkdirAll(hook.Dir+"/startup", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := a.Root.WriteFile(hook.Dir+"/startup/10-a", []byte("#!/bin/sh\n"), 0o777); err != nil { // is refused
					t.Fatal(err)
				}
				x := a.hookRunner()
				if err := x.Store.Open(); err != nil {
					t.Fatal(err)
				}
				runs := a.Root.Path("/var/lib/waagent/azguest/hooks/runs")
				if err := os.Remove(runs); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(runs, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				r := x.Store.New(tc.key, hook.Freeze, "", a.Root.BootID(), nil, nil)
				r.Event = &status.HookEvent{ID: "1", Type: "Freeze", Status: "Scheduled"}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					tc.run(t, a, x, r)
				}()
				time.Sleep(time.Minute)
				if !a.live.shows("hook " + tc.key) {
					t.Error("no problem is shown")
				}
				if err := os.Remove(runs); err != nil {
					t.Fatal(err)
				}
				if err := x.Store.Open(); err != nil {
					t.Fatal(err)
				}
				<-ended
				if got, ok := x.Store.Load(tc.key); !ok || got.Ended.IsZero() || a.live.shows("hook "+tc.key) {
					t.Errorf("problem shown: %v; record %v: %+v", a.live.shows("hook "+tc.key), ok, got)
				}
			})
		})
	}
}

// TestStartupScriptsOfTheNextBoot: a startup script that is installed while the
// machine runs waits for the next boot, whether there were others or not.
func TestStartupScriptsOfTheNextBoot(t *testing.T) {
	t.Parallel()
	a := testAgent(t, fabric.New(t))
	a.showHooks(nil)
	x := a.hookRunner()
	if err := x.Store.Open(); err != nil {
		t.Fatal(err)
	}
	a.startupHooks(t.Context(), x) // there are none
	if err := a.Root.MkdirAll(hook.Dir+"/startup", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := a.Root.WriteFile(hook.Dir+"/startup/10-a", []byte("#!/bin/sh\n"), 0o777); err != nil { // is refused
		t.Fatal(err)
	}
	a.startupHooks(t.Context(), x)
	runs, err := x.Store.List()
	if err != nil || len(runs) != 1 || !runs[0].Empty() || runs[0].Ended.IsZero() || len(a.live.copy().Hooks.Runs) > 0 {
		t.Errorf("%+v, %v; shown: %+v", runs, err, a.live.copy().Hooks)
	}
	if err := a.Root.Remove("/var/lib/waagent/azguest/hooks/runs/" + runs[0].Key + ".json"); err != nil { // as in the next boot
		t.Fatal(err)
	}
	a.startupHooks(t.Context(), x)
	if r, ok := x.Store.Load(runs[0].Key); !ok || len(r.Scripts) != 1 || r.Scripts[0].State != status.HookRefused {
		t.Errorf("the next boot: %+v", r)
	}
}

// TestAcknowledgementProblemEndsWithTheEvent: what went wrong with an event is no
// problem any more when the event is over.
func TestAcknowledgementProblemEndsWithTheEvent(t *testing.T) {
	t.Parallel()
	for code, state := range map[int]string{400: status.AckFailed, 404: status.AckFailed, 403: "", 410: "", 429: "", 500: "", 503: ""} {
		synctest.Test(t, func(t *testing.T) {
			f := fabric.New(t)
			if _, err := f.Fail(fabric.Fault{Kind: "*", Status: code}); err != nil {
				t.Fatal(err)
			}
			a := testAgent(t, f)
			defer a.platform.Close()
			a.showHooks(nil)
			x := a.hookRunner()
			if err := x.Store.Open(); err != nil {
				t.Fatal(err)
			}
			r := x.Store.New("event-1", hook.Freeze, "", "", nil, nil)
			r.Event = &status.HookEvent{ID: "1", Type: "Freeze", Status: "Scheduled", Here: true}
			w := newEventWatch(a, x, nil)
			c := newEventCase(w, r)
			if err := c.acknowledge(t.Context(), "test"); err != nil {
				t.Fatal(err)
			}
			if got := c.run.Ack; (got == nil) != (state == "") || got != nil && got.State != state || !a.live.shows(c.ackProblem()) {
				t.Errorf("status %d: %+v, shown %v", code, got, a.live.shows(c.ackProblem()))
			}
			c.tell(t.Context(), nil)
			w.all.Wait()
			if a.live.shows(c.ackProblem()) || !c.over.Load() {
				t.Errorf("status %d: shown after the event; over: %v", code, c.over.Load())
			}
		})
	}
}

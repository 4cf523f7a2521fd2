package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/hook"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/provisioning"
)

// ShutdownUnit is the unit whose stop runs the shutdown scripts. It is active
// while the machine runs; the agent starts it, so that it costs nothing where
// hooks are switched off.
const ShutdownUnit = "azguest-shutdown.service"

// Codes of hooks and scheduled events.
const (
	codeHookUnit      = "AZ-HOOK-UNIT"
	codeEventService  = "AZ-EVENT-SERVICE"
	codeEventDocument = "AZ-EVENT-DOCUMENT"
	codeEventAck      = "AZ-EVENT-ACK"
)

// shownRuns is how many runs the status shows.
const shownRuns = 10

// hookRunner returns what runs scripts. The agent's own scripts have scopes of
// their own, so that they outlive it.
func (a *Agent) hookRunner() hook.Runner {
	return hook.Runner{
		Store: hook.Store{Root: a.Root, Lib: a.cfg.Paths.Lib}, Launcher: a.Launcher, Scope: cgroup.HasSystemd(),
		Log: a.Log.With().Str("component", "hooks").Logger(),
	}
}

// runHooks runs the startup scripts once in each boot, and those for scheduled
// events, until the context ends. It waits for provisioning, which may find that
// the disk has the records of another machine.
func (a *Agent) runHooks(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.provisionedLatch.opened:
	}
	x := a.hookRunner()
	if err := x.Store.Open(); err != nil {
		return fmt.Errorf("directory for records of hooks: %w", err)
	}
	if err := x.Store.Prune(time.Now()); err != nil {
		a.Log.Warn().Err(err).Msg("could not remove old records of hooks")
	}
	runs, err := x.Store.List()
	if err != nil {
		a.Log.Warn().Err(err).Str("code", codeState).Msg("record of a hook not readable")
	}
	a.showHooks(runs)
	a.startShutdownUnit(ctx)
	ctx, end := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer func() {
		end()
		// wait: all of it ends with the context
		work.Wait()
	}()
	work.Go(func() {
		defer crash.Guard()
		a.resumeHooks(ctx, x, runs)
		a.startupHooks(ctx, x)
	})
	work.Go(func() {
		defer crash.Guard()
		a.tidyHooks(ctx, x.Store)
	})
	return newEventWatch(a, x, runs).run(ctx)
}

// startupHooks runs the startup scripts, unless this boot has had them, and
// continues what an earlier process has begun. That there are none is recorded,
// too: a script that is installed later must not run in the middle of a boot,
// whenever the agent is restarted or updated.
func (a *Agent) startupHooks(ctx context.Context, x hook.Runner) {
	boot := a.Root.BootID()
	key := hook.Startup + "-" + boot
	r, known := x.Store.Load(key)
	if !known {
		scripts, err := hook.Find(a.Root, hook.Startup)
		r = x.Store.New(key, hook.Startup, a.vmID(), boot, scripts, err)
		if r.Empty() {
			r.Ended = r.Seen
			if err := x.Store.Save(r); err != nil {
				a.Log.Debug().Err(err).Msg("could not record that there are no startup scripts")
			}
			return
		}
		if !a.insist(ctx, key, func() error { return x.Store.Save(r) }) {
			return
		}
	}
	a.finishRun(ctx, x, r)
}

// finishRun runs the scripts of a record that have not been run, if there is a
// record and something is left.
func (a *Agent) finishRun(ctx context.Context, x hook.Runner, r status.HookRun) {
	if r.Key == "" || !r.Ended.IsZero() {
		return
	}
	a.endRun(ctx, x, r, time.Time{})
}

// endRun runs scripts until the time is up.
func (a *Agent) endRun(ctx context.Context, x hook.Runner, r status.HookRun, until time.Time) {
	a.showRun(r)
	if a.insist(ctx, r.Key, func() (err error) {
		r, err = x.All(ctx, r, a.cfg.Hooks.Timeout, until, a.showRun)
		return err
	}) {
		a.logRun(r)
	}
}

// retryRecord is the pause before a record is written again.
const retryRecord = 2 * time.Second

// insist does something that needs the record of a run until it succeeds: a full
// disk at boot must not be the end of the startup scripts. It returns false if
// the context ends.
func (a *Agent) insist(ctx context.Context, key string, do func() error) bool {
	for {
		err := do()
		if ctx.Err() != nil {
			return false
		}
		a.hooksStopped(key, err)
		if err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retryRecord):
		}
	}
}

// resumeHooks ends what an earlier process has begun, apart from scheduled events
// and this boot's startup: the scripts after an event run now, those of an
// earlier boot's start or shutdown are over.
func (a *Agent) resumeHooks(ctx context.Context, x hook.Runner, runs []status.HookRun) {
	for _, r := range runs {
		switch {
		case !r.Ended.IsZero() || strings.HasPrefix(r.Key, status.EventKey):
		case strings.HasPrefix(r.Key, hook.Ended+"-"):
			a.finishRun(ctx, x, r)
		case r.Boot != a.Root.BootID():
			a.endRun(ctx, x, r, time.Now())
		}
	}
}

// hooksStopped reports that a run cannot go on, because its record cannot be
// written; without an error, that it goes on.
func (a *Agent) hooksStopped(key string, err error) {
	what := "hook " + key
	if shown := a.live.shows(what); shown == (err != nil) {
		return
	}
	if err != nil {
		a.Log.Error().Err(err).Str("code", codeState).Str("run", key).Msg("scripts of a hook cannot be run, it is tried again")
	}
	a.live.problem(what, codeState, fixOf(codeState), err)
}

// logRun writes how a run has ended.
func (a *Agent) logRun(r status.HookRun) {
	var failed []string
	for _, s := range r.Scripts {
		if s.Code != "" {
			failed = append(failed, s.Name+": "+s.Error)
		}
	}
	level, code := zerolog.InfoLevel, ""
	if c, bad := r.Failed(); bad {
		level, code = zerolog.WarnLevel, c
	}
	a.Log.WithLevel(level).Str("hook", r.Hook).Str("run", r.Key).Int("scripts", len(r.Scripts)).Func(func(e *zerolog.Event) {
		if code != "" {
			e.Str("code", code).Strs("failed", failed)
		}
		if r.Refused != "" {
			e.Str("refused", r.Refused)
		}
	}).Msg("scripts of a hook have ended")
	a.live.note("hook "+r.Hook, fmt.Sprintf("%d scripts, %d failed", len(r.Scripts), len(failed)))
}

// startShutdownUnit has systemd run the shutdown scripts when the machine goes
// down.
func (a *Agent) startShutdownUnit(ctx context.Context) {
	if !cgroup.HasSystemd() {
		return
	}
	_, err := a.Runner.Run(ctx, host.Cmd{Name: "systemctl", Args: []string{"--no-block", "start", ShutdownUnit}, Timeout: 30 * time.Second})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("start %s: %w", ShutdownUnit, err)
		if scripts, ferr := hook.Find(a.Root, hook.Shutdown); ferr == nil && len(scripts) == 0 {
			a.Log.Debug().Err(err).Msg("shutdown scripts would not be run")
			return
		}
		a.Log.Warn().Err(err).Str("code", codeHookUnit).Msg("shutdown scripts will not be run")
	}
	a.live.problem("shutdown scripts", codeHookUnit, fixOf(codeHookUnit), err)
}

// tidyHooks keeps the output within limits of what scripts have left running,
// and shows runs of other processes: those that an administrator has started.
func (a *Agent) tidyHooks(ctx context.Context, s hook.Store) {
	var keeper job.Keeper
	var seen time.Time
	pruned := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
		}
		if err := keeper.Tidy(a.Root.Path(s.Jobs())); err != nil {
			a.Log.Debug().Err(err).Msg("could not shorten the output of scripts")
		}
		if time.Since(pruned) >= time.Hour {
			pruned = time.Now()
			if err := s.Prune(pruned); err != nil {
				a.Log.Debug().Err(err).Msg("could not remove old records of hooks")
			}
		}
		if at := s.Changed(); !at.Equal(seen) {
			seen = at
			a.showOthers(s)
		}
	}
}

// showOthers shows runs that this process has not started.
func (a *Agent) showOthers(s hook.Store) {
	runs, err := s.List()
	if err != nil {
		a.Log.Debug().Err(err).Msg("record of a hook not readable")
	}
	for _, r := range runs[max(0, len(runs)-shownRuns):] {
		if r.Event == nil && !r.Empty() && r.Key != hook.Startup+"-"+a.Root.BootID() {
			a.showRun(r)
		}
	}
}

// vmID returns the id of this virtual machine.
func (a *Agent) vmID() string {
	id, err := provisioning.Identify(a.Root)
	if err != nil {
		return ""
	}
	return id.ID
}

// showHooks shows all runs in the status.
func (a *Agent) showHooks(runs []status.HookRun) {
	a.live.set(func(s *status.Snapshot) { s.Hooks = &status.Hooks{Acknowledge: a.cfg.Hooks.Acknowledge} })
	own := slices.DeleteFunc(slices.Clone(runs), func(r status.HookRun) bool { return r.Foreign() || r.Empty() })
	for _, r := range own[max(0, len(own)-shownRuns):] {
		a.showRun(r)
	}
}

// showRun shows one run in the status, and its failure until a later run of the
// same hook has succeeded.
func (a *Agent) showRun(r status.HookRun) {
	a.live.set(func(s *status.Snapshot) {
		h := *s.Hooks
		h.Runs = slices.Clone(h.Runs)
		if i := slices.IndexFunc(h.Runs, func(o status.HookRun) bool { return o.Key == r.Key }); i >= 0 {
			h.Runs[i] = r
		} else if h.Runs = append(h.Runs, r); len(h.Runs) > shownRuns {
			// What is about other machines gives way first.
			out := max(0, slices.IndexFunc(h.Runs, status.HookRun.Foreign))
			h.Runs = slices.Delete(h.Runs, out, out+1)
		}
		s.Hooks = &h
	})
	what := "scripts of " + hook.Dir + "/" + r.Hook
	code, bad := r.Failed()
	switch {
	case bad && (r.Boot == a.Root.BootID() || r.Hook == hook.Shutdown):
		a.live.problem(what, code, "agentctl events show "+r.Key, errors.New(failures(r)))
	case !bad && !r.Ended.IsZero():
		a.live.problem(what, "", "", nil)
	}
}

// failures says in one line what has not worked.
func failures(r status.HookRun) string {
	list := []string{}
	if r.Refused != "" {
		list = append(list, r.Refused)
	}
	for _, s := range r.Scripts {
		if s.Code != "" {
			list = append(list, s.Name+" "+s.State)
		}
	}
	return strings.Join(list, ", ")
}

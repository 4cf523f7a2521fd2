package hook

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/agent/status"
)

// A Runner runs scripts, one after the other.
type Runner struct {
	Store    Store
	Launcher job.Launcher
	// Scope gives each script a systemd scope of its own.
	Scope bool
	Log   zerolog.Logger
}

// errOverdue ends the wait for a script whose supervisor does not end it.
var errOverdue = errors.New("not ended at its time limit")

const (
	grace   = 20 * time.Second // of the supervisor to end its script
	endTime = 10 * time.Second // of ending both
)

// Start starts one script of a run whose record is on disk, and saves the record
// before. The script gets at most timeout. An error is in the record.
func (x Runner) Start(r status.HookRun, i int, timeout time.Duration) (status.HookRun, error) {
	r.Scripts = slices.Clone(r.Scripts)
	sc := &r.Scripts[i]
	// The file is judged again: it may have changed since it was found.
	file, err := judge(x.Store.Root, path.Join(Dir, r.Hook, sc.Name))
	if err != nil {
		sc.State, sc.Exit, sc.Error, sc.Code = status.HookRefused, -1, err.Error(), CodeFile
		return r, x.Store.Save(r)
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	id := fmt.Sprintf("%x", b)
	dir := x.Store.job(id)
	sc.State, sc.Job, sc.Boot, sc.Dir = status.HookRunning, id, x.Store.Root.BootID(), path.Join(x.Store.Jobs(), id)
	sc.Started, sc.TimeoutS = time.Now().UTC(), timeout.Seconds()
	// First on disk: a script is never started twice.
	if err := x.Store.Save(r); err != nil {
		sc.State, sc.Job, sc.Dir = status.HookPending, "", ""
		return r, fmt.Errorf("save that %s is started: %w", sc.Name, err)
	}
	if err := x.start(dir, r, file, id, timeout); err != nil {
		sc.State, sc.Exit, sc.Error, sc.Code, sc.Finished = status.HookFailed, -1, err.Error(), CodeFailed, time.Now().UTC()
		return r, x.Store.Save(r)
	}
	return r, nil
}

// start starts the job.
func (x Runner) start(dir string, r status.HookRun, file, id string, timeout time.Duration) error {
	if err := host.Root("").MkdirAll(dir, 0o700); err != nil {
		return err
	}
	input, err := json.Marshal(Input(r))
	if err != nil {
		return err
	}
	if err := host.Root(dir).WriteFile("event.json", append(input, '\n'), 0o600); err != nil {
		return err
	}
	j := job.Job{
		ID: id, Dir: "/", Env: environment(r), Timeout: timeout, What: "azguest " + r.Hook + " script",
		Shell: "exec " + quote(x.Store.Root.Path(file)) + " " + r.Hook + " <" + quote(dir+"/event.json"),
	}
	if x.Scope {
		j.Scope = job.ScopeName(id)
	}
	return x.Launcher.Start(dir, j)
}

// quote makes one word of a text for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Await waits for the end of a script that was started, by this process or an
// earlier one, and returns the record with its result, which is not saved yet.
// It returns an error only when the context ends; the script continues.
func (x Runner) Await(ctx context.Context, r status.HookRun, i int) (status.HookRun, error) {
	r.Scripts = slices.Clone(r.Scripts)
	sc := &r.Scripts[i]
	if sc.Boot != x.Store.Root.BootID() {
		sc.State, sc.Exit, sc.Code, sc.Error = status.HookInterrupted, -1, CodeLost, "the machine was restarted while it ran"
		return r, nil
	}
	limit := time.Duration(sc.TimeoutS*float64(time.Second)) + grace
	if left := time.Until(sc.Started.Add(limit)); left > 0 && left < limit {
		limit = max(left, grace)
	}
	dir := x.Store.job(sc.Job)
	wait, stop := context.WithTimeoutCause(ctx, limit, errOverdue)
	res, err := job.Wait(wait, dir)
	stop()
	if err != nil {
		if !errors.Is(err, errOverdue) {
			return r, err
		}
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer stop()
		ending := job.End(end, dir)
		res = job.Result{Class: job.Timeout, Code: -1, Error: job.Overdue(ending.Supervisor), Finished: time.Now().UTC()}
	}
	take(sc, res)
	if err := job.Reported(dir); err != nil {
		// Only that its output takes more room than it should.
		x.Log.Debug().Err(err).Str("script", sc.Name).Msg("could not shorten the output of a script")
	}
	return r, nil
}

// take fills in how a script ended.
func take(sc *status.HookScript, res job.Result) {
	sc.Exit, sc.Signal, sc.Finished = res.Code, res.Signal, res.Finished
	if res.Finished.IsZero() {
		sc.Finished = time.Now().UTC()
	}
	sc.Code, sc.Error = CodeFailed, res.Error
	switch res.Class {
	case job.OK:
		sc.State, sc.Code, sc.Error = status.HookOK, "", ""
	case job.Timeout:
		sc.State = status.HookTimeout
		sc.Error = strings.TrimSpace("ended after " + time.Duration(sc.TimeoutS*float64(time.Second)).Round(time.Millisecond).String() + ". " + res.Error)
	case job.Signal:
		sc.State, sc.Error = status.HookFailed, "ended by "+res.Signal
	case job.Lost:
		sc.State, sc.Code, sc.Error = status.HookInterrupted, CodeLost, "its result is not known: "+res.Error
	case job.NotStarted:
		sc.State, sc.Error = status.HookFailed, "could not be started: "+res.Error
	default:
		sc.State, sc.Error = status.HookFailed, "exit status "+strconv.Itoa(res.Code)
	}
}

// All runs every script of a run that has not been run, until the time is up,
// and ends the record. changed is told after each change. The error is that of
// the context, or says that the record cannot be saved.
func (x Runner) All(ctx context.Context, r status.HookRun, timeout time.Duration, until time.Time, changed func(status.HookRun)) (status.HookRun, error) {
	for i := range r.Scripts {
		var err error
		if r.Scripts[i].State == status.HookPending {
			left := timeout
			if !until.IsZero() {
				left = min(left, time.Until(until))
			}
			if left < leastTime {
				r = Skipped(r, "the time was up")
				break
			}
			if r, err = x.Start(r, i, left); err != nil {
				return r, err
			}
			changed(r)
		}
		if r.Scripts[i].State != status.HookRunning {
			continue
		}
		if r, err = x.Await(ctx, r, i); err != nil {
			return r, err
		}
		if err := x.Store.Save(r); err != nil {
			return r, fmt.Errorf("save the result of %s: %w", r.Scripts[i].Name, err)
		}
		changed(r)
	}
	r.Ended = time.Now().UTC()
	if err := x.Store.Save(r); err != nil {
		return r, fmt.Errorf("save the end of %s: %w", r.Key, err)
	}
	changed(r)
	return r, nil
}

// Abort ends the script that runs, and the record, also if the context has ended.
func (x Runner) Abort(ctx context.Context, r status.HookRun) (status.HookRun, error) {
	r = Skipped(r, "interrupted")
	for i := range r.Scripts {
		sc := &r.Scripts[i]
		if sc.State != status.HookRunning {
			continue
		}
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		ending := job.End(end, x.Store.job(sc.Job))
		stop()
		sc.State, sc.Exit, sc.Code, sc.Error, sc.Finished = status.HookInterrupted, -1, CodeFailed, "it was ended", time.Now().UTC()
		if len(ending.Left) > 0 {
			sc.Error = "its processes cannot be ended"
		}
	}
	r.Ended = time.Now().UTC()
	return r, x.Store.Save(r)
}

// Skipped returns the record with no script left to start.
func Skipped(r status.HookRun, why string) status.HookRun {
	r.Scripts = slices.Clone(r.Scripts)
	for i := range r.Scripts {
		if sc := &r.Scripts[i]; sc.State == status.HookPending {
			sc.State, sc.Exit, sc.Error, sc.Code = status.HookSkipped, -1, why, CodeFailed
		}
	}
	return r
}

// A Document is what a script gets on its standard input, as one JSON object.
type Document struct {
	Hook  string            `json:"hook"`
	Run   string            `json:"run"`
	VM    string            `json:"vm_id,omitempty"`
	Boot  string            `json:"boot_id,omitempty"`
	Event *status.HookEvent `json:"event,omitempty"`
}

// Input returns what the scripts of a run get.
func Input(r status.HookRun) Document {
	return Document{Hook: r.Hook, Run: r.Key, VM: r.VM, Boot: r.Boot, Event: r.Event}
}

// environment returns the same as variables.
func environment(r status.HookRun) []string {
	env := []string{"AZGUEST_HOOK=" + r.Hook, "AZGUEST_EVENT_RUN=" + r.Key, "AZGUEST_EVENT_VM_ID=" + r.VM}
	e := r.Event
	if e == nil {
		return env
	}
	notBefore := ""
	if !e.NotBefore.IsZero() {
		notBefore = e.NotBefore.Format(time.RFC3339)
	}
	if e.Outcome != "" {
		env = append(env, "AZGUEST_EVENT_OUTCOME="+e.Outcome)
	}
	return append(env,
		"AZGUEST_EVENT_ID="+e.ID, "AZGUEST_EVENT_TYPE="+e.Type, "AZGUEST_EVENT_STATUS="+e.Status, "AZGUEST_EVENT_NOT_BEFORE="+notBefore,
		"AZGUEST_EVENT_SOURCE="+e.Source, "AZGUEST_EVENT_DESCRIPTION="+e.Description, "AZGUEST_EVENT_DURATION="+strconv.Itoa(e.DurationS))
}

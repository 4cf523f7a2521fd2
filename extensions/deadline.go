package extensions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/store"
)

// The supervisor of a command keeps its deadline. But the command runs as root
// and can stop its supervisor, or freeze it, or take its files away; and then
// the handler, and all that wait for it, would wait for ever. So the agent keeps
// each deadline a second time, some seconds later, and by then believes nobody
// but the kernel.

var (
	errOverdue   = errors.New("the command is overdue")
	errCancelled = errors.New("cancelled by the operator")
)

// endTime bounds the end of a command that is killed. What is not dead by then
// hangs in the kernel, and the handlers that wait must not.
const endTime = 10 * time.Second

// limit is how long the command may run. The record is a file, and nothing in
// a file lets a command run for longer than any may.
func (t Timeouts) limit(d store.Doing) time.Duration {
	return min(d.Deadline.Sub(d.Started), max(t.Install, t.Update, t.Enable, t.Disable, t.Uninstall, t.DisableToUninstall))
}

// late is when the report says that a command ought to have ended. The agent's
// time begins a little before the supervisor's, and a kill takes a moment.
func (t Timeouts) late() time.Duration { return min(t.Grace/4, 5*time.Second) }

// overdue says that the command ought to have ended.
func (t Timeouts) overdue(d store.Doing) bool {
	return d.Job != "" && d.Began.Left(t.limit(d)+t.late()) <= 0
}

// follow waits for the end of a command: its own, that of its deadline, or the
// operator's. The error is that of an agent that ends.
func (w *work) follow(ctx context.Context, d store.Doing) (job.Result, error) {
	dir := w.m.store.JobDir(d.Job)
	t := w.m.cfg.Timeouts
	var err error
	for _, after := range []time.Duration{t.late(), t.Grace} {
		var res job.Result
		wait, stop := context.WithTimeoutCause(ctx, d.Began.Left(t.limit(d)+after), errOverdue)
		res, err = job.Wait(wait, dir)
		stop()
		if err == nil {
			return res, nil
		}
		if !errors.Is(err, errOverdue) {
			break
		}
		poke(w.m.changed) // the report says so
	}
	cancelled := errors.Is(err, errCancelled)
	if ctx.Err() != nil && !cancelled {
		return job.Result{}, err // the command goes on; the next start follows it
	}
	// The end of the agent does not end this: half a job is worse than a late
	// stop.
	kill, stop := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer stop()
	end := job.End(kill, dir)
	w.ended(end)
	if res, ok := job.ResultOf(dir); ok && !cancelled {
		return res, nil // it came at the last moment
	}
	res := job.Result{Class: job.Timeout, Code: -1, Error: job.Overdue(end.Supervisor), Started: d.Started, Finished: time.Now().UTC()}
	if cancelled {
		res.Class, res.Signal, res.Error = job.Signal, "SIGKILL", errCancelled.Error()
	}
	if len(end.Left) > 0 {
		res.Error += fmt.Sprintf("; processes %v did not exit after SIGKILL", end.Left)
	}
	w.m.log.Warn().Str("handler", w.name).Str("op", string(d.Task.Op)).Str("supervisor", end.Supervisor).Int("killed", end.Killed).Ints("left", end.Left).
		Msg("command and supervisor were killed: " + res.Error)
	if err := job.Close(dir, res); err != nil {
		w.m.log.Debug().Err(err).Msg("could not save the result of the job")
	}
	return res, nil
}

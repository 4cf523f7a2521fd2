package extensions

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/azguest/azguest/agent/host/job"
	"github.com/azguest/azguest/extensions/store"
)

// The supervisor of a command enforces its deadline. But the command runs as
// root: it can stop or freeze its supervisor, or remove its files, and then the
// handler and its dependants would wait for ever. So the agent enforces each
// deadline, too, a few seconds later, and relies only on the kernel for that.

var (
	errOverdue   = errors.New("the command is overdue")
	errCancelled = errors.New("cancelled by the operator")
	errOutdated  = errors.New("no longer wanted by the goal state")
)

// endTime is how long to wait for a killed command to end. A process that is
// still there hangs in the kernel, and other handlers must not wait for it.
const endTime = 10 * time.Second

// limit is how long the command may run: as recorded, but at most the longest
// of all timeouts, in case the record on disk is wrong.
func (t Timeouts) limit(d store.Doing) time.Duration {
	return min(d.Deadline.Sub(d.Started), max(t.Install, t.Update, t.Enable, t.Disable, t.Uninstall, t.DisableToUninstall))
}

// late is how long after its deadline a command is reported as overdue. The
// agent's timer starts a little before the supervisor's, and a kill takes a
// moment.
func (t Timeouts) late() time.Duration { return min(t.Grace/4, 5*time.Second) }

// overdue reports whether the command should have ended by now.
func (t Timeouts) overdue(d store.Doing) bool {
	return d.Job != "" && d.Began.Left(t.limit(d)+t.late()) <= 0
}

// follow waits for a command, and kills it if it is overdue or cancelled by the
// operator. It returns an error only if the agent itself is stopping.
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
		poke(w.m.changed) // the report shows that it is overdue
	}
	cancelled := errors.Is(err, errCancelled)
	if ctx.Err() != nil && !cancelled {
		return job.Result{}, err // the command goes on; the next start of the agent waits for it
	}
	// Kill the command completely even if the agent is stopping.
	kill, stop := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer stop()
	end := job.End(kill, dir)
	w.ended(end)
	if res, ok := job.ResultOf(dir); ok && !cancelled {
		return res, nil // the result came just before the kill
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

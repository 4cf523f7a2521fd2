package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/agent/host/process"
)

// look is how often the guard checks the trial.
const look = 200 * time.Millisecond

// Guard is the process that watches a hand-over. main calls it with the
// arguments after GuardArg; the result is the exit status.
func Guard(ctx context.Context, args []string, log io.Writer) int {
	if len(args) != 4 {
		fmt.Fprintln(log, "usage: azguest "+GuardArg+" ROOT LIB TRIAL LOCK")
		return 2
	}
	// Ignore signals that stop the agent's unit or come from a terminal: the
	// guard must see the trial to its end.
	process.Swallow(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	if err := process.Normalize(); err != nil {
		fmt.Fprintln(log, "update guard:", err)
	}
	g := guard{Store: Store{Root: host.Root(args[0]), Lib: args[1]}, id: args[2], lock: args[3]}
	if err := g.run(ctx); err != nil {
		fmt.Fprintln(log, "update guard:", err)
		return 1
	}
	return 0
}

type guard struct {
	Store
	id, lock string
}

func (g guard) run(ctx context.Context) error {
	t := g.trial()
	if t == nil {
		return errors.New("trial not found")
	}
	if cgroup.HasSystemd() {
		if _, err := (cgroup.Scope{Name: "azguest-update-guard.scope", Slice: "azure.slice", Description: "Watch over an update of azguest"}).Join(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "update guard: continue in the agent's unit:", err)
		}
	}
	// Counted from the guard's start, not from Began: the clock may be set
	// meanwhile.
	deadline := time.NewTimer(t.Health)
	defer deadline.Stop()
	if err := process.Announce(); err != nil {
		return err
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		reason := ""
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if !process.Alive(t.PID, t.Ticks) {
				reason = "it exited before the platform accepted a status report"
			}
		case <-deadline.C:
			reason = fmt.Sprintf("the platform accepted no status report within %v", t.Health)
		}
		now := g.trial()
		if now == nil {
			return nil // committed or abandoned
		}
		if reason != "" {
			return g.rollBack(ctx, *t, reason)
		}
	}
}

// trial returns the trial that this guard watches, nil once it is decided. A
// state that can't be read counts as undecided.
func (g guard) trial() *Trial {
	st, err := g.Load()
	if err != nil {
		return &Trial{ID: g.id}
	}
	if st.Trial == nil || st.Trial.ID != g.id {
		return nil
	}
	return st.Trial
}

// rollBack saves the result before it kills the process, so that the version
// can't be committed any more.
func (g guard) rollBack(ctx context.Context, t Trial, reason string) error {
	ours := true
	var installed Program
	err := g.Change(func(st *State) bool {
		installed = st.Installed
		if st.Trial == nil || st.Trial.ID != g.id {
			ours = false
			return false
		}
		st.rollBack(reason, time.Now().UTC())
		return true
	})
	if !ours {
		// Committed at the last moment, or rolled back by an agent that
		// started.
		return nil
	}
	if err != nil {
		// Continue: a full disk must not leave a dead agent in place.
		err = fmt.Errorf("save rollback: %w", err)
	}
	// Without time limit: a process that hangs in the kernel holds the lock,
	// and only the guard would start an agent once it is gone.
	if kerr := process.Kill(ctx, t.PID, t.Ticks); kerr != nil {
		return errors.Join(err, kerr)
	}
	if t.Managed {
		return err // the service manager starts the installed binary
	}
	if g.locked() || installed.Path == "" {
		return err // another agent is running, or there is nothing to start
	}
	return errors.Join(err, process.Detach(ctx, process.Daemon{Path: installed.Path, Args: t.Args, Env: os.Environ()}))
}

// locked reports whether an agent runs.
func (g guard) locked() bool {
	f, err := files.Open(g.lock)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

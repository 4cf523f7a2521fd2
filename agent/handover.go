package agent

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/agent/update"
)

// Handover is the error with which Run ends when another version of the agent
// is to take over this process. The caller must call Exec or Abandon.
type Handover struct {
	to    update.Program
	trial update.Trial
	store update.Store
	args  []string
	fd    int
}

func (h *Handover) Error() string { return "hand over to version " + h.to.Version }

// Exec replaces the program of this process with the other version; it returns
// only if that failed. env is the environment.
func (h *Handover) Exec(env []string) error {
	if h.fd > 0 {
		env = append(without(env, LockVariable), LockVariable+"="+strconv.Itoa(h.fd))
	}
	err := update.Exec(h.to, h.args, env)
	if h.trial.ID != "" {
		return h.store.Abandon(h.trial, err)
	}
	return errors.Join(err, h.store.Spoilt(h.to, err))
}

// Abandon gives the hand-over up because the agent was asked to stop.
func (h *Handover) Abandon() error {
	why := errors.New("agent stopped")
	if err := h.store.Abandon(h.trial, why); !errors.Is(err, why) {
		return err
	}
	return nil
}

func without(env []string, name string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, name+"=") {
			out = append(out, e)
		}
	}
	return out
}

// StartVersion returns the hand-over to a newer version if one was committed
// and should run instead of this installed one, else nil. It must be called
// before anything else of the agent runs; args are its arguments. After an
// error, which is logged, this version runs.
func StartVersion(version string, cfg *config.Config, root host.Root, args []string, log zerolog.Logger) *Handover {
	me, err := update.Identify(version, root.Path(cfg.Paths.Lib))
	if err != nil {
		log.Warn().Err(err).Msg("could not check for a newer version")
		return nil
	}
	store := update.Store{Root: root, Lib: cfg.Paths.Lib}
	next, err := store.Start(me, cfg.Update.Mode, cfg.Update.Pin)
	if err != nil {
		log.Warn().Err(err).Msg("update state not usable, continuing with this version")
		return nil
	}
	if next == nil {
		return nil
	}
	return &Handover{to: *next, store: store, args: args}
}

// passOn returns the hand-over that ends Run, or nil.
func (a *Agent) passOn(ctx context.Context) *Handover {
	a.upd.mu.Lock()
	h := a.upd.handover
	a.upd.mu.Unlock()
	if h == nil || !errors.Is(context.Cause(ctx), errHandover) {
		return nil
	}
	fd, err := a.upd.lock.Keep()
	if err != nil {
		a.Log.Warn().Err(err).Msg("lock not passed on, another agent could start")
	}
	h.fd, a.upd.kept = fd, true
	return h
}

const lockFile = "/run/azguest/agent.lock" // status.DefaultPaths has it, too

// acquire takes the lock, or takes it over from the previous version.
func (a *Agent) acquire(ctx context.Context) (*status.Lock, error) {
	if a.LockFD > 0 {
		if lock, err := status.Adopt(a.LockFD, a.paths.Lock); err == nil {
			a.upd.lock = lock
			return lock, nil
		}
	}
	lock, err := status.Acquire(ctx, a.paths.Lock)
	if _, taken := errors.AsType[*status.LockedError](err); err != nil && !taken && ctx.Err() == nil && !lacking(err) {
		// It is not a lock file, so no process can hold it.
		a.Log.Error().Err(a.Root.SetAside(lockFile, err)).Str("code", codeState).Msg("state file of the agent not usable")
		lock, err = status.Acquire(ctx, a.paths.Lock)
	}
	a.upd.lock = lock
	return lock, err
}

package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/provisioning"
)

// access is who the platform lets in for a while.
type access struct {
	turn sync.Mutex // held while accounts are changed

	mu    sync.Mutex // guards what follows
	users []provisioning.JITUser
	asked bool      // a goal state has been seen: before, nothing may be removed
	due   time.Time // when the accounts have to be looked at again; zero: not
}

// set takes the list of a goal state over.
func (x *access) set(doc *protocol.RemoteAccess) {
	var users []provisioning.JITUser
	if doc != nil && doc.Err != nil {
		return // the list could not be had, which is not an empty one
	}
	if doc != nil {
		for _, u := range doc.Users {
			users = append(users, provisioning.JITUser{Name: u.Name, Password: u.Password, Expires: u.Expires, Err: u.Err})
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.users, x.asked, x.due = users, true, time.Now()
}

func (x *access) take(now time.Time) ([]provisioning.JITUser, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.asked || x.due.IsZero() || now.Before(x.due) {
		return nil, false
	}
	x.due = provisioning.NextJIT(x.users, now)
	return x.users, true
}

func (x *access) again(at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.due.IsZero() || at.Before(x.due) {
		x.due = at
	}
}

// checkAccounts runs accounts beside the caller, one at a time.
func (a *Agent) checkAccounts(ctx context.Context) {
	if !a.access.turn.TryLock() {
		return
	}
	go func() {
		defer a.access.turn.Unlock()
		if err := a.accounts(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error().Err(err).Msg("just-in-time access")
		}
	}()
}

// accounts adds and removes just-in-time users. It is asked at every poll,
// and looks at the accounts only when the platform changed the list or one
// expires (spec/protocol §9).
func (a *Agent) accounts(ctx context.Context) error {
	now := time.Now()
	if !a.gate.opened.Load() {
		return nil // the first account of the machine is being made
	}
	users, due := a.access.take(now)
	if !due {
		return nil
	}
	sys, opts := a.system(), a.provisioningOptions()
	f, err := provisioning.Gather(ctx, sys, opts)
	if err != nil {
		a.access.again(now.Add(time.Minute))
		return err
	}
	steps, warnings := provisioning.JITSteps(users, f, opts, now)
	for _, w := range warnings {
		a.Log.Warn().Err(w).Msg("just-in-time access")
	}
	var errs []error
	for _, s := range steps {
		begin := time.Now()
		err := s.Apply(ctx, sys)
		a.events.Emit(event.Event{Kind: event.Operation, Time: begin.UTC(), Op: "RemoteAccessHandling", OK: err == nil, Message: s.String(), Duration: time.Since(begin)})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a.Log.Info().Str("what", s.String()).Msg("just-in-time access")
		a.board.note("access", s.String())
	}
	if len(errs) > 0 {
		a.access.again(now.Add(time.Minute))
	}
	return errors.Join(errs...)
}

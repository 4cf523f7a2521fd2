package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/event"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/provisioning"
)

// jitUsers are the just-in-time users that the platform asks for
// (protocol/SPEC.md §12.2).
type jitUsers struct {
	wake chan struct{} // capacity 1: the accounts have to be checked

	mu     sync.Mutex // guards what follows
	users  []provisioning.JITUser
	listed bool      // a goal state was received; before that, nothing may be removed
	due    time.Time // time of the next check; zero: none is needed
	// ends has the expiry times that a previous process saved; nil until they
	// were read.
	ends map[string]time.Time
}

func newJITUsers() jitUsers { return jitUsers{wake: make(chan struct{}, 1)} }

// askForCheck requests a check of the accounts; it never blocks.
func (x *jitUsers) askForCheck() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// set takes over the list of users of a goal state.
func (x *jitUsers) set(doc *protocol.RemoteAccess) {
	var users []provisioning.JITUser
	if doc != nil && doc.Err != nil {
		return // the list could not be fetched; that does not make it empty
	}
	if doc != nil {
		for _, u := range doc.Users {
			users = append(users, provisioning.JITUser{Name: u.Name, Password: u.Password, Expires: u.Expires, Err: u.Err})
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.users, x.listed, x.due = users, true, time.Now()
}

func (x *jitUsers) takeDue(now time.Time) ([]provisioning.JITUser, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.listed || x.due.IsZero() || now.Before(x.due) {
		return nil, false
	}
	x.due = provisioning.NextJIT(x.users, now)
	return x.users, true
}

// expired returns the saved accounts that have expired while no goal state,
// which has the list, was received yet. Each is returned once. Only one
// goroutine may call it; read returns the saved accounts.
func (x *jitUsers) expired(now time.Time, read func() map[string]time.Time) map[string]time.Time {
	x.mu.Lock()
	unread := !x.listed && x.ends == nil
	x.mu.Unlock()
	var saved map[string]time.Time
	if unread {
		saved = read() // a file, so not under the lock
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.listed {
		return nil
	}
	if x.ends == nil {
		x.ends = saved
	}
	out := map[string]time.Time{}
	for name, end := range x.ends {
		if !now.Before(end) {
			out[name] = end
			delete(x.ends, name)
		}
	}
	return out
}

// putBack makes expired return accounts once more, from at on.
func (x *jitUsers) putBack(ends map[string]time.Time, at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for name := range ends {
		x.ends[name] = at
	}
}

func (x *jitUsers) retryAt(at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.due.IsZero() || at.Before(x.due) {
		x.due = at
	}
}

// runJIT checks the accounts whenever it is asked to, so that polling does not
// wait for useradd.
func (a *Agent) runJIT(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.jit.wake:
		}
		if err := a.updateJIT(ctx); err != nil && ctx.Err() == nil {
			a.Log.Error().Err(err).Msg("just-in-time access")
		}
	}
}

// updateJIT adds and removes just-in-time users. It is called after every poll,
// and checks the accounts only if the platform has changed the list or one
// expires (protocol/SPEC.md §12.2).
func (a *Agent) updateJIT(ctx context.Context) error {
	now := time.Now()
	if ends := a.jit.expired(now, a.savedExpiries); len(ends) > 0 {
		return a.endExpired(ctx, ends, now)
	}
	if !a.startGate.opened.Load() {
		return nil // provisioning may be creating the first account
	}
	users, due := a.jit.takeDue(now)
	if !due {
		return nil
	}
	m := a.machine(provisioning.Identity{})
	f, left, err := jitFacts(ctx, m)
	if err != nil {
		a.jit.retryAt(now.Add(time.Minute))
		return errors.Join(left, err)
	}
	steps, warnings := provisioning.JITSteps(users, f, m.Options, now)
	for _, w := range warnings {
		a.Log.Warn().Err(w).Msg("just-in-time access")
	}
	if err := a.saveExpiries(users, now); err != nil {
		a.Log.Warn().Err(err).Msg("just-in-time access: could not save the list of users")
	}
	if err = errors.Join(left, a.applyJIT(ctx, m, steps)); err != nil {
		a.jit.retryAt(now.Add(time.Minute))
	}
	return err
}

// jitFacts completes interrupted removals of accounts, then returns the facts
// about the machine's accounts. left is the error of the removals: it is
// reported and they are tried again, but it does not keep other accounts from
// being added or removed.
func jitFacts(ctx context.Context, m *provisioning.Machine) (f provisioning.Facts, left, err error) {
	left = m.MendJIT(ctx)
	f, err = m.Gather(ctx)
	return f, left, err
}

// endExpired removes expired accounts without a goal state, because the
// platform may be unreachable for long.
func (a *Agent) endExpired(ctx context.Context, ends map[string]time.Time, now time.Time) error {
	m := a.machine(provisioning.Identity{})
	f, left, err := jitFacts(ctx, m)
	if err == nil {
		err = a.applyJIT(ctx, m, provisioning.EndJIT(slices.Sorted(maps.Keys(ends)), f))
	}
	if err = errors.Join(left, err); err != nil {
		a.jit.putBack(ends, now.Add(time.Minute))
	}
	return err
}

func (a *Agent) jitFile() string { return a.cfg.Paths.Lib + "/azguest/access.json" }

// savedExpiries reads the expiry times that a previous process saved. Accounts
// whose removal has begun count as expired.
func (a *Agent) savedExpiries() map[string]time.Time {
	ends := map[string]time.Time{}
	b, err := a.Root.ReadFile(a.jitFile())
	if err == nil {
		err = json.Unmarshal(b, &ends)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.Log.Warn().Err(err).Msg("just-in-time access: could not read the saved list of users")
		clear(ends)
	}
	if ends == nil {
		ends = map[string]time.Time{} // the file says null
	}
	m := a.machine(provisioning.Identity{})
	for _, h := range m.HalfRemoved() {
		if m.ShortLived(h) {
			ends[h.Name] = time.Time{}
		}
	}
	return ends
}

// saveExpiries saves when the accounts expire, for a later process that can't
// reach the platform.
func (a *Agent) saveExpiries(users []provisioning.JITUser, now time.Time) error {
	ends := map[string]time.Time{}
	for _, u := range users {
		if u.Err == nil && now.Before(u.Expires) {
			ends[u.Name] = u.Expires.UTC()
		}
	}
	have, err := a.Root.ReadFile(a.jitFile())
	if len(ends) == 0 {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return a.Root.Remove(a.jitFile())
	}
	b, err := json.Marshal(ends)
	if err != nil || bytes.Equal(b, have) {
		return err
	}
	return errors.Join(a.Root.MkdirAll(a.cfg.Paths.Lib+"/azguest", 0o700), a.Root.WriteFile(a.jitFile(), b, 0o600))
}

func failure(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

func (a *Agent) applyJIT(ctx context.Context, m *provisioning.Machine, steps []provisioning.Step) error {
	var errs []error
	for _, s := range steps {
		begin := time.Now()
		err := s.Apply(ctx, m)
		a.events.Emit(event.Event{Kind: event.Operation, Time: begin.UTC(), Op: "RemoteAccessHandling", OK: err == nil, Message: s.String() + failure(err), Duration: time.Since(begin)})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		a.Log.Info().Str("what", s.String()).Msg("just-in-time access")
		a.live.note("access", s.String())
	}
	return errors.Join(errs...)
}

package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/azguest/azguest/protocol"
)

// healthReporter sends health reports one at a time. A newer report replaces
// one that was not accepted yet, so that a "Provisioning" that got stuck can
// never arrive after "Ready". A report is tried until the platform accepts it:
// a VM whose Ready got lost is deleted by its creator.
type healthReporter struct {
	send func(context.Context, protocol.Health) error
	// done is called for every accepted report and for every failed try.
	done func(protocol.Health, error)

	mu    sync.Mutex // guards want, stop and empty
	want  *protocol.Health
	stop  func()          // cancels the report being sent; nil if there is none
	empty []chan struct{} // closed when nothing is left to send
	wake  chan struct{}
}

func newHealthReporter(send func(context.Context, protocol.Health) error, done func(protocol.Health, error)) *healthReporter {
	return &healthReporter{send: send, done: done, wake: make(chan struct{}, 1)}
}

// overtake is how long the report being sent may still take once a newer one is
// waiting.
const overtake = 2 * time.Second

// Report asks for h to be sent. It never blocks.
func (r *healthReporter) Report(h protocol.Health) {
	r.mu.Lock()
	r.want = &h
	if r.stop != nil {
		time.AfterFunc(overtake, r.stop)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *healthReporter) pending() *protocol.Health {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.want
}

func (r *healthReporter) sent(h *protocol.Health) {
	r.mu.Lock()
	if r.want == h {
		r.want = nil
		for _, c := range r.empty {
			close(c)
		}
		r.empty = nil
	}
	r.mu.Unlock()
}

func (r *healthReporter) try(ctx context.Context, h protocol.Health) error {
	ctx, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	r.stop = cancel
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.stop = nil
		r.mu.Unlock()
		cancel()
	}()
	return r.send(ctx, h)
}

// withdraw drops the report that was not accepted yet.
func (r *healthReporter) withdraw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.want = nil
	if r.stop != nil {
		r.stop()
	}
	for _, c := range r.empty {
		close(c)
	}
	r.empty = nil
}

// Flush waits until every report that was asked for has been accepted.
func (r *healthReporter) Flush(ctx context.Context) error {
	r.mu.Lock()
	if r.want == nil {
		r.mu.Unlock()
		return nil
	}
	c := make(chan struct{})
	r.empty = append(r.empty, c)
	r.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Run sends until the context ends.
func (r *healthReporter) Run(ctx context.Context) error {
	// The platform gives a first boot about 20 minutes; a fault that clears
	// must be noticed well within one of them.
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 500*time.Millisecond, 30*time.Second
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.wake:
			wait.Reset()
		case <-retry:
		}
		retry = nil
		h := r.pending()
		if h == nil {
			continue
		}
		err := r.try(ctx, *h)
		if err != nil && ctx.Err() == nil && r.pending() != h {
			retry = time.After(0) // a newer one stopped it
			continue
		}
		r.done(*h, err)
		switch {
		case err == nil:
			r.sent(h)
			if r.pending() != nil {
				retry = time.After(0)
			}
		case errors.Is(err, context.Canceled) && ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			retry = time.After(wait.NextBackOff())
		}
	}
}

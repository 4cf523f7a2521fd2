package web

import (
	"context"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/crash"
)

// wakeGap is the least time between two changes of the network that wake
// requests: a DHCP client makes several changes at once. It doubles up to
// wakeGapMax while changes go on, so that a flapping route does not cause a
// busy loop, and is reset after wakeQuiet without a change.
const (
	wakeGap    = time.Second
	wakeGapMax = time.Minute
	wakeQuiet  = 2 * time.Minute
)

// netwatch limits how often a change of addresses or routes wakes requests
// that wait. The client listens to changes only while a request waits that
// could not reach its peer.
type netwatch struct {
	mu   sync.Mutex // guards the fields below
	last time.Time  // when a change was acted upon
	gap  time.Duration
}

// untilNext is how long the next change has to wait.
func (w *netwatch) untilNext() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Until(w.last.Add(w.gap))
}

// acted notes that a change was acted upon.
func (w *netwatch) acted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) > wakeQuiet {
		w.gap = wakeGap / 2
	}
	w.last, w.gap = time.Now(), min(2*w.gap, wakeGapMax)
}

// watch subscribes to changes of the network until end is called. Without
// Routes the channel is nil.
func (c *Client) watch(ctx context.Context) (changed <-chan struct{}, end func()) {
	if c.Routes == nil {
		return nil, func() {}
	}
	next, stop, err := c.Routes()
	if err != nil {
		return nil, func() {} // then only the pace wakes requests
	}
	ch := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer crash.Guard()
		for next(ctx) == nil {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}()
	return ch, func() {
		cancel()
		// wait: next has to return when its context ends
		<-done
		stop()
	}
}

// wait waits for d or, if that comes first, for a change of the network.
func (c *Client) wait(ctx context.Context, d time.Duration, changed <-chan struct{}) (woken bool, err error) {
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	woken = c.waitChange(short, changed)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return woken, nil
}

// waitChange waits for a change of the network, and then until it may be acted
// upon. It returns false if the context ends before there was one.
func (c *Client) waitChange(ctx context.Context, changed <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	}
	late := time.NewTimer(c.netwatch.untilNext())
	defer late.Stop()
	select {
	case <-ctx.Done():
	case <-late.C:
	}
	c.netwatch.acted()
	return true
}

// Moved tells that this machine has changed in a way that may help requests
// that could not reach their peer, so they may be made again at once.
func (c *Client) Moved() { c.faults.retryUnreached() }

// Wait waits for d, or until the network changes; then requests that could not
// reach their peer may be made again at once.
func (c *Client) Wait(ctx context.Context, d time.Duration) (woken bool, err error) {
	changed, end := c.watch(ctx)
	defer end()
	woken, err = c.wait(ctx, d, changed)
	if woken {
		c.faults.retryUnreached()
	}
	return woken, err
}

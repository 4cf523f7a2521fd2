package web

import (
	"context"
	"sync"
	"time"
)

// newsGap is how long nobody is woken again: a DHCP client makes several
// changes at once. It doubles up to newsMax while they go on, so that a route
// that flaps does not make us loop, and two quiet minutes forget.
const (
	newsGap   = time.Second
	newsMax   = time.Minute
	newsQuiet = 2 * time.Minute
)

// news are changes of addresses and routes. Somebody listens only while
// something waits that could not reach its peer.
type news struct {
	mu   sync.Mutex // guards the fields below
	last time.Time
	gap  time.Duration
}

// pause is how long the next change has to wait.
func (n *news) pause() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Until(n.last.Add(n.gap))
}

// heard notes that a change was acted upon.
func (n *news) heard() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.last) > newsQuiet {
		n.gap = newsGap / 2
	}
	n.last, n.gap = time.Now(), min(2*n.gap, newsMax)
}

// listen subscribes until end is called; without anybody to tell the channel
// is nil.
func (c *Client) listen(ctx context.Context) (changed <-chan struct{}, end func()) {
	if c.Routes == nil {
		return nil, func() {}
	}
	next, stop, err := c.Routes()
	if err != nil {
		return nil, func() {} // the pace is all there is, then
	}
	ch := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
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

// doze waits for a time or, earlier, for a change of the network.
func (c *Client) doze(ctx context.Context, d time.Duration, changed <-chan struct{}) (woken bool, err error) {
	short, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	woken = c.hears(short, changed)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return woken, nil
}

// hears waits for a change of the network, and until it may be acted upon. It
// reports false if the context ends before there was one.
func (c *Client) hears(ctx context.Context, changed <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	}
	late := time.NewTimer(c.news.pause())
	defer late.Stop()
	select {
	case <-ctx.Done():
	case <-late.C:
	}
	c.news.heard()
	return true
}

// Rest waits for a time, or until there is a network that was not there
// before; then what could not be reached may be tried at once.
func (c *Client) Rest(ctx context.Context, d time.Duration) (woken bool, err error) {
	changed, end := c.listen(ctx)
	defer end()
	woken, err = c.doze(ctx, d, changed)
	if woken {
		c.gates.hurry()
	}
	return woken, err
}

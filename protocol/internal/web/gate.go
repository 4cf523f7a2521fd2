package web

import (
	"net"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/azguest/azguest/protocol"
)

// The pace of a request that keeps failing (asks U19): quick at first, so
// that a hiccup costs a second, then spread so that no hour sees more than
// hourly attempts.
const (
	firstDelay  = time.Second
	maxDelay    = 50 * time.Second
	hourly      = 20
	burst       = 8 // attempts before they are spread over the hour
	loudEvery   = 10 * time.Minute
	canaryEvery = 45 * time.Second
	maxAfter    = time.Minute // the longest Retry-After we believe
	maxGates    = 1024
)

// gates holds one gate for each kind of request that fails at the moment.
type gates struct {
	mu sync.Mutex // guards m
	m  map[string]*gate
}

// A gate is the memory of a failing kind of request. It is made by the first
// failure and forgotten at the first success.
type gate struct {
	host   string
	pace   backoff.ExponentialBackOff
	tries  []time.Time // of the last hour, oldest first
	total  int
	since  time.Time
	next   time.Time
	err    error
	conn   bool // the peer was not reached at all
	loud   time.Time
	canary time.Time
	// down: the last canary failed, so a good one means something.
	down bool
}

// wait is how long the request has to wait; err is why.
func (gs *gates) wait(key string, now time.Time) (wait time.Duration, err error) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[key]
	if g == nil {
		return 0, nil
	}
	return g.next.Sub(now), g.err
}

// failed records an attempt that failed and says when the next one may be.
// soon lets the first repetition through at once.
func (gs *gates) failed(key, host string, now time.Time, err error, conn, soon bool, after time.Duration) time.Duration {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[key]
	if g == nil {
		if gs.m == nil {
			gs.m = map[string]*gate{}
		}
		if len(gs.m) >= maxGates {
			gs.evict()
		}
		g = &gate{host: host, since: now, pace: backoff.ExponentialBackOff{
			InitialInterval: firstDelay, RandomizationFactor: 0.25, Multiplier: 2, MaxInterval: maxDelay,
		}}
		g.pace.Reset()
		gs.m[key] = g
	}
	for len(g.tries) > 0 && now.Sub(g.tries[0]) >= time.Hour {
		g.tries = g.tries[1:]
	}
	g.tries = append(g.tries, now)
	g.total++
	g.err, g.conn, g.down, g.canary = err, conn, true, now
	delay := g.pace.NextBackOff()
	if soon && g.total == 1 {
		delay = 0
	}
	delay = max(delay, min(after, maxAfter))
	if n := len(g.tries); n >= burst {
		left := g.tries[0].Add(time.Hour).Sub(now)
		delay = max(delay, left/time.Duration(max(1, hourly-n)))
	}
	g.next = now.Add(delay)
	return delay
}

// evict forgets the gate that failed least recently.
func (gs *gates) evict() {
	var oldest string
	for k, g := range gs.m {
		if o := gs.m[oldest]; o == nil || g.next.Before(o.next) {
			oldest = k
		}
	}
	delete(gs.m, oldest)
}

// worked forgets the gate. When there was one the fault has just cleared, and
// whatever else waits for the same machine may try at once.
func (gs *gates) worked(key string, now time.Time) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[key]
	if g == nil {
		return
	}
	delete(gs.m, key)
	for _, o := range gs.m {
		if o.host == g.host && len(o.tries) < hourly {
			o.next = now
		}
	}
}

// reset forgets all gates whose key has the prefix.
func (gs *gates) reset(match func(key string) bool) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for k := range gs.m {
		if match(k) {
			delete(gs.m, k)
		}
	}
}

// fault describes the state of the gate as an error.
func (gs *gates) fault(key, op string, err error, now time.Time, waiting bool) *protocol.Fault {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	f := &protocol.Fault{Op: op, Err: err, Since: now, Tries: 1, Next: now, Loud: true, Waiting: waiting}
	if g := gs.m[key]; g != nil {
		f.Since, f.Tries, f.Next = g.since, g.total, g.next
		f.Loud = g.loud.IsZero() || now.Sub(g.loud) >= loudEvery
		if f.Loud {
			g.loud = now
		}
	}
	return f
}

// probe reports whether a canary is due for the gate, and marks it as sent.
func (gs *gates) probe(key string, now time.Time) (conn, due bool) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[key]
	if g == nil || now.Sub(g.canary) < canaryEvery || len(g.tries) >= hourly {
		return false, false
	}
	g.canary = now
	return g.conn, true
}

// sang records how the canary went; true means that a real attempt is worth
// it now: the machine did not answer before and does again.
func (gs *gates) sang(key string, ok bool) bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[key]
	if g == nil {
		return true
	}
	was := g.down
	g.down = !ok
	return ok && was
}

func hostOf(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

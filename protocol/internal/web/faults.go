package web

import (
	"net"
	"sync"
	"time"

	"github.com/azguest/azguest/protocol"
)

const (
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
	pace   Pace
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
		g = &gate{host: host}
		gs.m[key] = g
	}
	g.err, g.conn, g.canary = err, conn, now
	// A machine that answers at all is only down when its canary says so: one
	// that sings while this request fails says nothing about this request.
	g.down = g.down || conn
	delay := g.pace.Failed(now)
	if soon && g.pace.Total() == 1 {
		delay = 0
	}
	delay = max(delay, min(after, maxAfter))
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
		if o.host == g.host && !o.pace.Spent(now) {
			o.next = now
		}
	}
}

// hurry lets everything try that could not reach its peer: it was another
// network that did not lead there.
func (gs *gates) hurry() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for k, g := range gs.m {
		if g.conn {
			delete(gs.m, k)
		}
	}
}

// unreached reports whether the last attempt did not reach its peer.
func (gs *gates) unreached(key string) bool {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.m[key]
	return g != nil && g.conn
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
		f.Since, f.Tries, f.Next = g.pace.Since(), g.pace.Total(), g.next
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
	if g == nil || now.Sub(g.canary) < canaryEvery || g.pace.Spent(now) {
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

package web

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/azguest/azguest/protocol"
)

const (
	loudEvery   = 10 * time.Minute
	canaryEvery = 45 * time.Second
	maxAfter    = time.Minute // the longest Retry-After that is honoured
	maxFaults   = 1024
)

// faults records everything that fails at the moment: one fault for each kind
// of request, and for each kind of document that arrives but can't be used.
type faults struct {
	mu sync.Mutex // guards m
	m  map[string]*fault
}

// A fault is the record of one kind of request. It is made by the first
// failure and deleted by the first success.
type fault struct {
	host   string // "" for a document
	pace   protocol.Pace
	next   time.Time // no request before, unless a canary succeeds
	err    error
	conn   bool // the peer was not reached at all
	loud   time.Time
	canary time.Time
	// down: the last canary failed, so a success means that something changed.
	down bool
}

// wait returns how long the request has to wait, and the error that is the
// reason.
func (fs *faults) wait(key string, now time.Time) (wait time.Duration, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	if f == nil {
		return 0, nil
	}
	return f.next.Sub(now), f.err
}

// get returns the fault of the key, a new one if there is none. The caller
// holds mu.
func (fs *faults) get(key, host string) *fault {
	if f := fs.m[key]; f != nil {
		return f
	}
	if fs.m == nil {
		fs.m = map[string]*fault{}
	}
	if len(fs.m) >= maxFaults {
		fs.evict()
	}
	f := &fault{host: host}
	fs.m[key] = f
	return f
}

// A failure is an attempt that failed.
type failure struct {
	err   error
	conn  bool          // the peer was not reached
	soon  bool          // the first repetition may follow at once
	after time.Duration // the server asks for this pause
	first time.Duration // of the pace, 0 for the usual one
}

// failed records an attempt that failed and returns how long to wait for the
// next one.
func (fs *faults) failed(key, host string, now time.Time, e failure) time.Duration {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.get(key, host)
	f.err, f.conn, f.canary, f.pace.First = e.err, e.conn, now, e.first
	// A machine that answers at all counts as down only if its canary fails: a
	// canary that succeeds while this request fails says nothing about the
	// request.
	f.down = f.down || e.conn
	delay := f.pace.Failed(now)
	if e.soon && f.pace.Total() == 1 {
		delay = 0
	}
	delay = max(delay, min(e.after, maxAfter))
	f.next = now.Add(delay)
	return delay
}

// unusable records a document that arrived and can't be used. If err is a
// Fault, its request is paced already; the document waits as long as that.
func (fs *faults) unusable(key string, now time.Time, err error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.get(key, "")
	inner, paced := errors.AsType[*protocol.Fault](err)
	if !paced {
		f.err, f.next = err, now.Add(f.pace.Failed(now))
		return
	}
	f.err, f.next = inner.Err, inner.Next
	if !inner.Waiting || f.pace.Total() == 0 {
		f.pace.Failed(now)
	}
}

// evict forgets the fault whose next attempt is due first.
func (fs *faults) evict() {
	var oldest string
	for k, f := range fs.m {
		if o := fs.m[oldest]; o == nil || f.next.Before(o.next) {
			oldest = k
		}
	}
	delete(fs.m, oldest)
}

// cleared forgets the fault. If there was one, other requests that wait for
// the same machine may be made at once.
func (fs *faults) cleared(key string, now time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	if f == nil {
		return
	}
	delete(fs.m, key)
	for _, o := range fs.m {
		if o.host == f.host && o.host != "" && !o.pace.Spent(now) {
			o.next = now
		}
	}
}

// retryUnreached forgets the faults of requests that did not reach their peer,
// so that they are made at once: the network has changed since.
func (fs *faults) retryUnreached() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for k, f := range fs.m {
		if f.conn {
			delete(fs.m, k)
		}
	}
}

// unreached reports whether the last attempt did not reach its peer.
func (fs *faults) unreached(key string) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	return f != nil && f.conn
}

// reset forgets all faults whose key matches.
func (fs *faults) reset(match func(key string) bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for k := range fs.m {
		if match(k) {
			delete(fs.m, k)
		}
	}
}

// describe returns the state of the fault as an error.
func (fs *faults) describe(key, op string, err error, now time.Time, waiting bool) *protocol.Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := &protocol.Fault{Op: op, Err: err, Since: now, Tries: 1, Next: now, Loud: true, Waiting: waiting}
	if f := fs.m[key]; f != nil {
		out.Since, out.Tries, out.Next = f.pace.Since(), f.pace.Total(), f.next
		out.Loud = f.loud.IsZero() || now.Sub(f.loud) >= loudEvery
		if out.Loud {
			f.loud = now
		}
	}
	return out
}

// canaryDue reports whether a canary is due for the fault, and marks it as
// sent.
func (fs *faults) canaryDue(key string, now time.Time) (conn, due bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	if f == nil || now.Sub(f.canary) < canaryEvery || f.pace.Spent(now) {
		return false, false
	}
	f.canary = now
	return f.conn, true
}

// noteCanary records the result of a canary. It returns true if a real attempt
// is worth making now: the machine did not answer before and does again.
func (fs *faults) noteCanary(key string, ok bool) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	if f == nil {
		return true
	}
	was := f.down
	f.down = !ok
	return ok && was
}

// documentKey is the prefix of the keys of documents; no request has such an
// Op.
const documentKey = "document "

// Unusable records that a document arrived and can't be used, or that a part
// of it could not be fetched, and returns the Fault. It is paced like a
// request that fails (protocol/SPEC.md §2.5): the caller asks Paced before the
// next attempt.
func (c *Client) Unusable(document string, err error) error {
	key, now := documentKey+document, time.Now()
	c.faults.unusable(key, now, err)
	_, err = c.faults.wait(key, now)
	return c.faults.describe(key, document, err, now, false)
}

// Paced returns the Fault while the next attempt at a document has to wait.
func (c *Client) Paced(document string) error {
	key, now := documentKey+document, time.Now()
	if wait, err := c.faults.wait(key, now); wait > 0 {
		return c.faults.describe(key, document, err, now, true)
	}
	return nil
}

// Usable forgets that a document could not be used.
func (c *Client) Usable(document string) { c.faults.cleared(documentKey+document, time.Now()) }

func hostOf(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

package web

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/agent/secret"
)

// Limits that hold unless a Request says otherwise.
const (
	DefaultLimit   = 8 << 20
	DefaultTimeout = 10 * time.Second
	DefaultTries   = 6
	// DefaultPatience bounds all attempts of one call together, waiting
	// included: what six attempts of WALinuxAgent add up to.
	DefaultPatience = 31 * time.Second
)

// Forever as Patience repeats until the context ends.
const Forever = time.Duration(-1)

// A Client sends requests through one transport and keeps track of their
// faults.
type Client struct {
	rt       http.RoundTripper
	agent    string
	canary   Canary
	faults   faults
	netwatch netwatch

	// Routes subscribes to changes of addresses and routes; may be nil.
	Routes func() (next func(context.Context) error, end func(), err error)
}

// A Canary finds out cheaply whether a machine is back while a failing request
// has to wait. connect means that the machine could not be reached before, so
// that opening a connection is enough.
type Canary func(ctx context.Context, hostport string, connect bool) error

// New makes a client. canary may be nil. rt must not ask for compression by
// itself; no header is sent to refuse it, as that would be in every request.
func New(rt http.RoundTripper, userAgent string, canary Canary) *Client {
	return &Client{rt: rt, agent: userAgent, canary: canary}
}

// A Request describes one call; zero values mean the defaults.
type Request struct {
	Op          string // names the call in errors and is part of its pacing key
	Method, URL string // GET if empty
	Header      http.Header
	Body        []byte
	Expect      []int // statuses that are an answer besides 200, 201, 202
	Limit       int64 // bytes of body
	Tries       int   // attempts in this call; < 0 is no limit
	Patience    time.Duration
	Timeout     time.Duration // one attempt; for a Sink: without progress
	PerURL      bool          // pace by URL, not by machine
	About       string        // pace by this too: what a relay is asked for
	Retry400    bool          // protocol/SPEC.md §2.3: manifests through the host
	// Sink takes the body of a 200 or 206, which is not kept in memory then. It
	// is called before each attempt and returns headers to add and a function
	// that returns the writer.
	Sink func(attempt int) (http.Header, opener, error)
}

// A Response is an answer that was read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

func (r *Request) key() (key, hostport string) {
	u := r.URL
	if i := strings.IndexAny(u, "?#"); i >= 0 {
		u = u[:i]
	}
	hostport = u
	if _, rest, ok := strings.Cut(u, "://"); ok {
		hostport, _, _ = strings.Cut(rest, "/")
	}
	where := hostport
	if r.PerURL {
		where = u
	}
	about := r.About
	if i := strings.IndexAny(about, "?#"); i >= 0 {
		about = about[:i]
	}
	return r.Op + " " + where + " " + about, hostport
}

// Do makes the call, and repeats it as the Request allows. The error is a
// *protocol.Fault around a *StatusError or a network error, or the cause of
// the context.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	r.Method = cmp.Or(r.Method, http.MethodGet)
	r.Tries = cmp.Or(r.Tries, DefaultTries)
	r.Patience = cmp.Or(r.Patience, DefaultPatience)
	key, hostport := r.key()
	began := time.Now()
	var changed <-chan struct{}
	end := func() {}
	defer func() { end() }()
	for attempt := 0; ; {
		wait, err := c.faults.wait(key, time.Now())
		if changed == nil && wait > 0 && r.Tries != 1 && c.faults.unreached(key) {
			changed, end = c.watch(ctx)
		}
		if wait > 0 && !c.canaryWell(ctx, key, hostport) {
			wait = min(wait, canaryEvery) // wakes up in between for the canary
			if r.Tries == 1 || r.Patience > 0 && time.Since(began)+wait > r.Patience {
				return nil, c.faults.describe(key, r.Op, err, time.Now(), attempt == 0)
			}
			woken, err := c.wait(ctx, wait, changed)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.Op, err)
			}
			if woken {
				c.faults.retryUnreached()
			}
			continue
		}
		attempt++
		resp, err := c.attempt(ctx, &r, attempt, changed)
		if errors.Is(err, errMoved) {
			c.faults.retryUnreached()
			continue
		}
		if err == nil {
			c.faults.cleared(key, time.Now())
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", r.Op, context.Cause(ctx))
		}
		se, isStatus := errors.AsType[*StatusError](err)
		soon := isStatus && (se.Gone() || se.InvalidContainer())
		var after time.Duration
		if isStatus {
			after = se.after
		}
		c.faults.failed(key, hostOf(hostport), time.Now(), err, connectFault(err), soon, after)
		if !retryable(err, r.Retry400) || (r.Tries > 0 && attempt >= r.Tries) {
			return nil, c.faults.describe(key, r.Op, err, time.Now(), false)
		}
	}
}

// canaryWell sends the canary if it is due, and reports whether a real attempt
// is worth it now.
func (c *Client) canaryWell(ctx context.Context, key, hostport string) bool {
	if c.canary == nil {
		return false
	}
	conn, due := c.faults.canaryDue(key, time.Now())
	if !due {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.faults.noteCanary(key, c.canary(ctx, hostport, conn) == nil)
}

// Reset forgets the faults of all requests whose Op is one of ops: what they
// ask for has changed, so they may be made at once.
func (c *Client) Reset(ops ...string) {
	c.faults.reset(func(key string) bool {
		op, _, _ := strings.Cut(key, " ")
		return slices.Contains(ops, op)
	})
}

// Close drops idle connections.
func (c *Client) Close() {
	if t, ok := c.rt.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

var (
	errSlow  = errors.New("no answer in time")
	errMoved = errors.New("network changed")
)

// unreached is the error of an attempt that got no connection.
func unreached(why error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: why} }

// Once makes a single attempt, without pacing.
func (c *Client) Once(ctx context.Context, r Request) (*Response, error) {
	r.Method = cmp.Or(r.Method, http.MethodGet)
	return c.attempt(ctx, &r, 1, nil)
}

// attempt makes a single attempt. While it has no connection, a change of the
// network ends it with errMoved: the peer may now be reached in another way.
func (c *Client) attempt(ctx context.Context, r *Request, n int, changed <-chan struct{}) (*Response, error) {
	timeout := cmp.Or(r.Timeout, DefaultTimeout)
	actx, l := c.limit(ctx, timeout, changed)
	defer l.end()
	req, open, err := c.request(actx, r, n)
	if err != nil {
		return nil, err
	}
	resp, err := c.rt.RoundTrip(req)
	l.connected() // an answer implies it
	if err != nil {
		return nil, neterr(actx, ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if !ok(resp.StatusCode, r.Expect) {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, &StatusError{Status: resp.StatusCode, Body: string(body), after: retryAfter(resp.Header)}
	}
	limit := cmp.Or(r.Limit, DefaultLimit)
	out := &Response{Status: resp.StatusCode, Header: resp.Header}
	if open != nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
		w, err := open(resp.StatusCode, resp.Header)
		if err != nil {
			return nil, &localError{err}
		}
		return out, stream(actx, ctx, w, resp.Body, limit, l.progress)
	}
	if out.Body, err = readBody(resp.Body, resp.ContentLength, limit); err != nil {
		if _, large := errors.AsType[*SizeError](err); large {
			return nil, err
		}
		return nil, neterr(actx, ctx, err)
	}
	return out, nil
}

// limits are the time limits of one attempt.
type limits struct {
	connected func() // call it when there is a connection; ends the limit for dialing
	progress  func() // call it when a piece of the answer arrives; restarts the timeout
	end       func() // releases everything
}

// limit returns the context of one attempt. Connecting has less time than the
// whole attempt, however short that is, so that an unreachable peer is
// recognised as one.
func (c *Client) limit(ctx context.Context, timeout time.Duration, changed <-chan struct{}) (context.Context, limits) {
	actx, cancel := context.WithCancelCause(ctx)
	answer := time.AfterFunc(timeout, func() { cancel(&timeoutError{timeout}) })
	dialing, connected := context.WithCancel(actx)
	dial := time.AfterFunc(min(timeout*4/5, DialTimeout), func() {
		if dialing.Err() == nil {
			cancel(unreached(os.ErrDeadlineExceeded))
		}
	})
	var moved sync.WaitGroup
	if changed != nil {
		moved.Go(func() {
			if c.waitChange(dialing, changed) && dialing.Err() == nil {
				cancel(unreached(errMoved))
			}
		})
	}
	end := func() {
		connected()
		// wait: connected has ended what it waits with
		moved.Wait()
		dial.Stop()
		answer.Stop()
		cancel(nil)
	}
	actx = httptrace.WithClientTrace(actx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected() }})
	return actx, limits{connected: connected, progress: func() { answer.Reset(timeout) }, end: end}
}

// opener takes the status and header of an answer, and returns the writer for
// its body.
type opener = func(status int, h http.Header) (io.Writer, error)

// request makes the HTTP request of attempt n. open is nil without a Sink.
func (c *Client) request(ctx context.Context, r *Request, n int) (req *http.Request, open opener, err error) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, nil, &addressError{secret.NewURL(r.URL).String()}
	}
	req, err = http.NewRequestWithContext(ctx, r.Method, "http://"+u.Host, bytes.NewReader(r.Body))
	if err != nil {
		return nil, nil, &addressError{secret.NewURL(r.URL).String()}
	}
	req.URL = u // keeps the escapes as they were
	if len(r.Body) == 0 && r.Method == http.MethodGet {
		req.Body, req.GetBody = nil, nil
	}
	maps.Copy(req.Header, r.Header)
	req.Header.Set("User-Agent", c.agent)
	if r.Sink != nil {
		var extra http.Header
		if extra, open, err = r.Sink(n); err != nil {
			return nil, nil, &localError{err}
		}
		maps.Copy(req.Header, extra)
	}
	return req, open, nil
}

// stream copies the body to its end and calls progress for each piece.
func stream(actx, ctx context.Context, w io.Writer, r io.Reader, limit int64, progress func()) error {
	buf := make([]byte, 64<<10)
	var n int64
	for {
		k, err := r.Read(buf)
		if k > 0 {
			progress()
			if n += int64(k); n > limit {
				return &SizeError{limit}
			}
			if _, werr := w.Write(buf[:k]); werr != nil {
				return &localError{werr}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return neterr(actx, ctx, err)
		}
	}
}

func ok(status int, expect []int) bool {
	return status == 200 || status == 201 || status == 202 || slices.Contains(expect, status)
}

func retryAfter(h http.Header) time.Duration {
	s, err := strconv.Atoi(strings.TrimSpace(h.Get("Retry-After")))
	if err != nil || s < 0 {
		return 0
	}
	return time.Duration(min(s, 3600)) * time.Second
}

// neterr prefers our own reason for ending a request to Go's error.
func neterr(actx, ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch cause := context.Cause(actx).(type) { //nolint:errorlint // attempt sets the cause itself and does not wrap it
	case *timeoutError:
		return cause
	case *net.OpError:
		return &netError{cause}
	}
	if ue, ok := errors.AsType[*url.Error](err); ok { // would print the query
		err = ue.Err
	}
	return &netError{err}
}

// connectFault reports whether the peer was never reached.
func connectFault(err error) bool {
	if oe, ok := errors.AsType[*net.OpError](err); ok {
		return oe.Op == "dial"
	}
	return false
}

// retryable reports whether a request may be repeated after err, by the
// classes of protocol/SPEC.md §2.3.
func retryable(err error, also400 bool) bool {
	if se, ok := errors.AsType[*StatusError](err); ok {
		switch se.Status {
		case 205, 206, 403, 429, 500, 501, 502, 503, 504, 507:
			return true
		case 400:
			return also400 && !se.InvalidContainer()
		}
		return false
	}
	if _, ok := errors.AsType[*netError](err); ok {
		return true
	}
	_, ok := errors.AsType[*timeoutError](err)
	return ok
}

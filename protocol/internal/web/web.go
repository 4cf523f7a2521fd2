package web

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
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

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
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
	Relay       bool          // the answers are those of a relay: a 400 is transient (protocol/SPEC.md §2.3)
	First       time.Duration // the pace's first pause, see protocol.Pace
	// Part is set if requests with the same Op follow that belong to this one.
	// Its success is none yet: what fails is the whole, and is paced as a whole.
	Part bool
	// Sink takes the body of a 200 or 206, which is not kept in memory then.
	Sink Sink
	// Check says whether the body is what was asked for. If not, the attempt
	// has failed, like one without an answer: a page of a proxy or a portal is
	// not the document, whatever its status says.
	Check func(*Response) error
}

// A Sink writes a body to where it belongs, over several attempts.
type Sink interface {
	// Header returns what to add to the next request: a range that goes on
	// where the last one broke off.
	Header() http.Header
	// Open takes the status and header of an answer and returns the writer for
	// its body. With ErrRestart the answer does not continue what was received.
	Open(status int, h http.Header) (io.Writer, error)
	// Restart forgets what was received, so that the next attempt asks for
	// everything. It returns false if that is of no use.
	Restart() bool
	// Resumable is how many bytes were received that the next attempt can
	// continue.
	Resumable() int64
}

// ErrRestart is returned by a Sink whose answer continues something else.
var ErrRestart = errors.New("the answer does not continue what was received")

// LeastProgress is how many bytes an attempt that breaks off must have received
// to count as progress and not as a failure, and progressPause the pause
// before the next one. A connection that some device cuts every few megabytes
// delivers a large package nevertheless. An attempt that receives less in
// progressTime breaks off: another channel may be faster, and can go on where
// this one has ended.
const (
	LeastProgress = 64 << 10
	progressPause = time.Second
	progressTime  = time.Minute
)

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
		before := resumable(r.Sink)
		resp, err := c.attempt(ctx, &r, changed)
		if errors.Is(err, errMoved) {
			c.faults.retryUnreached()
			continue
		}
		if err == nil && r.Check != nil {
			if cerr := r.Check(resp); cerr != nil {
				err = &ContentError{cerr}
			}
		}
		if goesOn(r.Sink, before, err) && ctx.Err() == nil {
			attempt--
			if _, err := c.wait(ctx, progressPause, nil); err != nil {
				return nil, fmt.Errorf("%s: %w", r.Op, err)
			}
			continue
		}
		if err == nil {
			if !r.Part {
				c.faults.cleared(key, time.Now())
			}
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", r.Op, context.Cause(ctx))
		}
		if Ours(err) {
			c.faults.cleared(key, time.Now()) // the peer has answered
			return nil, fmt.Errorf("%s: %w", r.Op, err)
		}
		se, isStatus := errors.AsType[*StatusError](err)
		soon := isStatus && (se.Gone() || se.InvalidContainer())
		var after time.Duration
		if isStatus {
			after = se.after
		}
		c.faults.failed(key, hostOf(hostport), time.Now(), failure{err: err, conn: connectFault(err), soon: soon, after: after, first: r.First})
		if !retryable(err) || (r.Tries > 0 && attempt >= r.Tries) {
			return nil, c.faults.describe(key, r.Op, err, time.Now(), false)
		}
	}
}

// Ours reports whether an answer could not be used because of this machine: its
// disk is full, for example. That says nothing about the peer, so it does not
// slow down the next request; the caller has to know when to try again.
func Ours(err error) bool {
	if _, ok := errors.AsType[*localError](err); ok {
		return true
	}
	_, ok := errors.AsType[*ContentError](err)
	return ok && protocol.Local(err)
}

func resumable(s Sink) int64 {
	if s == nil {
		return 0
	}
	return s.Resumable()
}

// goesOn reports whether a download that ended with err goes on at once, which
// counts as no failure: it has made progress since it had before bytes, or what
// it has does not fit to what the server has now. The fault is ours then, as we
// asked for a range.
func goesOn(s Sink, before int64, err error) bool {
	if s == nil || err == nil {
		return false
	}
	se, isStatus := errors.AsType[*StatusError](err)
	if errors.Is(err, ErrRestart) || isStatus && (se.Status == http.StatusRequestedRangeNotSatisfiable || se.Status == http.StatusPreconditionFailed) {
		return s.Restart()
	}
	return retryable(err) && s.Resumable()-before >= LeastProgress
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
	return c.attempt(ctx, &r, nil)
}

// attempt makes a single attempt. While it has no connection, a change of the
// network ends it with errMoved: the peer may now be reached in another way.
func (c *Client) attempt(ctx context.Context, r *Request, changed <-chan struct{}) (*Response, error) {
	timeout := cmp.Or(r.Timeout, DefaultTimeout)
	actx, l := c.limit(ctx, timeout, changed)
	defer l.end()
	req, err := c.request(actx, r)
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
		return nil, &StatusError{Status: resp.StatusCode, Body: string(body), after: retryAfter(resp.Header, time.Now()), relay: r.Relay}
	}
	limit := cmp.Or(r.Limit, DefaultLimit)
	decode(resp)
	out := &Response{Status: resp.StatusCode, Header: resp.Header}
	if r.Sink != nil && (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent) {
		w, err := r.Sink.Open(resp.StatusCode, resp.Header)
		if _, large := errors.AsType[*SizeError](err); large || errors.Is(err, ErrRestart) {
			return nil, err
		}
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
			defer crash.Guard()
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

// Address parses an address that requests can be made to.
func Address(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, &addressError{secret.NewURL(text).String()}
	}
	return u, nil
}

// request makes the HTTP request of an attempt.
func (c *Client) request(ctx context.Context, r *Request) (*http.Request, error) {
	u, err := Address(r.URL)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+u.Host, bytes.NewReader(r.Body))
	if err != nil {
		return nil, &addressError{secret.NewURL(r.URL).String()}
	}
	req.URL = u // keeps the escapes as they were
	if len(r.Body) == 0 && r.Method == http.MethodGet {
		req.Body, req.GetBody = nil, nil
	}
	maps.Copy(req.Header, r.Header)
	req.Header.Set("User-Agent", c.agent)
	if r.Sink != nil {
		maps.Copy(req.Header, r.Sink.Header())
	}
	return req, nil
}

// errCrawls is the error of an attempt that receives too little.
var errCrawls = fmt.Errorf("less than %d KiB in %v", LeastProgress>>10, progressTime)

// stream copies the body to its end and calls progress for each piece.
func stream(actx, ctx context.Context, w io.Writer, r io.Reader, limit int64, progress func()) error {
	buf := make([]byte, 64<<10)
	var n, mark int64
	since := time.Now()
	for {
		k, err := r.Read(buf)
		if k > 0 {
			progress()
			if n += int64(k); n > limit {
				return &SizeError{limit}
			}
			if n-mark >= LeastProgress {
				mark, since = n, time.Now()
			}
			if _, werr := w.Write(buf[:k]); werr != nil {
				if _, large := errors.AsType[*SizeError](werr); large {
					return werr
				}
				return &localError{werr}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return neterr(actx, ctx, err)
		}
		if time.Since(since) > progressTime {
			return &netError{errCrawls}
		}
	}
}

func ok(status int, expect []int) bool {
	return status == 200 || status == 201 || status == 202 || slices.Contains(expect, status)
}

// retryAfter is the pause that a server asks for, at most an hour and 0 if it
// asks for none: a number of seconds, or a date (RFC 9110, 10.2.3). A date is
// compared with the one that the server gives for the answer, because the clock
// of a machine that is just starting may be years off.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := strings.TrimSpace(h.Get("Retry-After"))
	wait := time.Duration(0)
	if s, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(max(0, min(s, 3600))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		wait = at.Sub(now)
	}
	return max(0, min(wait, time.Hour))
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

// connectFault reports whether the peer was never reached: there was no
// connection, or none that can be trusted, which a clock that is not set yet or
// a missing authority causes. Both end with a change of this machine's own.
func connectFault(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if oe, ok := errors.AsType[*net.OpError](err); ok {
		return oe.Op == "dial"
	}
	return false
}

// retryable reports whether a request may be repeated within a call after err,
// by the classes of protocol/SPEC.md §2.3.
func retryable(err error) bool {
	if se, ok := errors.AsType[*StatusError](err); ok {
		switch se.Status {
		case 205, 206, 403, 408, 425, 429, 500, 501, 502, 503, 504, 507:
			return true
		case 400:
			return se.relay && !se.InvalidContainer()
		}
		return false
	}
	if _, ok := errors.AsType[*netError](err); ok {
		return true
	}
	_, ok := errors.AsType[*timeoutError](err)
	return ok
}

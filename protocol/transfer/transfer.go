// Package transfer downloads blobs: manifests into memory, packages to disk,
// directly from storage or through the host, whichever works
// (protocol/SPEC.md §8.2). Begin with each, which tries every address over
// every channel, once in a round. It may use the HostGAPlugin's client (hostga)
// and the HTTP layer (web), and leaves it to the caller to say whether a body is
// what was asked for.
package transfer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Order says which channels are used, and in which order.
type Order string

const (
	// HostFirst works without a way out of the virtual network.
	HostFirst Order = "host-first"
	// DirectFirst is what WALinuxAgent does.
	DirectFirst Order = "direct-first"
	HostOnly    Order = "host-only"
	DirectOnly  Order = "direct-only"
)

// maxAddresses bounds how many addresses of one blob are tried. Real documents
// have a few; a list of thousands would cause as many requests and errors.
const maxAddresses = 64

// DefaultBudget bounds one Get or File over all addresses and channels. For a
// File it starts again with each leastProgress bytes.
const DefaultBudget = 5 * time.Minute

type channel string

const (
	viaHost channel = "host"
	direct  channel = "direct"
)

// A Client downloads blobs. It is safe for concurrent use.
type Client struct {
	storage *web.Client
	host    *hostga.Client
	// observe is called with the result of each try through the host; may be
	// nil.
	observe func(err error)

	mu    sync.Mutex // guards order
	order []channel
}

// New makes a client. storage reaches blobs directly, honouring the proxy;
// host is the relay.
func New(storage *web.Client, host *hostga.Client, o Order, observe func(err error)) *Client {
	c := &Client{storage: storage, host: host, observe: observe}
	switch o {
	case DirectFirst:
		c.order = []channel{direct, viaHost}
	case DirectOnly:
		c.order = []channel{direct}
	case HostOnly:
		c.order = []channel{viaHost}
	case HostFirst:
		fallthrough
	default:
		c.order = []channel{viaHost, direct}
	}
	return c
}

func (c *Client) channels() []channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.order)
}

// worked makes the channel the first one for the rest of the process.
func (c *Client) worked(ch channel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.order, ch); i > 0 {
		c.order = slices.Insert(slices.Delete(c.order, i, i+1), 0, ch)
	}
}

// A Want describes a blob.
type Want struct {
	// Op names it: "manifest", "package", "artifactsProfile".
	Op   string
	URIs []secret.URL
	// Verify and Manifest are for the host, see hostga.Artifact.
	Verify   bool
	Manifest secret.URL
	Limit    int64         // bytes; 0 is 8 MiB
	Budget   time.Duration // 0 is DefaultBudget
	// Check says whether a body is what was asked for; it may be nil. Otherwise
	// the next channel or address is asked, and one that delivers something else
	// does not become the first one. An error with protocol.Never refuses what
	// was received whole; for one without an outlook, see strange.
	Check func(Body) error
}

// A Body is what an address delivered: a small blob in memory, or a file.
type Body struct {
	Data   []byte
	File   string // a name the kernel understands
	Digest string // SHA-256 of the file in hex
	From   secret.URL
}

// Error says that no address delivered the blob. Code is that of the last
// fault; an extension is reported with -1 for a manifest and 1001 for a
// package (protocol/SPEC.md §9.3).
type Error struct {
	Op   string
	Last error
	Errs []error // of the last round, one for each address and channel
	// tries counts all rounds.
	tries int
	ways  []way
}

// way is the last fault of one channel.
type way struct {
	ch  channel
	err error
	// absent: every address that was asked over this channel has answered that
	// the blob is not there. strange: all that came is the wrong file (absent is
	// set, too). silent: none has answered.
	absent, strange, silent bool
}

// with adds the fault of another address.
func (w *way) with(ch channel, fault, err error) *way {
	_, content := errors.AsType[*web.ContentError](err)
	n := way{ch: ch, err: fault, absent: protocol.OutlookOf(err, protocol.Later) == protocol.Absent, silent: web.Silent(err)}
	n.strange = n.absent && content
	if w != nil {
		n.absent, n.strange, n.silent = n.absent && w.absent, n.strange && w.strange, n.silent && w.silent
	}
	return &n
}

// Outlook implements protocol.OutlookOf. A body that was received whole and is
// refused settles it. Storage itself knows best what it does not have, whatever
// the relay makes of that: a HostGAPlugin that restarts answers 404 for a moment.
// But a file that came over the relay came from storage, even where storage can't
// be reached directly. Otherwise there is hope as long as one way has any.
func (e *Error) Outlook() protocol.Outlook {
	later := false
	for _, err := range e.Errs {
		o := protocol.OutlookOf(err, protocol.Later)
		if _, content := errors.AsType[*web.ContentError](err); content && o == protocol.Never {
			return protocol.Never
		}
		later = later || o == protocol.Later
	}
	absent, strange, quiet := len(e.ways) > 0, false, true
	for _, w := range e.ways {
		if w.ch == direct && w.absent {
			return protocol.Absent
		}
		absent = absent && w.absent
		strange = strange || w.strange
		quiet = quiet && (w.strange || w.silent)
	}
	switch {
	case absent || strange && quiet:
		return protocol.Absent
	case later:
		return protocol.Later
	}
	return protocol.Never
}

func (e *Error) Error() string {
	if len(e.Errs) == 0 {
		return fmt.Sprintf("get %s: no URL", e.Op)
	}
	// Each channel fails for a reason of its own: what is wrong with the host
	// does not show that a proxy blocks the direct way.
	last := make([]string, len(e.ways))
	for i, w := range e.ways {
		last[i] = w.err.Error()
	}
	return fmt.Sprintf("get %s: all %d attempts failed: %s", e.Op, e.tries, strings.Join(last, "; "))
}

func (e *Error) Unwrap() []error { return e.Errs }

// Code returns the error code, which is stable.
func (e *Error) Code() string {
	if c, ok := e.Last.(interface{ Code() string }); ok {
		return c.Code()
	}
	return "download"
}

// Get returns a small blob and the address that it came from.
func (c *Client) Get(ctx context.Context, w Want) (body []byte, from secret.URL, err error) {
	from, err = c.each(ctx, w, nil, func(ctx context.Context, ch channel, u secret.URL) error {
		resp, err := c.fetch(ctx, ch, u, w, nil, func(r *web.Response) error {
			if w.Check == nil {
				return nil
			}
			return strange(w.Check(Body{Data: r.Body, From: u}), r.Body, r.Header.Get("Content-Length") != "")
		})
		if err != nil {
			return err
		}
		body = resp.Body
		return nil
	})
	return body, from, err
}

// File writes a blob to path (a name the kernel understands) with mode 0600
// and returns its SHA-256 in hex. The file appears whole or not at all; until
// w.Check has accepted it, it has another name. A download that makes progress
// has no time limit. What a failed one has received is left beside the file
// with the suffix host.PartSuffix if it can be continued, and the next call does so.
func (c *Client) File(ctx context.Context, w Want, path string) (digest string, err error) {
	dir, err := host.Root("").OpenDir(filepath.Dir(path), nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", w.Op, err)
	}
	defer dir.Close()
	if w.Limit == 0 {
		w.Limit = web.DefaultLimit
	}
	s, tmp, err := openSink(dir, filepath.Base(path), w.Limit)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", w.Op, err)
	}
	defer func() {
		if cerr := s.close(dir, tmp, filepath.Base(path), err); err == nil {
			err = cerr
		}
	}()
	refused := map[string]error{} // by digest
	_, err = c.each(ctx, w, s, func(ctx context.Context, ch channel, u secret.URL) error {
		s.of(u)
		_, err := c.fetch(ctx, ch, u, w, s, func(*web.Response) error {
			if err := s.complete(); err != nil {
				return err
			}
			s.etag = "" // whatever is wrong with these bytes, they can't be continued
			digest = hex.EncodeToString(s.sum.Sum(nil))
			if w.Check == nil {
				return nil
			}
			if err := refused[digest]; err != nil {
				return &settledError{err} // the same bytes, so the same answer
			}
			err := w.Check(Body{File: filepath.Join(filepath.Dir(path), tmp), Digest: digest, From: u})
			if err != nil {
				start := make([]byte, 64)
				n, _ := s.f.ReadAt(start, 0)
				err = strange(err, start[:n], s.total >= 0)
			}
			refused[digest] = err
			return err
		})
		return err
	})
	if err != nil {
		return "", err
	}
	if err := errors.Join(s.f.Sync(), dir.Rename(tmp, dir, filepath.Base(path))); err != nil {
		return "", fmt.Errorf("get %s: %w", w.Op, err)
	}
	return digest, nil
}

// strange adds an outlook to an error of Want.Check without one, from how the
// body begins and whether the server announced its size, which it then has. A
// page or a record that a proxy, a portal or a service has sent instead, half a
// zip file and a body that may have been cut say nothing about the blob. Other
// bytes are what there is: the wrong file, which may still be replaced.
func strange(err error, start []byte, whole bool) error {
	if err == nil || protocol.OutlookOf(err, "") != "" {
		return err
	}
	start = bytes.TrimLeft(start, "\ufeff \t\r\n")
	if !whole || len(start) == 0 || bytes.ContainsAny(start[:1], "<{[") || bytes.HasPrefix(start, []byte("PK")) {
		return protocol.Judge(protocol.Later, err)
	}
	return protocol.Judge(protocol.Absent, err)
}

// settledError is the error of bytes that were refused before.
type settledError struct{ err error }

func (e *settledError) Error() string { return e.err.Error() }
func (e *settledError) Unwrap() error { return e.err }

// patience is how long a call goes on with further rounds, waiting included. A
// short fault is over by then; for a longer one the caller waits, and calls
// again when the error says so (protocol.NextTry).
const patience = 15 * time.Second

// each tries every address over every channel until one works: a round. Rounds
// are repeated at the pace of the requests for the time of patience, as long as
// there is hope and time left of the budget. The order of the addresses is
// random, to spread load; one that s can continue is the first. s may be nil.
func (c *Client) each(ctx context.Context, w Want, s *sink, try func(context.Context, channel, secret.URL) error) (secret.URL, error) {
	budget := w.Budget
	if budget == 0 {
		budget = DefaultBudget
	}
	end := time.Now().Add(patience)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(budget, func() { cancel(fmt.Errorf("timeout after %v: %w", budget, context.DeadlineExceeded)) })
	defer timer.Stop()
	if s != nil {
		s.progress = func() { timer.Reset(budget) }
	}
	uris := slices.Clone(w.URIs)
	rand.Shuffle(len(uris), func(i, j int) { uris[i], uris[j] = uris[j], uris[i] })
	uris = uris[:min(len(uris), maxAddresses)]
	out := &Error{Op: w.Op}
	for {
		slices.SortStableFunc(uris, func(a, b secret.URL) int { return cmp.Compare(s.received(b), s.received(a)) })
		from, final, err := c.round(ctx, uris, try, out)
		if err == nil {
			return from, nil
		}
		next := protocol.NextTry(out)
		if final || ctx.Err() != nil || next.IsZero() || next.After(end) || out.Outlook() != protocol.Later {
			return secret.URL{}, out
		}
		if _, err := c.storage.Wait(ctx, time.Until(next)); err != nil {
			return secret.URL{}, out
		}
	}
}

// round tries every address over every channel once. final means that another
// round is of no use.
func (c *Client) round(ctx context.Context, uris []secret.URL, try func(context.Context, channel, secret.URL) error, out *Error) (from secret.URL, final bool, err error) {
	faults := map[channel]*way{}
	out.Errs = nil
	defer func() {
		out.ways = nil
		for _, ch := range []channel{viaHost, direct} {
			if w := faults[ch]; w != nil {
				out.ways = append(out.ways, *w)
			}
		}
	}()
	for _, u := range uris {
		for _, ch := range c.channels() {
			err := try(ctx, ch, u)
			waiting := false
			if f, ok := errors.AsType[*protocol.Fault](err); ok {
				waiting = f.Waiting
			}
			if ch == viaHost && c.observe != nil && ctx.Err() == nil && !waiting {
				c.observe(err)
			}
			if err == nil {
				c.worked(ch)
				return u, false, nil
			}
			if !waiting {
				out.tries++
			}
			out.Last = fmt.Errorf("%s (%s): %w", u, ch, err)
			out.Errs = append(out.Errs, out.Last)
			faults[ch] = faults[ch].with(ch, out.Last, err)
			_, settled := errors.AsType[*settledError](err)
			if ctx.Err() != nil || local(err) || settled && protocol.OutlookOf(err, protocol.Later) == protocol.Never {
				return secret.URL{}, true, out
			}
		}
	}
	return secret.URL{}, len(uris) == 0, out
}

// local reports whether trying another address is useless, because our own
// disk is the problem.
func local(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO)
}

// directFirst is the first pause of the direct channel, twice that of the relay
// (see protocol.Pace).
const directFirst = 2 * protocol.PaceFirst

// fetch makes a single attempt, unless the request has to wait.
func (c *Client) fetch(ctx context.Context, ch channel, u secret.URL, w Want, s *sink, check func(*web.Response) error) (*web.Response, error) {
	if _, err := web.Address(u.Reveal()); err != nil {
		return nil, err // the relay would only say that it failed
	}
	var expect []int
	var to web.Sink
	if s != nil {
		to, expect = s, []int{http.StatusPartialContent}
	}
	if ch == viaHost {
		return c.host.Fetch(ctx, hostga.Artifact{URL: u, Verify: w.Verify, Manifest: w.Manifest},
			hostga.FetchLimits{Op: w.Op, Limit: w.Limit, Sink: to, Expect: expect, Check: check})
	}
	return c.storage.Do(ctx, web.Request{
		Op: w.Op, URL: u.Reveal(), PerURL: true, Tries: 1, First: directFirst, Limit: w.Limit, Sink: to, Expect: expect, Check: check,
	})
}

// Ops are the names of what is downloaded, for web.Client.Reset.
var Ops = []string{"manifest", "package", "artifactsProfile"}

// Reset forgets which blobs failed, so that a new goal state tries at once.
func (c *Client) Reset() { c.storage.Reset(Ops...) }

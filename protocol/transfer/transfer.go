// Package transfer downloads blobs: manifests into memory, packages to disk,
// directly from storage or through the host, whichever works
// (protocol/SPEC.md §8.2). Begin with each, which tries every address over
// every channel. It may use the HostGAPlugin's client (hostga) and the HTTP
// layer (web), and makes no decisions about what it downloads.
package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
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

// DefaultBudget bounds one Get or File over all addresses and channels.
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
}

// Error says that no address delivered the blob. Code is that of the last
// fault; an extension is reported with -1 for a manifest and 1001 for a
// package (protocol/SPEC.md §9.3).
type Error struct {
	Op   string
	Last error
	Errs []error
	ways []error // the last fault of each channel
}

func (e *Error) Error() string {
	if len(e.Errs) == 0 {
		return fmt.Sprintf("get %s: no URL", e.Op)
	}
	// Each channel fails for a reason of its own: what is wrong with the host
	// does not show that a proxy blocks the direct way.
	last := make([]string, len(e.ways))
	for i, w := range e.ways {
		last[i] = w.Error()
	}
	return fmt.Sprintf("get %s: all %d attempts failed: %s", e.Op, len(e.Errs), strings.Join(last, "; "))
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
	from, err = c.each(ctx, w, func(ctx context.Context, ch channel, u secret.URL) error {
		resp, err := c.fetch(ctx, ch, u, w, true, nil)
		if err != nil {
			return err
		}
		body = resp.Body
		return nil
	})
	return body, from, err
}

// File writes a blob to path (a name the kernel understands) with mode 0600
// and returns its SHA-256 in hex. The file appears whole or not at all.
func (c *Client) File(ctx context.Context, w Want, path string) (digest string, err error) {
	dir, err := host.Root("").OpenDir(filepath.Dir(path), nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", w.Op, err)
	}
	defer dir.Close()
	// The name is like that of all temporary files: if the agent is killed
	// meanwhile, the next start removes the file (host.TempPattern).
	part, tmp, err := dir.CreateTemp(filepath.Base(path))
	if err != nil {
		return "", fmt.Errorf("get %s: %w", w.Op, err)
	}
	done := false
	defer func() {
		if cerr := part.Close(); err == nil && cerr != nil && !done {
			err = cerr
		}
		if !done {
			_ = dir.Remove(tmp)
		}
	}()
	if w.Limit == 0 {
		w.Limit = web.DefaultLimit
	}
	_, err = c.each(ctx, w, func(ctx context.Context, ch channel, u secret.URL) error {
		s := &sink{f: part, sum: sha256.New(), limit: w.Limit}
		_, err := c.fetch(ctx, ch, u, w, false, s.open)
		if err == nil {
			err = s.complete()
		}
		digest = hex.EncodeToString(s.sum.Sum(nil))
		return err
	})
	if err != nil {
		return "", err
	}
	if err := errors.Join(part.Sync(), dir.Rename(tmp, dir, filepath.Base(path))); err != nil {
		return "", fmt.Errorf("get %s: %w", w.Op, err)
	}
	done = true
	return digest, nil
}

// each tries every address over every channel until one works or the time
// budget is used up. The order of the addresses is random, to spread load.
func (c *Client) each(ctx context.Context, w Want, try func(context.Context, channel, secret.URL) error) (secret.URL, error) {
	budget := w.Budget
	if budget == 0 {
		budget = DefaultBudget
	}
	ctx, cancel := context.WithTimeoutCause(ctx, budget, fmt.Errorf("timeout after %v: %w", budget, context.DeadlineExceeded))
	defer cancel()
	uris := slices.Clone(w.URIs)
	rand.Shuffle(len(uris), func(i, j int) { uris[i], uris[j] = uris[j], uris[i] })
	uris = uris[:min(len(uris), maxAddresses)]
	out := &Error{Op: w.Op}
	faults := map[channel]error{}
	defer func() {
		for _, ch := range []channel{viaHost, direct} {
			if err := faults[ch]; err != nil {
				out.ways = append(out.ways, err)
			}
		}
	}()
	for _, u := range uris {
		for _, ch := range c.channels() {
			err := try(ctx, ch, u)
			if ch == viaHost && c.observe != nil && ctx.Err() == nil {
				c.observe(err)
			}
			if err == nil {
				c.worked(ch)
				return u, nil
			}
			out.Last = fmt.Errorf("%s (%s): %w", u, ch, err)
			out.Errs = append(out.Errs, out.Last)
			faults[ch] = out.Last
			if ctx.Err() != nil || local(err) {
				return secret.URL{}, out
			}
		}
	}
	return secret.URL{}, out
}

// local reports whether trying another address is useless, because our own
// disk is the problem.
func local(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EIO)
}

type opener = func(attempt int) (http.Header, func(int, http.Header) (io.Writer, error), error)

func (c *Client) fetch(ctx context.Context, ch channel, u secret.URL, w Want, small bool, open opener) (*web.Response, error) {
	const tries, patience = 3, 15 * time.Second
	var expect []int
	if open != nil {
		expect = []int{http.StatusPartialContent}
	}
	if ch == viaHost {
		return c.host.Fetch(ctx, hostga.Artifact{URL: u, Verify: w.Verify, Manifest: w.Manifest, Small: small},
			hostga.FetchLimits{Op: w.Op, Tries: tries, Patience: patience, Limit: w.Limit, Sink: open, Expect: expect})
	}
	return c.storage.Do(ctx, web.Request{
		Op: w.Op, URL: u.Reveal(), PerURL: true, Tries: tries, Patience: patience, Limit: w.Limit, Sink: open, Expect: expect,
	})
}

// Reset forgets which blobs failed, so that a new goal state tries at once.
func (c *Client) Reset() {
	ops := []string{"manifest", "package", "artifactsProfile"}
	c.storage.Reset(ops...)
}

// sink is a download in progress. When an attempt breaks off and the server
// named the version of the blob and takes ranges, the next attempt goes on
// where it ended; else it starts anew.
type sink struct {
	f     *os.File
	sum   hash.Hash
	limit int64
	n     int64  // bytes in the file
	etag  string // strong validator of the first answer, "" if none
	total int64  // size the server announced, -1 if it did not
}

func (s *sink) open(int) (http.Header, func(int, http.Header) (io.Writer, error), error) {
	h := http.Header{}
	if s.n > 0 && s.etag != "" {
		h.Set("Range", fmt.Sprintf("bytes=%d-", s.n))
		h.Set("If-Range", s.etag)
	}
	return h, s.start, nil
}

// start prepares for the body of an answer.
func (s *sink) start(status int, h http.Header) (io.Writer, error) {
	if status == http.StatusPartialContent {
		from, total, ok := contentRange(h.Get("Content-Range"))
		if !ok || from != s.n || h.Get("Etag") != s.etag {
			return nil, errors.New("server resumed at a different position")
		}
		s.total = total
		return s, nil
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := s.f.Truncate(0); err != nil {
		return nil, err
	}
	s.sum.Reset()
	s.n, s.etag, s.total = 0, "", -1
	if e := h.Get("Etag"); e != "" && !strings.HasPrefix(e, "W/") && strings.EqualFold(h.Get("Accept-Ranges"), "bytes") {
		s.etag = e
	}
	if n, err := parseSize(h.Get("Content-Length")); err == nil {
		s.total = n
		if n > s.limit {
			return nil, &web.SizeError{Limit: s.limit}
		}
	}
	return s, nil
}

func (s *sink) Write(p []byte) (int, error) {
	if s.n+int64(len(p)) > s.limit {
		return 0, &web.SizeError{Limit: s.limit}
	}
	n, err := s.f.Write(p)
	s.sum.Write(p[:n])
	s.n += int64(n)
	return n, err
}

func (s *sink) complete() error {
	if s.total >= 0 && s.n != s.total {
		return fmt.Errorf("incomplete: %d of %d bytes", s.n, s.total)
	}
	return nil
}

func parseSize(s string) (int64, error) {
	var n int64
	_, err := fmt.Sscanf(s, "%d", &n)
	return n, err
}

// contentRange reads "bytes 5-9/10".
func contentRange(s string) (from, total int64, ok bool) {
	var to int64
	if _, err := fmt.Sscanf(s, "bytes %d-%d/%d", &from, &to, &total); err != nil {
		return 0, 0, false
	}
	return from, total, true
}

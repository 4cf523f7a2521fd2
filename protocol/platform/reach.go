package platform

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/imds"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Names of the services that the agent uses.
const (
	WireServer = "wireserver"
	HostPlugin = "hostplugin"
	Metadata   = "imds"
	Storage    = "storage"
)

// Kinds of EndpointFact.Fault: what kept a request from being answered.
const (
	FaultRoute   = "route"   // no route to the address
	FaultBlocked = "blocked" // this machine's own kernel refused to send
	FaultRefused = "refused" // nothing listens there, or a firewall rejects
	FaultTimeout = "timeout" // no answer: dropped packets, or a busy host
	FaultProxy   = "proxy"   // the proxy, not the server behind it
	FaultTLS     = "tls"     // a certificate that is not trusted
	FaultDNS     = "dns"     // the name was not found
	FaultStatus  = "status"  // an answer that says "not now" (5xx)
	FaultNetwork = "network" // anything else
)

// An EndpointFact is the state of one service when it was last used. It comes
// from the requests that are made anyway; none is made to find out.
type EndpointFact struct {
	Name    string
	URL     string // scheme and host; never a path or a query
	Via     string // "direct" or "host", whichever worked last
	Proxy   string // without credentials; "" is none
	Latency time.Duration

	LastOK   time.Time
	LastFail time.Time
	// Since is when the first failure after the last success was; zero while
	// the service answers. Failures counts them.
	Since    time.Time
	Failures int
	// Fault and Err describe the last failure, also when it is over.
	Fault string
	Err   string
}

// Failing reports whether the service did not answer last time.
func (f EndpointFact) Failing() bool { return !f.Since.IsZero() }

// reach keeps the facts about all services.
type reach struct {
	mu            sync.Mutex // guards the fields below
	facts         map[string]*EndpointFact
	skew          time.Duration
	skewAt        time.Time
	wrongEndpoint error
	wrongAddr     string // the address that wrongEndpoint is about
}

// noteWrongEndpoint records an address that does not speak the protocol, and
// where it came from.
func (r *reach) noteWrongEndpoint(addr, origin string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrongAddr = addr
	r.wrongEndpoint = fmt.Errorf("%s (from %s) is not a WireServer: %w", addr, origin, err)
}

// WrongEndpoint says which address from DHCP, a lease or our own cache was
// wrong; nil if there was none, or if it is the one in use now.
func (c *Client) WrongEndpoint() error {
	in := c.Endpoint()
	r := &c.reach
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wrongAddr == in {
		return nil
	}
	return r.wrongEndpoint
}

// relayName is the name of the fact about storage as reached through the host.
const relayName = Storage + "/host"

func (r *reach) fact(name string) *EndpointFact {
	if r.facts == nil {
		r.facts = map[string]*EndpointFact{}
	}
	f := r.facts[name]
	if f == nil {
		f = &EndpointFact{Name: name}
		r.facts[name] = f
	}
	return f
}

func (r *reach) worked(name string, took time.Duration, change func(*EndpointFact)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.fact(name)
	f.LastOK, f.Since, f.Failures = time.Now().UTC(), time.Time{}, 0
	if took > 0 {
		f.Latency = took
	}
	if change != nil {
		change(f)
	}
}

// answeredWithin reports whether a service has answered within the time, and
// not failed since.
func (r *reach) answeredWithin(name string, within time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.facts[name]
	return f != nil && !f.Failing() && time.Since(f.LastOK) < within
}

func (r *reach) failed(name, fault, text string, change func(*EndpointFact)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.fact(name)
	f.LastFail = time.Now().UTC()
	if f.Since.IsZero() {
		f.Since = f.LastFail
	}
	f.Failures++
	f.Fault, f.Err = fault, text
	if change != nil {
		change(f)
	}
}

// observedTransport is a RoundTripper that keeps the facts about the requests
// made through it.
type observedTransport struct {
	rt    http.RoundTripper
	c     *Client
	near  bool       // the platform's own addresses
	proxy *web.Proxy // for blobs; nil: none
}

// CloseIdleConnections is for web.Client.Close.
func (w *observedTransport) CloseIdleConnections() {
	if t, ok := w.rt.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

func (w *observedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	name, start := w.name(req.URL), time.Now()
	resp, err := w.rt.RoundTrip(req)
	took := time.Since(start)
	where := func(f *EndpointFact) {
		f.URL, f.Via, f.Proxy = req.URL.Scheme+"://"+req.URL.Host, "direct", ""
		if w.proxy != nil {
			if p, perr := w.proxy.For(req.URL); perr == nil && p != nil {
				f.Proxy = p.Scheme + "://" + p.Host
			}
		}
	}
	r := &w.c.reach
	switch {
	case err != nil:
		cause := context.Cause(req.Context())
		if req.Context().Err() != nil && errors.Is(cause, context.Canceled) {
			return resp, err // the caller gave up, the service did not fail
		}
		fault, text := classify(err), err.Error()
		if req.Context().Err() != nil && cause != nil {
			fault, text = FaultTimeout, cause.Error()
		}
		r.failed(name, fault, secret.Redact(text), where)
	case resp.StatusCode == http.StatusProxyAuthRequired:
		r.failed(name, FaultProxy, "the proxy requires authentication (407)", where)
	case resp.StatusCode >= 500 && !(name == HostPlugin && resp.StatusCode == http.StatusBadGateway):
		// A 502 of the HostGAPlugin is about the server it fetches from, not
		// about itself.
		r.failed(name, FaultStatus, "status "+resp.Status, where)
	default:
		r.worked(name, took, where)
		if w.near {
			r.clock(resp.Header.Get("Date"), start, took)
		}
	}
	return resp, err
}

func (w *observedTransport) name(u *url.URL) string {
	switch {
	case !w.near:
		return Storage
	case u.Hostname() == imds.Address:
		return Metadata
	case u.Port() == hostga.Port:
		return HostPlugin
	}
	return WireServer
}

// clock compares our clock with the platform's. The header counts whole
// seconds, so half a second is added, its average error.
func (r *reach) clock(date string, start time.Time, took time.Duration) {
	there, err := http.ParseTime(date)
	if err != nil || took > 5*time.Second {
		return
	}
	here := start.Add(took / 2).Round(0)
	r.mu.Lock()
	r.skew, r.skewAt = here.Sub(there.Add(500*time.Millisecond)), time.Now().UTC()
	r.mu.Unlock()
}

// classify returns the kind of fault of a failed request.
func classify(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
		return FaultProxy
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return FaultTLS
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return FaultTLS
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return FaultDNS
	}
	switch {
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return FaultRoute
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return FaultBlocked
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH):
		return FaultRefused
	}
	if t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && t.Timeout() {
		return FaultTimeout
	}
	return FaultNetwork
}

// noteRelay records whether storage can be reached through the host.
func (c *Client) noteRelay(err error) {
	host := func(f *EndpointFact) { f.Via = "host" }
	switch se, ok := errors.AsType[*web.StatusError](err); {
	case err == nil:
		c.reach.worked(relayName, 0, host)
	case errors.Is(err, hostga.ErrLater) || web.Ours(err):
	case ok && se.Status < 500:
		// Refused by storage: it was reached.
	default:
		c.reach.failed(relayName, FaultNetwork, secret.Redact(err.Error()), host)
	}
}

// Endpoints lists every service that was used so far, in the order in which
// they are shown. Storage counts as reachable if one of the two ways to it
// works.
func (c *Client) Endpoints() []EndpointFact {
	r := &c.reach
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []EndpointFact
	for _, name := range []string{WireServer, HostPlugin, Metadata} {
		if f := r.facts[name]; f != nil {
			out = append(out, *f)
		}
	}
	direct, relayed := r.facts[Storage], r.facts[relayName]
	switch {
	case direct == nil && relayed == nil:
	case direct == nil:
		out = append(out, asStorage(*relayed))
	case relayed == nil:
		out = append(out, asStorage(*direct))
	default:
		f := *direct
		if !relayed.Failing() && (direct.Failing() || relayed.LastOK.After(direct.LastOK)) {
			f = *relayed
			f.URL, f.Proxy = direct.URL, direct.Proxy
			if direct.Failing() {
				f.Err, f.Fault, f.LastFail = direct.Err, direct.Fault, direct.LastFail
			}
		}
		out = append(out, asStorage(f))
	}
	return out
}

func asStorage(f EndpointFact) EndpointFact {
	f.Name = Storage
	return f
}

// Skew is how far this machine's clock is ahead of the platform's, by the last
// answer; ok is false before the first one.
func (c *Client) Skew() (skew time.Duration, at time.Time, ok bool) {
	r := &c.reach
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skew, r.skewAt, !r.skewAt.IsZero()
}

// Probe asks the services named (all three of the platform if none are) for
// something small, once each and at the same time, and returns the facts. It
// ignores all pacing: call it on request of a user, not in a loop.
func (c *Client) Probe(ctx context.Context, names ...string) []EndpointFact {
	ask := map[string]web.Request{
		WireServer: {Op: "probe", URL: "http://" + c.Endpoint() + "/?comp=versions", Limit: 64 << 10},
		HostPlugin: {Op: "probe", URL: "http://" + net.JoinHostPort(c.Endpoint(), hostga.Port) + "/health", Limit: 64 << 10},
		Metadata: {
			Op: "probe", URL: "http://" + imds.Address + "/metadata/versions", Limit: 64 << 10,
			Header: http.Header{"Metadata": {"true"}},
		},
	}
	var wg sync.WaitGroup
	for name, r := range ask {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		r.Timeout = 4 * time.Second
		wg.Go(func() {
			defer crash.Guard()
			// The result is in the facts; a 404 is an answer, too.
			_, _ = c.hostWeb.Once(ctx, r)
		})
	}
	// wait: each request has a time-out of four seconds
	wg.Wait()
	return c.Endpoints()
}

// EndpointFrom is how the address of the WireServer was found:
// "configuration", "dhcp", a lease, … ; "" before the first connection.
func (c *Client) EndpointFrom() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpointOrigin
}

// HostVersion is the version of the HostGAPlugin, as in vmSettings; "" before
// they were fetched.
func (c *Client) HostVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pluginVersion
}

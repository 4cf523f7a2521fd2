package platform

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/discover"
	"github.com/azguest/azguest/protocol/hostga"
	"github.com/azguest/azguest/protocol/imds"
	"github.com/azguest/azguest/protocol/internal/web"
	"github.com/azguest/azguest/protocol/transfer"
	"github.com/azguest/azguest/protocol/wire"
)

// Options for New. Root, AgentVersion and Log are required; the zero values
// of the rest are the usual behaviour.
type Options struct {
	Root   host.Root
	LibDir string // "" is /var/lib/waagent

	// Endpoint overrides discovery: an address, or address:port for tests.
	// With a port the agent goes on speaking of 168.63.129.16 and only the
	// connections go elsewhere. HostGA and IMDS do the same for those two;
	// an empty HostGA follows Endpoint (port 32526).
	Endpoint, HostGA, IMDS string
	// DHCP allows a DHCPDISCOVER of our own when neither the default address
	// nor any lease leads to a WireServer.
	DHCP bool

	// Dial replaces the net.Dialers, HTTP the whole transport (tests).
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	HTTP *http.Client
	// Proxy is for blobs only; see web.Proxy for the rules.
	Proxy   web.Proxy
	RootCAs *x509.CertPool
	Order   transfer.Order

	AgentName    string // x-ms-agent-name; "" is WALinuxAgent
	AgentVersion string
	UserAgent    string // "" is WALinuxAgent/<AgentVersion>
	// VMID ties the transport key to this machine; without it a new key is made
	// at each start.
	VMID string
	// NoFastTrack never asks for vmSettings; NoTelemetry sends no events and
	// no observations.
	NoFastTrack, NoTelemetry bool
	// IMDSHeartbeat lets Heartbeat check the metadata service, too.
	IMDSHeartbeat bool
	// HistoryBytes bounds the archive of goal states; 0 is 8 MiB, < 0 none.
	HistoryBytes int64
	// Routes subscribes to changes of addresses and routes, so that waiting
	// requests are repeated as soon as there is a network; may be nil.
	Routes func() (next func(context.Context) error, end func(), err error)
	// Metadata is given the instance document when it was fetched for the
	// telemetry of this client, once in its life; may be nil.
	Metadata func(doc []byte)
	Facts    Facts
	Log      zerolog.Logger
}

// Proxy names the proxies for blobs, see web.Proxy.
type Proxy = web.Proxy

// Facts go into every telemetry event.
type Facts struct {
	OSVersion    string // Linux:<distribution>-<version>:<kernel>
	Architecture string // x86_64, aarch64
	RAM          int64  // MB
	Processors   int
}

// A Client speaks to all services of the platform.
type Client struct {
	o            Options
	hostWeb      *web.Client // host endpoints: never a proxy
	storage      *web.Client
	blobs        *transfer.Client
	metadata     *imds.Client
	hostPlugin   *hostga.Client
	key          *transportKey
	reach        reach
	statusPutOff atomic.Bool // the host refused the last status because of stale ids

	mu             sync.Mutex // guards the fields below
	endpointOrigin string     // origin of endpoint
	pluginVersion  string     // version of the HostGAPlugin
	wire           *wire.Client
	endpoint       string
	ids            wire.GoalState
	current        *protocol.GoalState // as given out last
	fromFastTrack  bool                // current came by FastTrack
	noBlob         bool                // current has the status blob of an earlier one
	hasSettings    bool                // the host offers vmSettings
	instance       *imds.Instance
	instanceAsked  time.Time            // of the metadata service
	failingSince   map[string]time.Time // since when a host service fails
	observations   map[string]wire.Observation
	// otherType is the address of a status blob whose type is not the one that
	// the goal state names.
	otherType string

	turn  chan struct{} // held by the one GoalState call that runs
	state state         // guarded by turn
}

// New makes a client. It does no I/O.
func New(o Options) *Client {
	o.LibDir = cmp.Or(o.LibDir, "/var/lib/waagent")
	o.AgentName = cmp.Or(o.AgentName, "WALinuxAgent")
	o.UserAgent = cmp.Or(o.UserAgent, "WALinuxAgent/"+o.AgentVersion)
	c := &Client{o: o, turn: make(chan struct{}, 1), failingSince: map[string]time.Time{}, observations: map[string]wire.Observation{}}
	plain := &net.Dialer{Timeout: web.DialTimeout}
	dial := o.dialer(newNICs(o.Root, web.NewDialer(), o.Dial).dial)
	var nearRT, farRT http.RoundTripper
	if o.HTTP != nil && o.HTTP.Transport != nil {
		nearRT, farRT = o.HTTP.Transport, o.HTTP.Transport
	} else {
		nearRT = web.Transport(dial, nil, nil)
		far := web.Dial(plain.DialContext)
		if o.Dial != nil {
			far = o.Dial
		}
		farRT = o.farTransport(o.dialer(far), &c.o.Proxy)
	}
	c.hostWeb = web.New(&observedTransport{rt: nearRT, c: c, near: true}, o.UserAgent, c.canary(dial))
	c.hostWeb.Routes = o.Routes
	c.storage = web.New(&observedTransport{rt: farRT, c: c, proxy: &c.o.Proxy}, o.UserAgent, nil)
	c.storage.Routes = o.Routes
	c.metadata = imds.New(c.hostWeb, 5*time.Second)
	c.key = &transportKey{root: o.Root, dir: o.LibDir, vmid: o.VMID}
	c.useEndpoint(cmp.Or(hostPart(o.Endpoint), discover.Default))
	return c
}

// useEndpoint sets the address of the WireServer and makes the clients for it.
func (c *Client) useEndpoint(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endpoint == addr {
		return
	}
	c.endpoint = addr
	c.wire = wire.New(c.hostWeb, addr, c.o.AgentName)
	c.hostPlugin = hostga.New(c.hostWeb, net.JoinHostPort(addr, hostga.Port), (*hostIDs)(c), c.o.AgentName, c.o.AgentVersion)
	c.blobs = transfer.New(c.storage, c.hostPlugin, c.o.Order, c.relayUsed)
}

// hostPart is the address that the agent uses for the endpoint: an override
// with a port only redirects connections.
func hostPart(endpoint string) string {
	if _, _, err := net.SplitHostPort(endpoint); err == nil {
		return discover.Default
	}
	return endpoint
}

// dialer returns dial, with connections to the platform's addresses redirected
// if there is an override.
func (o *Options) dialer(dial web.Dial) web.Dial {
	route := map[string]string{}
	if h, _, err := net.SplitHostPort(o.Endpoint); err == nil {
		route[discover.Default+":80"] = o.Endpoint
		route[net.JoinHostPort(discover.Default, hostga.Port)] = cmp.Or(o.HostGA, net.JoinHostPort(h, hostga.Port))
	} else if o.HostGA != "" {
		route[net.JoinHostPort(cmp.Or(o.Endpoint, discover.Default), hostga.Port)] = o.HostGA
	}
	if o.IMDS != "" {
		route[imds.Address+":80"] = o.IMDS
	}
	if len(route) == 0 {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial(ctx, network, cmp.Or(route[addr], addr))
	}
}

// canary returns the function that checks whether a server is back
// (protocol/SPEC.md §2.5): by a connection if it could not be reached, else by
// its cheapest request.
func (c *Client) canary(dial web.Dial) web.Canary {
	return func(ctx context.Context, hostport string, connect bool) error {
		_, port, err := net.SplitHostPort(hostport)
		if err != nil {
			hostport, port = net.JoinHostPort(hostport, "80"), "80"
		}
		if connect && c.o.HTTP == nil {
			conn, err := dial(ctx, "tcp", hostport)
			if err != nil {
				return err
			}
			return conn.Close()
		}
		r := web.Request{Op: "canary", Limit: 64 << 10, Timeout: 5 * time.Second}
		switch hostname, _, _ := net.SplitHostPort(hostport); {
		case hostname == imds.Address:
			r.URL, r.Header = "http://"+hostport+"/metadata/versions", http.Header{"Metadata": {"true"}}
		case port == hostga.Port:
			r.URL = "http://" + hostport + "/health"
		default:
			r.URL = "http://" + hostport + "/?comp=versions"
		}
		_, err = c.hostWeb.Once(ctx, r)
		return err
	}
}

// Endpoint is the address of the WireServer, as handlers are told it.
func (c *Client) Endpoint() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoint
}

// Identity are the names the platform has for this VM.
type Identity struct{ Incarnation, ContainerID, InstanceID, ConfigName string }

// Identity gets just the goal state document, for an early health report.
// It repeats until the context ends.
func (c *Client) Identity(ctx context.Context) (Identity, error) {
	g, _, err := c.wireClient().GoalState(ctx, web.Forever)
	if err != nil {
		return Identity{}, fmt.Errorf("identify: %w", err)
	}
	c.setIDs(g)
	return Identity{g.Incarnation, g.ContainerID, g.InstanceID, g.ConfigName}, nil
}

func (c *Client) wireClient() *wire.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wire
}

func (c *Client) hostClient() *hostga.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hostPlugin
}

func (c *Client) transfers() *transfer.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.blobs
}

// setIDs takes over the names from a goal state; an incomplete one may have
// only some.
func (c *Client) setIDs(g *wire.GoalState) {
	if g == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.ids
	c.ids = *g
	c.ids.InstanceID = cmp.Or(g.InstanceID, old.InstanceID)
	c.ids.ConfigName = cmp.Or(g.ConfigName, old.ConfigName)
}

func (c *Client) getIDs() wire.GoalState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids
}

// hostIDs implements hostga.Host.
type hostIDs Client

func (h *hostIDs) IDs() hostga.IDs {
	g := (*Client)(h).getIDs()
	return hostga.IDs{ContainerID: g.ContainerID, ConfigName: g.ConfigName}
}

// Refresh implements hostga.Host.
func (h *hostIDs) Refresh(ctx context.Context) error {
	c := (*Client)(h)
	g, _, err := c.wireClient().GoalState(ctx, 3*time.Second)
	if err != nil && !errors.Is(err, wire.ErrIncomplete) {
		return err
	}
	c.setIDs(g)
	return nil
}

// Close ends idle connections and waits for the transport key if it is just
// being made and written; the client can be used again.
func (c *Client) Close() {
	c.key.wait()
	c.hostWeb.Close()
	c.storage.Close()
}

// writeEndpoint writes the two files that tell other programs where the
// platform is.
func (c *Client) writeEndpoint() {
	c.keepFile("WireServerEndpoint", []byte(c.Endpoint()), 0o600)
	c.keepFile("Protocol", []byte("WireProtocol"), 0o600)
}

// keepFile writes a file of the library directory unless it has this content
// already. A failure is only logged: a disk that can't be written must not
// keep the agent from working.
func (c *Client) keepFile(name string, data []byte, perm uint32) {
	file := path.Join(c.o.LibDir, name)
	if have, err := c.o.Root.ReadFile(file); err == nil && string(have) == string(data) {
		return
	}
	if err := writeLib(c.o.Root, c.o.LibDir, name, data, perm); err != nil {
		c.o.Log.Warn().Err(err).Str("file", file).Msg("could not write file")
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

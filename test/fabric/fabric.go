package fabric

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/test/fabric/pki"
)

// The fixed addresses of the platform.
const (
	Endpoint     = "168.63.129.16"
	IMDSAddress  = "169.254.169.254"
	hostGAPort   = "32526"
	memoryDomain = ".blob.fabric"
	// ManagementHost is the name under which Client reaches the control plane.
	ManagementHost = "management.fabric"
)

// Service is one of the listeners of the platform.
type Service string

// The services; see Fabric.Listen.
const (
	Wire   Service = "wire"   // the WireServer, port 80
	HostGA Service = "hostga" // the HostGAPlugin, port 32526
	Blob   Service = "blob"   // blob storage
	IMDS   Service = "imds"   // the instance metadata service, port 80
	ARM    Service = "arm"    // the control plane, and the admin API under /_fabric
)

// Options of a fabric. The zero value is suitable for tests.
type Options struct {
	// BlobURL is the address of blob storage: a URL in which "{account}" is
	// replaced, or to which the account is appended as a path segment. The
	// default is http://{account}.blob.fabric, which only Client can reach.
	BlobURL string
	// Repository is a folder of packages named Name__Version.zip. Packages can
	// also be added with AddPackage.
	Repository string
	// FastTrack announces changes of extensions through vmSettings instead of a
	// new incarnation. A VM's configuration can override it.
	FastTrack bool

	Subscription  string        // default 00000000-0000-4000-8000-00000000f00d
	ResourceGroup string        // default "rg"
	Location      string        // default "westeurope"
	RetryAfter    time.Duration // between polls of an operation; rounded to seconds, default 1 s
	// ExtensionTimeout is the extensionsTimeBudget of a VM that has none of its
	// own; default 90 minutes, as on the platform.
	ExtensionTimeout time.Duration

	Journal     io.Writer // receives the journal as JSON lines; may be nil
	JournalKeep int       // entries kept in memory; 0 is all
	Log         func(format string, args ...any)
}

// A Fabric is a whole platform: hosts, storage and control plane. Make one
// with Open, or with New in a test. All methods may be called at any time from
// any goroutine.
type Fabric struct {
	opts    Options
	journal *journal
	faults  faults
	store   *store
	ca      *pki.Authority

	mu          sync.Mutex // guards the fields below, and the fields of every VM
	vms         []*VM
	packages    map[string]*handlerPackages // by lower-case handler name
	ops         map[string]*operation
	groups      map[string]*resourceGroup    // by lower-case name
	providers   map[string]*resourceProvider // by lower-case namespace
	servers     []*http.Server
	clients     []*http.Transport
	memory      map[Service]*pipeListener
	lastRequest time.Time
	closed      bool
	seqs        map[string]int // last sequence number by VM and extension; survives deletion

	deployments []*deployment // in the order in which they were first made
}

// TB is the part of testing.TB that New needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// New opens a fabric that lives as long as the test.
func New(t TB, set ...func(*Options)) *Fabric {
	t.Helper()
	var o Options
	for _, s := range set {
		s(&o)
	}
	f, err := Open(o)
	if err != nil {
		t.Fatalf("fabric: %v", err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// Open starts a fabric that is reachable through Client only, until Listen
// gives it addresses.
func Open(o Options) (*Fabric, error) {
	o.BlobURL = strings.TrimRight(or(o.BlobURL, "http://{account}"+memoryDomain), "/")
	if u, err := url.Parse(strings.ReplaceAll(o.BlobURL, "{account}", "a")); err != nil || u.Host == "" {
		return nil, fmt.Errorf("open fabric: blob url %q is not an absolute url", o.BlobURL)
	}
	o.Subscription = or(o.Subscription, "00000000-0000-4000-8000-00000000f00d")
	o.ResourceGroup = or(o.ResourceGroup, "rg")
	o.Location = regionName(or(o.Location, "westeurope"))
	if o.RetryAfter <= 0 {
		o.RetryAfter = time.Second
	}
	if o.ExtensionTimeout <= 0 {
		o.ExtensionTimeout = 90 * time.Minute
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	f := &Fabric{
		opts:      o,
		journal:   newJournal(o.Journal, o.JournalKeep),
		store:     newStore(),
		ca:        &pki.Authority{},
		packages:  map[string]*handlerPackages{},
		ops:       map[string]*operation{},
		groups:    map[string]*resourceGroup{strings.ToLower(o.ResourceGroup): {name: o.ResourceGroup, location: o.Location}},
		providers: newProviders(),
		memory:    map[Service]*pipeListener{},
		seqs:      map[string]int{},

		lastRequest: time.Now(),
	}
	if o.Repository != "" {
		if err := f.loadRepository(o.Repository); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Close ends every listener and connection.
func (f *Fabric) Close() error {
	f.mu.Lock()
	f.closed = true
	servers, clients := f.servers, f.clients
	f.servers, f.clients, f.memory = nil, nil, map[Service]*pipeListener{}
	f.mu.Unlock()
	var errs error
	for _, s := range servers {
		errs = errors.Join(errs, s.Close())
	}
	for _, c := range clients {
		c.CloseIdleConnections()
	}
	return errs
}

type vmKey struct{}

func (f *Fabric) server(s Service) *http.Server {
	return &http.Server{
		Handler:           f.handler(s),
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       2 * time.Minute, // as in Windows' HTTP service
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			if p, ok := c.(*pipeConn); ok && p.vm != nil {
				return context.WithValue(ctx, vmKey{}, p.vm)
			}
			return ctx
		},
		ErrorLog: discardLog(),
	}
}

// Listen serves s on a TCP address and returns the actual address, so that
// "127.0.0.1:0" can be used. Requests that arrive there concern vm; if vm is
// nil, the VM with the source address, or else the first VM. With https the
// certificate is signed by CACertificate.
func (f *Fabric) Listen(s Service, addr string, vm *VM, https bool) (net.Addr, error) {
	lc := net.ListenConfig{KeepAlive: -1} // the platform sends no keep-alive probes either
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", s, err)
	}
	got := l.Addr()
	if https {
		l = tls.NewListener(l, f.ca.ServerConfig())
	}
	srv := f.server(s)
	if vm != nil {
		srv.BaseContext = func(net.Listener) context.Context {
			return context.WithValue(context.Background(), vmKey{}, vm)
		}
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		_ = l.Close()
		return nil, fmt.Errorf("listen for %s: fabric is closed", s)
	}
	f.servers = append(f.servers, srv)
	f.mu.Unlock()
	go func() { _ = srv.Serve(l) }() // returns after Close
	return got, nil
}

// CACertificate returns the CA certificate of the https listeners, as PEM.
func (f *Fabric) CACertificate() ([]byte, error) { return f.ca.PEM() }

// Client returns a client that reaches this fabric and nothing else. The
// requests concern the first VM.
func (f *Fabric) Client() *http.Client { return f.client(nil) }

// Client returns a client whose requests come from this VM.
func (v *VM) Client() *http.Client { return v.f.client(v) }

func (f *Fabric) client(vm *VM) *http.Client {
	t := &http.Transport{
		DisableCompression: true, // like every client of the platform
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return f.dial(ctx, addr, vm)
		},
		TLSClientConfig: &tls.Config{RootCAs: f.ca.Pool(), MinVersion: tls.VersionTLS12},
	}
	f.mu.Lock()
	f.clients = append(f.clients, t)
	f.mu.Unlock()
	return &http.Client{Transport: t}
}

// DialContext connects to the service that a guest finds at addr, within this
// process.
func (f *Fabric) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	return f.dial(ctx, addr, nil)
}

// DialContext is like Fabric.DialContext, for requests from this VM.
func (v *VM) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	return v.f.dial(ctx, addr, v)
}

func (f *Fabric) dial(ctx context.Context, addr string, vm *VM) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("fabric: %w", err)
	}
	var s Service
	blob := f.blobHost()
	switch {
	case host == Endpoint && port == "80":
		s = Wire
	case host == Endpoint && port == hostGAPort:
		s = HostGA
	case host == IMDSAddress && port == "80":
		s = IMDS
	case host == ManagementHost:
		s = ARM
	case strings.HasSuffix(host, memoryDomain), addr == blob:
		s = Blob
	default:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("fabric: no route to %s", addr)}
	}
	l, err := f.pipe(s)
	if err != nil {
		return nil, err
	}
	client, server := net.Pipe()
	var conn net.Conn = &pipeConn{Conn: server, vm: vm}
	if port == "443" {
		conn = tls.Server(conn, f.ca.ServerConfig())
	}
	select {
	case l.conns <- conn:
		return client, nil
	case <-l.done:
		return nil, errors.New("fabric: closed")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// blobHost returns host:port of a blob URL without {account}, for dial.
func (f *Fabric) blobHost() string {
	u, err := url.Parse(f.opts.BlobURL)
	if err != nil {
		return ""
	}
	if u.Port() != "" {
		return u.Host
	}
	if u.Scheme == "https" {
		return u.Host + ":443"
	}
	return u.Host + ":80"
}

func (f *Fabric) pipe(s Service) (*pipeListener, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New("fabric: closed")
	}
	if l := f.memory[s]; l != nil {
		return l, nil
	}
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := f.server(s)
	f.memory[s] = l
	f.servers = append(f.servers, srv)
	go func() { _ = srv.Serve(l) }() // returns after Close
	return l, nil
}

type pipeConn struct {
	net.Conn
	vm *VM
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "fabric" }

// LastRequest returns the time of the last request of a guest or client.
func (f *Fabric) LastRequest() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastRequest
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

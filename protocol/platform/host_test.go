package platform

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/rs/zerolog"
	pkcs12 "software.sslmate.com/src/go-pkcs12"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol/internal/cms/cmstest"
)

// fakeHost is the platform for these tests: only the parts that they need,
// written from the specification. It answers over pipes, so that it works on
// fake time; package test/fabric is the complete emulator.
type fakeHost struct {
	t *testing.T

	mu        sync.Mutex
	inc       string
	container string
	config    string
	noop      int // goal states without a role instance
	ext       string
	vm        string // vmSettings, "" is 404
	etag      string
	access    string
	tenant    []tenant
	blobs     map[string][]byte
	ids       bool   // check the host plugin's headers
	invalid   bool   // stale ones are a 400 and not a 410
	secret    string // sealed for {{secret}} in the list of users
	fixed     bool   // addresses of documents without the incarnation
	stored    int    // what storage says to a PUT; 0 is 201
	kind      string // of the existing blobs; "" takes what is written
	refused   int    // what storage says to a PUT that it refuses
	// refusedFor limits that to addresses with this text, refusePages to writes of pages.
	refusedFor  string
	refusePages bool
	puts        []put
	verified    []bool         // for each blob through the host: was a check asked for
	fail        map[string]int // status by path or host, until removed
	log         []string
	health      []string
	status      []byte
	telemetry   []string
}

type tenant struct {
	cert *x509.Certificate
	key  *rsa.PrivateKey
}

// A put is what arrived at storage, through the host or directly.
type put struct {
	url    string
	header http.Header
	body   []byte
}

func newHost(t *testing.T) *fakeHost {
	return &fakeHost{
		t: t, inc: "1", container: "c1", config: "dep.0.dep.0._vm.1.xml", ext: extNone,
		blobs: map[string][]byte{}, fail: map[string]int{}, ids: true,
	}
}

const extNone = `<Extensions version="1.0.0.0" goalStateIncarnation="1"><StatusUploadBlob statusBlobType="BlockBlob">https://st.blob.example/s/vm.status?sig=canary</StatusUploadBlob><InVMGoalStateMetaData createdOnTicks="638712864000000000"/></Extensions>`

var testKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func newTenant(t *testing.T, name string) tenant {
	t.Helper()
	k := testKey()
	tpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tenant{c, k}
}

// stranger is a certificate of another party, whose key we do not get.
func stranger(t *testing.T) tenant {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CRP"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tenant{cert: c}
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
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// serve starts the services and returns a dialer that connects to them.
func (f *fakeHost) serve() func(ctx context.Context, network, addr string) (net.Conn, error) {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: http.HandlerFunc(f.handle), ReadHeaderTimeout: time.Hour}
	go func() { _ = srv.Serve(l) }()
	f.t.Cleanup(func() { _ = srv.Close() })
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		f.mu.Lock()
		down := f.fail["dial "+addr] != 0
		f.mu.Unlock()
		if down {
			return nil, &net.OpError{Op: "dial", Err: fmt.Errorf("connection refused")}
		}
		a, b := net.Pipe()
		select {
		case l.conns <- b:
			return a, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (f *fakeHost) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// requests returns the log, or those lines of it that contain what.
func (f *fakeHost) requests(what string) (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.log {
		if strings.Contains(l, what) {
			out = append(out, l)
		}
	}
	return out
}

func (f *fakeHost) clear() { f.set(func() { f.log = nil }) }

func (f *fakeHost) handle(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	uri := r.URL.RequestURI()
	f.log = append(f.log, r.Method+" "+r.Host+" "+uri)
	for what, status := range f.fail {
		if status > 0 && (strings.Contains(uri, what) || r.Host == what) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"errorCode":"Injected"}`))
			return
		}
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	switch {
	case host == "169.254.169.254":
		if r.Header.Get("Metadata") == "" {
			w.WriteHeader(400)
			return
		}
		_, _ = w.Write([]byte(`{"compute":{"location":"westus2","vmId":"v","subscriptionId":"s","resourceGroupName":"rg","publisher":"p"}}`))
	case port == "32526":
		f.plugin(w, r, body)
	case strings.HasSuffix(host, ".example"):
		f.blob(w, r, body)
	default:
		f.wireserver(w, r, body)
	}
}

func (f *fakeHost) blob(w http.ResponseWriter, r *http.Request, body []byte) {
	key := "https://" + r.Host + r.URL.Path
	if r.Method == http.MethodPut {
		if f.refuses(r.URL.RequestURI()) {
			w.WriteHeader(f.refused)
			if f.refused == http.StatusForbidden {
				_, _ = w.Write([]byte("<Error><Code>AuthenticationFailed</Code></Error>"))
			}
			return
		}
		if k := r.Header.Get("x-ms-blob-type"); k != "" && f.kind != "" && k != f.kind {
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write([]byte("<Error><Code>InvalidBlobType</Code></Error>"))
			return
		}
		f.put("https://"+r.Host+r.URL.RequestURI(), r.Header, body)
		w.WriteHeader(cmp.Or(f.stored, http.StatusCreated))
		return
	}
	b, ok := f.blobs[key]
	if !ok {
		w.WriteHeader(404)
		return
	}
	w.Header().Set("Etag", `"e1"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// refuses reports whether storage does not accept a write.
func (f *fakeHost) refuses(uri string) bool {
	return f.refused != 0 && strings.Contains(uri, f.refusedFor) && (!f.refusePages || strings.Contains(uri, "comp=page"))
}

// put plays storage. It reports violations of the protocol by the writer.
func (f *fakeHost) put(url string, h http.Header, body []byte) {
	f.puts = append(f.puts, put{url, h, body})
	if v := h.Get("x-ms-version"); v != "2014-02-14" {
		f.t.Errorf("PUT %s with x-ms-version %q", url, v)
	}
	if _, err := time.Parse(time.RFC3339, h.Get("x-ms-date")); err != nil {
		f.t.Errorf("PUT %s: %v", url, err)
	}
	key, _, _ := strings.Cut(url, "?")
	f.blobs[key] = body
	if strings.HasSuffix(key, ".status") {
		f.status = body
	}
}

func (f *fakeHost) stale(w http.ResponseWriter, r *http.Request) bool {
	if !f.ids {
		return false
	}
	if v := r.Header.Get("x-ms-version"); v != "2015-09-01" {
		f.t.Errorf("%s with x-ms-version %q", r.URL, v)
	}
	if r.Header.Get("x-ms-containerid") != f.container || r.Header.Get("x-ms-host-config-name") != f.config {
		if f.invalid {
			w.WriteHeader(400)
			_, _ = w.Write([]byte(`{"errorCode":"InvalidContainerConfiguration"}`))
			return true
		}
		w.WriteHeader(410)
		_, _ = w.Write([]byte(`{"errorCode":"RequestRoleConfigFileNotFound"}`))
		return true
	}
	return false
}

func (f *fakeHost) plugin(w http.ResponseWriter, r *http.Request, body []byte) {
	switch r.URL.Path {
	case "/versions":
		_, _ = w.Write([]byte(`["2015-09-01"]`))
	case "/health":
	case "/vmSettings":
		if f.stale(w, r) {
			return
		}
		switch {
		case f.vm == "":
			w.WriteHeader(404)
		case r.Header.Get("If-None-Match") == f.etag:
			w.WriteHeader(304)
		default:
			w.Header()["ETag"] = []string{f.etag}
			_, _ = w.Write([]byte(f.vm))
		}
	case "/extensionArtifact":
		if f.stale(w, r) {
			return
		}
		f.verified = append(f.verified, r.Header.Get("x-ms-verify-from-artifacts-blob") == "true")
		u := r.Header.Get("x-ms-artifact-location")
		u, _, _ = strings.Cut(u, "?")
		b, ok := f.blobs[u]
		if !ok {
			w.WriteHeader(502)
			return
		}
		_, _ = w.Write(b)
	case "/status":
		if f.stale(w, r) {
			return
		}
		var in struct {
			Content    string
			Headers    []struct{ HeaderName, HeaderValue string }
			RequestURI string
		}
		if err := json.Unmarshal(body, &in); err != nil {
			f.t.Errorf("status body: %v", err)
		}
		b, err := base64.StdEncoding.DecodeString(in.Content)
		if err != nil {
			f.t.Errorf("status content: %v", err)
		}
		head := http.Header{}
		for _, h := range in.Headers {
			head.Set(h.HeaderName, h.HeaderValue)
		}
		if n := head.Get("Content-Length"); n != strconv.Itoa(len(b)) {
			f.t.Errorf("status length %s for %d bytes", n, len(b))
		}
		if k := head.Get("x-ms-blob-type"); k != "" && f.kind != "" && k != f.kind {
			w.WriteHeader(502)
			return
		}
		if f.refuses(in.RequestURI) {
			w.WriteHeader(502)
			return
		}
		f.put(in.RequestURI, head, b)
	case "/vmAgentLog":
		f.blobs["log"] = body
	default:
		w.WriteHeader(404)
	}
}

func (f *fakeHost) wireserver(w http.ResponseWriter, r *http.Request, body []byte) {
	q := r.URL.Query()
	comp := q.Get("comp")
	if comp != "versions" && r.URL.Path != "/HealthService" && r.Header.Get("x-ms-version") != "2012-11-30" {
		f.t.Errorf("%s without its version", r.URL)
	}
	if comp == "versions" {
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Ms-") {
				f.t.Errorf("%s with %s", r.URL, name)
			}
		}
	}
	if r.Method == http.MethodPost && comp != "" && r.URL.Path != "/machine" {
		f.t.Errorf("POST %s has a slash too many", r.URL)
	}
	base := "http://168.63.129.16:80/machine/" + f.container + "/dep%2D1.%5Fvm?"
	switch {
	case r.URL.Path == "/HealthService":
		f.telemetry = append(f.telemetry, string(body))
	case comp == "versions":
		_, _ = w.Write([]byte("\xef\xbb\xbf<?xml version=\"1.0\"?><Versions><Preferred><Version>2012-11-30</Version></Preferred><Supported/></Versions>"))
	case comp == "goalstate":
		roles := `<RoleInstanceList><RoleInstance><InstanceId>dep._vm</InstanceId><Configuration>`
		for name, c := range map[string]string{
			"HostingEnvironmentConfig": "comp=config&amp;type=hostingEnvironmentConfig", "SharedConfig": "comp=config&amp;type=sharedConfig",
			"ExtensionsConfig": "comp=config&amp;type=extensionsConfig", "Certificates": "comp=certificates",
		} {
			if !f.fixed {
				c += "&amp;incarnation=" + f.inc
			}
			roles += "<" + name + ">\n" + base + c + "\n</" + name + ">"
		}
		roles += "<ConfigName>" + f.config + "</ConfigName></Configuration></RoleInstance></RoleInstanceList>"
		if f.noop > 0 {
			f.noop--
			roles = ""
		}
		access := ""
		if f.access != "" {
			access = "<RemoteAccessInfo>" + base + "comp=remoteAccessInfo&amp;incarnation=" + f.inc + "</RemoteAccessInfo>"
		}
		_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><GoalState><Version>2012-11-30</Version><Incarnation>%s</Incarnation><Container><ContainerId>%s</ContainerId>%s%s</Container></GoalState>`, f.inc, f.container, access, roles)
	case !strings.Contains(r.URL.RequestURI(), "%2D1.%5Fvm") && r.Method == http.MethodGet:
		f.t.Errorf("address was changed: %s", r.URL.RequestURI())
	case q.Get("type") == "extensionsConfig":
		_, _ = w.Write([]byte(f.ext))
	case q.Get("type") == "hostingEnvironmentConfig":
		_, _ = w.Write([]byte(`<HostingEnvironmentConfig><Incarnation number="1" instance="_vm"/></HostingEnvironmentConfig>`))
	case q.Get("type") == "sharedConfig":
		_, _ = w.Write([]byte(`<SharedConfig version="1.0.0.0"/>`))
	case comp == "certificates":
		f.certificates(w, r)
	case comp == "remoteAccessInfo":
		cert, err := transportCert(r)
		if err != nil {
			f.t.Errorf("transport certificate: %v", err)
			return
		}
		text := utf16.Encode([]rune(f.secret))
		plain := make([]byte, 0, 2*len(text))
		for _, u := range text {
			plain = binary.LittleEndian.AppendUint16(plain, u)
		}
		sealed := base64.StdEncoding.EncodeToString(cmstest.Seal(plain, cert, cmstest.Options{}))
		_, _ = w.Write([]byte(strings.ReplaceAll(f.access, "{{secret}}", sealed)))
	case comp == "health":
		f.health = append(f.health, string(body))
	case comp == "roleProperties":
		w.WriteHeader(202)
	case comp == "telemetrydata":
		f.telemetry = append(f.telemetry, string(body))
	default:
		w.WriteHeader(404)
	}
}

func transportCert(r *http.Request) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.DecodeString(r.Header.Get("x-ms-guest-agent-public-x509-cert"))
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (f *fakeHost) certificates(w http.ResponseWriter, r *http.Request) {
	cert, err := transportCert(r)
	if err != nil {
		f.t.Errorf("transport certificate: %v", err)
		return
	}
	data := ""
	if len(f.tenant) > 0 {
		var chain []*x509.Certificate
		for _, t := range f.tenant[1:] {
			chain = append(chain, t.cert)
		}
		pfx, err := pkcs12.LegacyDES.Encode(f.tenant[0].key, f.tenant[0].cert, chain, "")
		if err != nil {
			f.t.Errorf("pfx: %v", err)
		}
		o := cmstest.Options{}
		if r.Header.Get("x-ms-cipher-name") == "DES_EDE3_CBC" {
			o = cmstest.Options{PKCS1: true, Cipher: "3des"}
		}
		if n := f.fail["certificates "+r.Header.Get("x-ms-cipher-name")]; n != 0 {
			w.WriteHeader(n)
			return
		}
		data = "<Data>" + base64.StdEncoding.EncodeToString(cmstest.Seal(pfx, cert, o)) + "</Data>"
	}
	_, _ = fmt.Fprintf(w, `<CertificateFile><Format>Pkcs7BlobWithPfxContents</Format>%s</CertificateFile>`, data)
}

// client makes a client that talks to this host.
func (f *fakeHost) client(root host.Root, change func(*Options)) *Client {
	o := Options{Root: root, Dial: f.serve(), AgentVersion: "9.9.9", VMID: "vm-id", Log: zerolog.New(zerolog.NewTestWriter(f.t))}
	if change != nil {
		change(&o)
	}
	c := New(o)
	f.t.Cleanup(c.Close)
	return c
}

func mustPFX(t tenant) []byte {
	b, err := pkcs12.LegacyDES.Encode(t.key, t.cert, nil, "")
	if err != nil {
		panic(err)
	}
	return b
}

package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Ciphers for encrypted documents. The name decides the key transport too:
// AES comes with RSA-OAEP, DES with PKCS#1 v1.5 (protocol/SPEC.md §5.2).
const (
	AES = "AES128_CBC"
	DES = "DES_EDE3_CBC"
)

// A Client talks to the WireServer at one endpoint.
type Client struct {
	web      *web.Client
	endpoint string
	agent    string

	mu       sync.Mutex // guards the last goal state
	last     *GoalState
	lastText []byte
}

// New makes a client. endpoint is an address, or address:port; agentName is
// the x-ms-agent-name, "WALinuxAgent" unless configured otherwise.
func New(w *web.Client, endpoint, agentName string) *Client {
	return &Client{web: w, endpoint: endpoint, agent: agentName}
}

// do sends every request to the WireServer.
func (c *Client) do(ctx context.Context, r web.Request) ([]byte, error) {
	if strings.HasPrefix(r.URL, "/") {
		r.URL = "http://" + c.endpoint + r.URL
	}
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if r.Op != "versions" && r.Op != "healthService" {
		r.Header.Set("X-Ms-Agent-Name", c.agent)
		r.Header.Set("X-Ms-Version", Version)
	}
	if r.Method == http.MethodPost && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "text/xml;charset=utf-8")
	}
	if r.Limit == 0 {
		r.Limit = maxAnswer
	}
	resp, err := c.web.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Versions asks for the protocol versions; the only call without an x-ms
// header. With patience < 0 it repeats until the context ends.
func (c *Client) Versions(ctx context.Context, patience time.Duration) (Versions, error) {
	b, err := c.do(ctx, web.Request{Op: "versions", URL: "/?comp=versions", Tries: -1, Patience: patience, Limit: limits("versions").Bytes})
	if err != nil {
		return Versions{}, err
	}
	return ParseVersions(b)
}

// noopTries and noopGap say how often and how fast an incomplete goal state is
// asked for again (protocol/SPEC.md §4.2).
const (
	noopTries = 6
	noopGap   = 500 * time.Millisecond
)

// GoalState gets the goal state and its text. patience bounds the repetitions
// after a failure; 0 is one attempt, for callers that poll anyway.
func (c *Client) GoalState(ctx context.Context, patience time.Duration) (*GoalState, []byte, error) {
	r := web.Request{Op: "goalstate", URL: "/machine/?comp=goalstate", Tries: -1, Patience: patience, Limit: limits("goalstate").Bytes}
	if patience == 0 {
		r.Tries = 1
	}
	for n := 1; ; n++ {
		b, err := c.do(ctx, r)
		if err != nil {
			return nil, nil, err
		}
		g, err := c.parseGoalState(b)
		if !errors.Is(err, ErrIncomplete) || n >= noopTries {
			return g, b, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-time.After(noopGap):
		}
	}
}

// parseGoalState does not parse a document that equals the last one: a machine
// polls for months, and nearly every answer is the same.
func (c *Client) parseGoalState(b []byte) (*GoalState, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && bytes.Equal(b, c.lastText) {
		g := *c.last
		return &g, nil
	}
	g, err := ParseGoalState(b)
	if err == nil {
		keep := *g
		c.last, c.lastText = &keep, b
	}
	return g, err
}

// Document gets a document that the goal state names by its address, which is
// sent unchanged.
func (c *Client) Document(ctx context.Context, name, uri string) ([]byte, error) {
	return c.do(ctx, web.Request{Op: name, URL: uri, Tries: 3, Patience: 10 * time.Second, Limit: limits(name).Bytes})
}

// Encrypted gets a document that is encrypted to a certificate (base64 DER).
func (c *Client) Encrypted(ctx context.Context, name, uri, cert, cipher string) ([]byte, error) {
	h := http.Header{}
	h.Set("X-Ms-Guest-Agent-Public-X509-Cert", cert)
	h.Set("X-Ms-Cipher-Name", cipher)
	return c.do(ctx, web.Request{Op: name + "." + cipher, URL: uri, Header: h, Tries: 2, Patience: 10 * time.Second, Limit: limits(name).Bytes})
}

// PostHealth sends a health report until it is accepted or the context ends.
func (c *Client) PostHealth(ctx context.Context, g *GoalState, h protocol.Health) error {
	_, err := c.do(ctx, web.Request{Op: "health", Method: http.MethodPost, URL: "/machine?comp=health", Body: Health(g, h), Tries: -1, Patience: web.Forever, Check: noPage})
	return err
}

// noPage refuses a page in answer to a health report: a proxy or a portal has
// taken the report, and the platform has not. Nothing is known about what may
// be in an answer of the platform, so everything else is accepted.
func noPage(r *web.Response) error {
	if web.IsPage(r.Body) {
		return &protocol.DocumentError{Doc: "answer to a health report", Err: errors.New("it is a page")}
	}
	return nil
}

// PostProvisioningHealth sends a health report once, to the service that
// identifies the machine by its network address: the report needs no names
// from a goal state, but not every cloud has the service.
func (c *Client) PostProvisioningHealth(ctx context.Context, h protocol.Health) error {
	body, err := ProvisioningHealth(h)
	if err != nil {
		return fmt.Errorf("build health report: %w", err)
	}
	_, err = c.do(ctx, web.Request{
		Op: "provisioningHealth", Method: http.MethodPost, URL: "/provisioning/health", Body: body, Tries: 1, Check: noPage,
		Header: http.Header{"Content-Type": {"application/json"}, "X-Ms-Guest-Agent-Name": {c.agent}},
	})
	return err
}

// PostTelemetry sends one batch. After three failed attempts it is lost.
func (c *Client) PostTelemetry(ctx context.Context, b Batch) error {
	_, err := c.do(ctx, web.Request{Op: "telemetry", Method: http.MethodPost, URL: "/machine?comp=telemetrydata", Body: b.Body, Tries: 3, Patience: 20 * time.Second})
	return err
}

// PostTelemetryAll sends batches, no faster than the server accepts, and
// returns how many events arrived.
func (c *Client) PostTelemetryAll(ctx context.Context, batches []Batch) (sent int, err error) {
	for i, b := range batches {
		if i > 0 {
			select {
			case <-ctx.Done():
				return sent, context.Cause(ctx)
			case <-time.After(telemetryGap):
			}
		}
		if perr := c.PostTelemetry(ctx, b); perr != nil {
			err = errors.Join(err, perr)
			if _, paused := errors.AsType[*protocol.Fault](perr); paused {
				return sent, err
			}
			continue
		}
		sent += b.Events
	}
	return sent, err
}

// PostHealthService reports observations, best effort, one attempt.
func (c *Client) PostHealthService(ctx context.Context, source string, obs []Observation) error {
	body, err := HealthService(source, obs)
	if err != nil {
		return fmt.Errorf("build health report: %w", err)
	}
	_, err = c.do(ctx, web.Request{
		Op: "healthService", Method: http.MethodPost, URL: "/HealthService", Body: body, Tries: 1,
		Header: http.Header{"Content-Type": {"application/json"}},
	})
	return err
}

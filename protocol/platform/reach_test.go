package platform

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/protocol/internal/web"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for want, err := range map[string]error{
		FaultRoute:   dial(syscall.ENETUNREACH),
		FaultBlocked: dial(syscall.EPERM),
		FaultRefused: dial(syscall.ECONNREFUSED),
		FaultTimeout: dial(context.DeadlineExceeded),
		FaultProxy:   &net.OpError{Op: "proxyconnect", Net: "tcp", Err: dial(syscall.ECONNREFUSED)},
		FaultTLS:     &tls.CertificateVerificationError{Err: errors.New("x509: unknown authority")},
		FaultDNS:     dial(&net.DNSError{Err: "no such host", Name: "st.example"}),
		FaultNetwork: io.ErrUnexpectedEOF,
	} {
		if got := classify(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

type answers func(*http.Request) (*http.Response, error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := map[string]bool{}
		c := &Client{}
		rt := answers(func(r *http.Request) (*http.Response, error) {
			time.Sleep(20 * time.Millisecond)
			if down[r.URL.Host] {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			h := http.Header{"Date": {time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)}}
			return &http.Response{StatusCode: 200, Status: "200 OK", Header: h, Body: io.NopCloser(strings.NewReader(""))}, nil
		})
		near := &observedTransport{rt: rt, c: c, near: true}
		far := &observedTransport{rt: rt, c: c, proxy: &web.Proxy{HTTPS: "http://joe:canary@proxy:3128"}}
		ask := func(w *observedTransport, url string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := w.RoundTrip(req); err == nil {
				_ = resp.Body.Close()
			}
		}
		look := func() map[string]string {
			out := map[string]string{}
			for _, f := range c.Endpoints() {
				out[f.Name] = fmt.Sprintf("failing=%v via=%s fault=%s proxy=%s url=%s took=%v", f.Failing(), f.Via, f.Fault, f.Proxy, f.URL, f.Latency)
			}
			return out
		}
		const (
			wire = "http://168.63.129.16/machine?comp=goalstate"
			host = "http://168.63.129.16:32526/health"
			blob = "https://st.example/c/b?sig=canary"
		)
		ask(near, wire)
		ask(near, host)
		ask(far, blob)
		want := map[string]string{
			WireServer: "failing=false via=direct fault= proxy= url=http://168.63.129.16 took=20ms",
			HostPlugin: "failing=false via=direct fault= proxy= url=http://168.63.129.16:32526 took=20ms",
			Storage:    "failing=false via=direct fault= proxy=http://proxy:3128 url=https://st.example took=20ms",
		}
		if diff := cmp.Diff(want, look()); diff != "" {
			t.Errorf("all well (-want +got):\n%s", diff)
		}
		if skew, _, ok := c.Skew(); !ok || skew < time.Hour-time.Second || skew > time.Hour+time.Second {
			t.Errorf("skew %v %v, want an hour", skew, ok)
		}
		down["168.63.129.16:32526"], down["st.example"] = true, true
		ask(near, host)
		ask(far, blob)
		want[HostPlugin] = "failing=true via=direct fault=refused proxy= url=http://168.63.129.16:32526 took=20ms"
		want[Storage] = "failing=true via=direct fault=refused proxy=http://proxy:3128 url=https://st.example took=20ms"
		if diff := cmp.Diff(want, look()); diff != "" {
			t.Errorf("two down (-want +got):\n%s", diff)
		}
		// It works through the host, so storage counts as reachable.
		c.noteRelay(nil)
		want[Storage] = "failing=false via=host fault=refused proxy=http://proxy:3128 url=https://st.example took=0s"
		if diff := cmp.Diff(want, look()); diff != "" {
			t.Errorf("relayed (-want +got):\n%s", diff)
		}
		// A request that we cancelled is no fault of the service.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, wire, nil)
		if err != nil {
			t.Fatal(err)
		}
		down["168.63.129.16"] = true
		if resp, err := near.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
		if diff := cmp.Diff(want, look()); diff != "" {
			t.Errorf("cancelled (-want +got):\n%s", diff)
		}
	})
}

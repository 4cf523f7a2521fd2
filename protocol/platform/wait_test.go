package platform

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestPAT1ChangesWake: DNS that comes late, no route at first and a certificate
// that is not trusted end with a change of this machine, and a download that
// waits for minutes by then is made at once.
func TestPAT1ChangesWake(t *testing.T) {
	t.Parallel()
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for name, fault := range map[string]error{
		"DNS":      dial(&net.DNSError{Err: "server misbehaving", Name: "a.example", IsTemporary: true}),
		"NXDOMAIN": dial(&net.DNSError{Err: "no such host", Name: "a.example", IsNotFound: true}),
		"no route": dial(errors.New("network is unreachable")),
		"TLS":      &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}},
	} {
		for _, by := range []string{"name servers", "route"} {
			synctest.Test(t, func(t *testing.T) {
				var up atomic.Bool
				n := 0
				rt := roundTrips(func(*http.Request) (*http.Response, error) {
					if n++; !up.Load() {
						return nil, fault
					}
					return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<PluginVersionManifest/>"))}, nil
				})
				routes := make(chan struct{}, 1)
				root := host.Root(t.TempDir())
				c := New(Options{Root: root, HTTP: &http.Client{Transport: rt}, Log: zerolog.Nop(), Routes: func() (func(context.Context) error, func(), error) {
					return func(ctx context.Context) error {
						select {
						case <-ctx.Done():
							return context.Cause(ctx)
						case <-routes:
							return nil
						}
					}, func() {}, nil
				}})
				uris := []secret.URL{secret.NewURL("https://a.example/m")}
				var err error
				for start := time.Now(); time.Since(start) < 10*time.Minute || time.Until(protocol.NextTry(err)) < 30*time.Second; {
					time.Sleep(time.Until(protocol.NextTry(err)))
					if _, err = c.Manifest(t.Context(), uris); protocol.OutlookOf(err, "none") != protocol.Later {
						t.Fatalf("%s: %v", name, err)
					}
				}
				go func() {
					time.Sleep(10 * time.Second)
					up.Store(true)
					if by == "route" {
						routes <- struct{}{}
					} else if err := root.MkdirAll("/etc", 0o755); err != nil {
						t.Error(err)
					} else if err := root.WriteFile("/etc/resolv.conf", []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
						t.Error(err)
					}
				}()
				start := time.Now()
				if changed, err := c.Wait(t.Context(), time.Hour); !changed || err != nil || time.Since(start) > 13*time.Second {
					t.Errorf("%s, %s: woken %v, %v after %v", name, by, changed, err, time.Since(start))
				}
				if _, err := c.Manifest(t.Context(), uris); err != nil {
					t.Errorf("%s, %s: %v", name, by, err)
				}
				if n > 2*protocol.PaceHourly {
					t.Errorf("%d requests", n)
				}
				start = time.Now()
				if changed, err := c.Wait(t.Context(), time.Minute); changed || err != nil || time.Since(start) != time.Minute {
					t.Errorf("without a change: %v, %v after %v", changed, err, time.Since(start))
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := c.Wait(ctx, time.Minute); err == nil {
					t.Error("the end of the context is no error")
				}
			})
		}
	}
}

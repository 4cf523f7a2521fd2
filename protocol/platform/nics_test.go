package platform

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol/internal/web"
)

// TestSecondInterface: the kernel's choice does not reach the platform, one of
// the other interfaces does.
func TestSecondInterface(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	refuse := func(context.Context) error { return errors.New("network is unreachable") }
	for name, tc := range map[string]struct {
		names []string
		kinds map[string]func(context.Context) error // nil: it works
		want  []string                               // interface of two connections
		most  time.Duration
	}{
		"one":           {[]string{"eth0"}, map[string]func(context.Context) error{}, []string{"", ""}, 0},
		"two":           {[]string{"eth0", "eth1"}, map[string]func(context.Context) error{}, []string{"", ""}, 0},
		"wrong route":   {[]string{"eth0", "eth1"}, map[string]func(context.Context) error{"": hang, "eth0": hang}, []string{"eth1", "eth1"}, nicPatience},
		"no route":      {[]string{"eth0", "eth1"}, map[string]func(context.Context) error{"": refuse, "eth1": refuse}, []string{"eth0", "eth0"}, 0},
		"nothing works": {[]string{"eth0", "eth1"}, map[string]func(context.Context) error{"": refuse, "eth0": refuse, "eth1": refuse}, []string{"-", "-"}, 0},
		"one, no route": {[]string{"eth0"}, map[string]func(context.Context) error{"": refuse}, []string{"-", "-"}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			through := func(nic string) web.Dial {
				return func(ctx context.Context, _, _ string) (net.Conn, error) {
					if fault := tc.kinds[nic]; fault != nil {
						return nil, fault(ctx)
					}
					a, b := net.Pipe()
					mu.Lock()
					defer mu.Unlock()
					t.Cleanup(func() { _, _ = a.Close(), b.Close() })
					return a, nil
				}
			}
			n := &nics{kernel: through(""), through: through, list: func() []string { return tc.names }}
			var got []string
			for i := range 2 {
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := n.dial(ctx, "tcp", "168.63.129.16:80")
				cancel()
				if err != nil {
					got = append(got, "-")
					if err.Error() != "network is unreachable" {
						t.Errorf("%s: %v", name, err)
					}
				} else {
					got = append(got, n.worked)
				}
				if took := time.Since(start); i == 0 && took > tc.most || i == 1 && took > 0 {
					t.Errorf("%s: connection %d took %v", name, i, took)
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("%s: through %q, want %q", name, got, tc.want)
			}
		})
	}
}

// TestERR1DialEndsWithItsContext: however an attempt behaves, a dial returns
// when its context ends, and no connection that comes later is left open.
func TestERR1DialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	errOver := errors.New("told to end")
	type attempt func(ctx context.Context) (net.Conn, error)
	var mu sync.Mutex
	open := 0
	conn := func() net.Conn {
		a, b := net.Pipe()
		_ = b.Close()
		mu.Lock()
		defer mu.Unlock()
		open++
		return &counted{Conn: a, closed: func() {
			mu.Lock()
			defer mu.Unlock()
			open--
		}}
	}
	obeys := func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, context.Cause(ctx) }
	slow := func(context.Context) (net.Conn, error) { time.Sleep(time.Minute); return conn(), nil }
	fails := func(context.Context) (net.Conn, error) { time.Sleep(time.Minute); return nil, errors.New("timed out") }
	refuses := func(context.Context) (net.Conn, error) { return nil, errors.New("network is unreachable") }
	all := map[string]attempt{"obeys": obeys, "slow": slow, "fails late": fails, "refuses": refuses}
	for kind, kernel := range all {
		for other, nic := range all {
			if kind == "refuses" && other == "refuses" {
				continue // nothing to wait for
			}
			for _, after := range []time.Duration{0, 20 * time.Millisecond, nicPatience, 5 * time.Second} {
				synctest.Test(t, func(t *testing.T) {
					through := func(string) web.Dial {
						return func(ctx context.Context, _, _ string) (net.Conn, error) { return nic(ctx) }
					}
					n := &nics{
						kernel:  func(ctx context.Context, _, _ string) (net.Conn, error) { return kernel(ctx) },
						through: through, list: func() []string { return []string{"eth0", "eth1"} },
					}
					ctx, cancel := context.WithCancelCause(t.Context())
					if after == 0 {
						cancel(errOver)
					}
					time.AfterFunc(after, func() { cancel(errOver) })
					start := time.Now()
					c, err := n.dial(ctx, "tcp", "168.63.129.16:80")
					if c != nil || err == nil {
						t.Errorf("kernel %s, others %s, ended after %v: got a connection or no error", kind, other, after)
					}
					if took := time.Since(start); took > after {
						t.Errorf("kernel %s, others %s, ended after %v: returned %v later", kind, other, after, took-after)
					}
					time.Sleep(10 * time.Minute) // for attempts that ignore the context
				})
				if open != 0 {
					t.Fatalf("kernel %s, others %s, ended after %v: %d connections left open", kind, other, after, open)
				}
			}
		}
	}
}

type counted struct {
	net.Conn
	closed func()
}

func (c *counted) Close() error {
	c.closed()
	return c.Conn.Close()
}

// TestERR1CanaryEndsWithItsCaller: the same through the client, for the canary
// that a waiting request sends.
func TestERR1CanaryEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, f *fakeHost, _ *Client) {
		silent := false
		var mu sync.Mutex
		c := f.client(host.Root(t.TempDir()), func(o *Options) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				mu.Lock()
				hang := silent
				mu.Unlock()
				if hang {
					time.Sleep(time.Hour) // an attempt that ignores the context
				}
				return dial(ctx, network, addr)
			}
		})
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		gs := mustGS(t, c, "")
		f.set(func() { f.fail["dial 168.63.129.16:80"] = 1 })
		for range 3 {
			c.Close()
			_, _ = c.GoalState(t.Context(), gs.Key())
			time.Sleep(10 * time.Second)
		}
		mu.Lock()
		silent = true
		mu.Unlock()
		for range 30 {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			_, err := c.GoalState(ctx, gs.Key())
			cancel()
			if err == nil || time.Since(start) > time.Second {
				t.Errorf("GoalState = %v after %v", err, time.Since(start))
			}
			time.Sleep(6 * time.Second)
		}
		time.Sleep(2 * time.Hour) // for the attempts
	})
}

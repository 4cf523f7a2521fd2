package platform

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// TestConnectWakesWithTheLease: the agent is up before the network, and tries
// again when the kernel says that there is one.
func TestConnectWakesWithTheLease(t *testing.T) {
	t.Parallel()
	for _, away := range []time.Duration{300 * time.Millisecond, 5 * time.Second, 47 * time.Second, 10 * time.Minute} {
		bubble(t, nil, func(t *testing.T, f *fakeHost, _ *Client) {
			changes := make(chan struct{})
			ended := false
			c := f.client(host.Root(t.TempDir()), func(o *Options) {
				o.Routes = func() (func(context.Context) error, func(), error) {
					next := func(ctx context.Context) error {
						select {
						case <-changes:
							return nil
						case <-ctx.Done():
							return context.Cause(ctx)
						}
					}
					return next, func() { ended = true }, nil
				}
			})
			f.set(func() { f.fail["dial 168.63.129.16:80"] = 1 })
			start := time.Now()
			tell := func() {
				select {
				case changes <- struct{}{}:
				default: // nobody listens
				}
				time.Sleep(10 * time.Millisecond)
			}
			var teller sync.WaitGroup
			defer teller.Wait()
			teller.Go(func() {
				time.Sleep(away / 2)
				tell() // a link-local address: no way to the platform yet
				time.Sleep(away / 2)
				f.set(func() { clear(f.fail) })
				for range 5 { // address, local route, subnet route, default route, …
					tell()
				}
			})
			if err := c.Connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if late := time.Since(start) - away; late < 0 || late > 2*time.Second {
				t.Errorf("the network came after %v, the connection %v later", away, late)
			}
			if !ended {
				t.Error("the listener has not ended")
			}
		})
	}
}

// TestDefaultAddressDoesNotDelayNetworkManager: where there may be a
// NetworkManager to ask, a default address that does not answer is not tried
// for half a minute before that.
func TestDefaultAddressDoesNotDelayNetworkManager(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, f *fakeHost, _ *Client) {
		root := host.Root(t.TempDir())
		write := func(name, text string) {
			if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := root.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("/run/dbus/system_bus_socket", "") // nobody listens
		c := f.client(root, nil)
		f.set(func() { f.fail["dial 168.63.129.16:80"] = 1 })
		start := time.Now()
		var lease sync.WaitGroup
		defer lease.Wait()
		lease.Go(func() {
			time.Sleep(2 * time.Second)
			write("/run/systemd/netif/leases/2", "OPTION_245=0a010203\n")
		})
		if err := c.Connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); c.Endpoint() != "10.1.2.3" || took > 15*time.Second {
			t.Errorf("connected to %s after %v", c.Endpoint(), took)
		}
	})
}

// TestARouteThatFlapsMakesNoLoop: a change every tenth of a second for an hour.
func TestARouteThatFlapsMakesNoLoop(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, f *fakeHost, _ *Client) {
		c := f.client(host.Root(t.TempDir()), func(o *Options) {
			o.Routes = func() (func(context.Context) error, func(), error) {
				return func(ctx context.Context) error { return sleep(ctx, 100*time.Millisecond) }, func() {}, nil
			}
		})
		f.set(func() { f.fail["comp=versions"] = 503 })
		f.clear()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Connect(ctx); err == nil {
			t.Error("Connect(): no error")
		}
		if n := len(f.requests("versions")); n > 360 {
			t.Errorf("%d attempts in an hour", n)
		}
	})
}

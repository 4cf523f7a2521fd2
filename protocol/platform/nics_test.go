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

	"github.com/azguest/azguest/protocol/internal/web"
)

// TestSecondInterface: the kernel's choice leads nowhere, one of the
// interfaces does (asks U25).
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
			n := &nics{plain: through(""), through: through, list: func() []string { return tc.names }}
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
					got = append(got, n.last)
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

package platform

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// TestShortFaultsHealWithinAMinute: one document of a new goal state can't be
// fetched or read while everything else works, and later it can, without any
// other sign of it (protocol/SPEC.md §2.5).
func TestShortFaultsHealWithinAMinute(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*fakeHost){
		"extensions 500":     func(f *fakeHost) { f.fail["extensionsConfig"] = 500 },
		"extensions 404":     func(f *fakeHost) { f.fail["extensionsConfig"] = 404 },
		"extensions 410":     func(f *fakeHost) { f.fail["extensionsConfig"] = 410 },
		"extensions broken":  func(f *fakeHost) { f.ext = "<html><body>Service Unavailable" },
		"goal state 503":     func(f *fakeHost) { f.fail["comp=goalstate"] = 503 },
		"goal state partial": func(f *fakeHost) { f.noop = 1 << 30 },
		"no connection":      func(f *fakeHost) { f.fail["dial 168.63.129.16:80"] = 1 },
	} {
		for _, away := range []time.Duration{5 * time.Second, 30 * time.Second, 100 * time.Second, 3 * time.Minute} {
			bubble(t, nil, func(t *testing.T, f *fakeHost, c *Client) {
				gs := mustGS(t, c, "")
				good := f.ext
				f.set(func() { f.inc = "2"; fault(f) })
				for start := time.Now(); time.Since(start) < away; {
					_, _ = c.GoalState(t.Context(), gs.Key())
					time.Sleep(6 * time.Second)
				}
				f.set(func() { f.ext, f.noop = good, 0; clear(f.fail) })
				start := time.Now()
				for {
					if gs2, err := c.GoalState(t.Context(), gs.Key()); err == nil && gs2.Incarnation == "2" {
						break
					}
					time.Sleep(6 * time.Second)
				}
				if late := time.Since(start); late > time.Minute {
					t.Errorf("%s for %v: healed after %v", name, away, late)
				}
			})
		}
	}
}

// TestMetadataHealsWithinAMinute: the canary of the metadata service is a
// request that the service knows, not the WireServer's, which it refuses.
func TestMetadataHealsWithinAMinute(t *testing.T) {
	t.Parallel()
	testKey()
	for minutes := 10; minutes < 25; minutes++ {
		synctest.Test(t, func(t *testing.T) {
			f := newHost(t)
			c := f.client(host.Root(t.TempDir()), func(o *Options) { o.IMDSHeartbeat = true })
			mustGS(t, c, "")
			f.set(func() { f.fail["/metadata/"] = 503 })
			for range minutes {
				_ = c.Heartbeat(t.Context())
				time.Sleep(time.Minute)
			}
			before := len(f.requests("/metadata/instance/network"))
			f.set(func() { clear(f.fail) })
			_ = c.Heartbeat(t.Context())
			if after := len(f.requests("/metadata/instance/network")); after == before {
				t.Errorf("not asked again after a fault of %d minutes", minutes)
			}
			for _, r := range f.requests("169.254.169.254") {
				if !strings.Contains(r, "/metadata/") {
					t.Errorf("asked for %s", r)
				}
			}
		})
	}
}

package agent

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/agent/config"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/status"
	"github.com/azguest/azguest/test/fabric"
)

// ops returns every request of the control socket.
func ops() []status.Request {
	return []status.Request{
		{Op: status.OpReport},
		{Op: status.OpRetry, Extension: "Contoso.Echo"},
		{Op: status.OpCancel, Extension: "Contoso.Echo"},
		{Op: status.OpHold, ForS: 60},
		{Op: status.OpResume},
		{Op: status.OpClean},
		{Op: status.OpDoctor},
		{Op: "unheard of"},
	}
}

// TestERR6RequestsWhileStarting: requests on the control socket do not change
// how an agent starts, and one whose VM was ordered without an agent does not
// begin to report. It is run with -race.
func TestERR6RequestsWhileStarting(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]bool{"on": false, "disable_agent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := fabric.New(t)
			if err := f.AddPackage("Contoso.Echo", "1.0.0", []byte(emptyZip)); err != nil {
				t.Fatal(err)
			}
			vm := f.CreateVM("vm-01", fabric.Linux("azureuser", "ssh-ed25519 AAAA"))
			if err := vm.PutExtension("Contoso.Echo", "1.0.0", map[string]any{}); err != nil {
				t.Fatal(err)
			}
			a := testAgent(t, f, func(c *config.Config) { c.Provisioning.Agent = config.AgentSelf })
			a.Kernel = host.Kernel{}
			files(t, a.Root, map[string]string{"/sys/class/dmi/id/product_uuid": vm.ID() + "\n", "/var/lib/waagent/provisioned": vm.ID() + "\n"})
			if off {
				files(t, a.Root, map[string]string{"/var/lib/waagent/disable_agent": ""})
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			done := make(chan error, 1)
			go func() { done <- a.Run(ctx) }()
			var askers sync.WaitGroup
			asked, end := context.WithCancel(ctx)
			for _, r := range ops() {
				askers.Go(func() {
					for asked.Err() == nil {
						got := a.request(asked, r)
						if asked.Err() != nil {
							return
						}
						if off && r.Op == status.OpReport && got.OK {
							t.Errorf("%s: %+v", r.Op, got)
						}
						select {
						case <-asked.Done():
						case <-time.After(10 * time.Millisecond):
						}
					}
				})
			}
			defer func() {
				end()
				askers.Wait()
				cancel()
				<-done //nolint:errcheck // ended by the test; its error does not matter
				a.platform.Close()
			}()
			if !off {
				await(t, ctx, func() string {
					if doc, n := vm.StatusDocument(); n == 0 || !strings.Contains(string(doc), "Contoso.Echo") {
						return "no status of the extension"
					}
					return ""
				})
				return
			}
			await(t, ctx, func() string {
				if h := vm.Health(); h.State != "Ready" || a.loop.ready() != errSwitchedOff { //nolint:errorlint // errSwitchedOff is stored unwrapped
					return "not up: " + h.State
				}
				return ""
			})
			for _, r := range ops()[:2] {
				if got := a.request(ctx, r); got.OK || !strings.Contains(got.Error, "disable_agent") {
					t.Errorf("%s: %+v", r.Op, got)
				}
			}
			if _, n := vm.StatusDocument(); n != 0 || a.loop.current() != nil {
				t.Errorf("%d status documents of an agent that is switched off", n)
			}
		})
	}
}

// TestERR8RunWaitsForItsGoroutines: when Run returns, no goroutine of the agent
// is still working, because a hand-over replaces the program. So the work on
// accounts is a part like the others, and those who request it do not wait for
// it.
func TestERR8RunWaitsForItsGoroutines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, nil)
		if !slices.ContainsFunc(a.parts(), func(p part) bool { return p.name == "access" }) {
			t.Fatal("no part named access")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var ended time.Time
		time.AfterFunc(time.Minute, cancel)
		start := time.Now()
		a.runParts(ctx,
			part{name: "obeys", run: func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }},
			part{name: "slow", run: func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(time.Minute) // a slow useradd
				ended = time.Now()
				return nil
			}},
		)
		if took := time.Since(start); ended.IsZero() || took != 2*time.Minute {
			t.Errorf("ended after %v, the slow part at %v", took, ended)
		}
	})
}

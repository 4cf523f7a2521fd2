package e2e

import (
	"testing"
	"time"

	"github.com/azguest/azguest/test/sandbox"
)

// TestReadyWithTheLease: the platform's address can't be reached when the
// agent starts, and then the network comes up. The agent hears of it from the
// kernel: by its own pace it would not look again for half a minute.
func TestReadyWithTheLease(t *testing.T) {
	c := newAgentCloud(t, blank())
	ip := func(verb string) {
		t.Helper()
		if r, err := c.RunBeside(t.Context(), sandbox.Cmd{Args: []string{"ip", "address", verb, sandbox.WireServer + "/32", "dev", "lo"}}); err != nil {
			t.Skipf("no ip program: %v %s", err, r.Stderr)
		}
	}
	ip("del")
	c.agent(t)
	// The attempts of the first seconds are made, the next one is far away.
	time.Sleep(17 * time.Second)
	if h := c.vm.Health(); h.State != "" {
		t.Fatalf("reached without an address: %+v", h)
	}
	ip("add")
	came := time.Now()
	c.ready(t)
	if late := time.Since(came); late > 10*time.Second {
		t.Errorf("Ready %v after the network", late)
	}
}

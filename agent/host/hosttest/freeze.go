package hosttest

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host/cgroup"
)

// Until waits until ok returns true, and fails the test after a minute.
func Until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Freeze puts processes into a cgroup of their own and freezes it. The
// controller is "freezer" for version 1 and "" for version 2.
func Freeze(t *testing.T, controller string, pids ...int) {
	t.Helper()
	for _, f := range cgroup.Freezers() {
		if f.Controller != controller || f.Root != "/" {
			continue
		}
		dir := filepath.Join(f.Mount, "azguest-test-"+rand.Text())
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("no cgroup can be made here: %v", err)
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		for _, pid := range pids {
			if err := cgroup.WriteControl(dir+"/cgroup.procs", strconv.Itoa(pid)); err != nil {
				t.Skipf("no process can be moved here: %v", err)
			}
		}
		freeze := map[string]string{"freezer": "FROZEN", "": "1"}[controller]
		if err := cgroup.WriteControl(filepath.Join(dir, f.File), freeze); err != nil {
			t.Skipf("nothing can be frozen here: %v", err)
		}
		return
	}
	t.Skip("no such hierarchy here")
}

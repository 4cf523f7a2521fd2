package disk

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// TestSEC1CleaningFollowsNoLink: between measuring and cleaning, a user who may
// write to the directory above replaces a directory by a link.
func TestSEC1CleaningFollowsNoLink(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	lib, other := filepath.Join(root, "var/lib/waagent"), filepath.Join(root, "etc")
	for _, dir := range []string{filepath.Join(lib, "history"), other} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "a.log")
		if err := os.WriteFile(name, []byte("text\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-1000 * time.Hour)
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	u, err := Measure(host.Root(root), Dirs{Lib: "/var/lib/waagent", HandlerLogs: "/var/log/azure", AgentLog: "/var/log/waagent.log"})
	plan := Plan(u, 0, 0)
	if len(plan) != 1 {
		t.Fatalf("plan %q, %v", plan, err)
	}
	if err := os.Chmod(lib, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(lib, "history"), filepath.Join(lib, "aside")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(lib, "history")); err != nil {
		t.Fatal(err)
	}
	if _, err := Clean(u, plan); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(filepath.Join(other, "a.log")); err != nil {
		t.Errorf("a file elsewhere is gone: %v", err)
	}
}

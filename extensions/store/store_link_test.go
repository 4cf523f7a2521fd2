package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/azguest/azguest/agent/host"
)

// TestRemovalFollowsOnlyOurOwnLink: if a handler replaces its directory with a
// link, its uninstall must not delete the target of the link.
func TestRemovalFollowsOnlyOurOwnLink(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := New(host.Root(root), "/lib", "/exec", "")
	own, foreign := filepath.Join(root, "exec", "A.B-1.0"), filepath.Join(root, "etc")
	if err := s.Init(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{own, foreign} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for target, kept := range map[string]bool{foreign: true, own: false} {
		if err := os.Symlink(target, filepath.Join(root, "lib", "A.B-1.0")); err != nil {
			t.Fatal(err)
		}
		if err := s.RemoveHandler("A.B", "1.0"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(filepath.Join(root, "lib", "A.B-1.0")); err == nil {
			t.Errorf("the link to %s is still there", target)
		}
		if _, err := os.Stat(target); (err == nil) != kept {
			t.Errorf("%s: %v, want kept %v", target, err, kept)
		}
	}
}

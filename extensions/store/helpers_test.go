package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// outside creates a folder that must not change; check verifies that.
func outside(t *testing.T, root string) (dir string, check func()) {
	t.Helper()
	dir = filepath.Join(root, "precious")
	for name, body := range map[string]string{"0.settings": "theirs", "9.settings": "theirs", "a.3.settings": "theirs", "passwd": "theirs", "0.status": "[]", "HandlerManifest.json": "theirs"} {
		write(t, filepath.Join(dir, name), body)
	}
	list := func() string {
		var out []string
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			b, _ := os.ReadFile(filepath.Join(dir, e.Name()))
			out = append(out, e.Name()+"="+string(b))
		}
		return strings.Join(out, " ")
	}
	before := list()
	return dir, func() {
		t.Helper()
		if diff := cmp.Diff(before, list()); diff != "" {
			t.Errorf("a folder behind a link was changed (-want +got):\n%s", diff)
		}
	}
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func write(t testing.TB, path, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

package extensions

import (
	"archive/zip"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/azguest/azguest/extensions/handler"
	"github.com/azguest/azguest/test/peak"
)

type entry struct {
	name string
	mode fs.FileMode
	body string
}

func zipOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(e.mode)
		w, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestUnpack: hostile packages are refused and leave no files; unusual packages
// of real publishers are accepted.
func TestUnpack(t *testing.T) {
	t.Parallel()
	man := entry{handler.ManifestName, 0o644, "[]"}
	for _, tc := range []struct {
		name    string
		entries []entry
		bad     bool
	}{
		{"plain", []entry{man, {"bin/", fs.ModeDir | 0o755, ""}, {"bin/x", 0o644, "x"}}, false},
		{"no directory entries", []entry{man, {"a/b/c/x", 0, "x"}}, false},
		{"backslashes", []entry{man, {`bin\x`, 0o644, "x"}}, false},
		{"manifest below", []entry{{"Package/" + handler.ManifestName, 0o644, "\xef\xbb\xbf[]"}}, false},
		{"directory twice", []entry{man, {"d/", fs.ModeDir | 0o755, ""}, {"d/", fs.ModeDir | 0o755, ""}}, false},
		{"setuid is dropped", []entry{man, {"x", fs.ModeSetuid | 0o777, "x"}}, false},
		{"parent", []entry{man, {"../evil", 0o644, "x"}}, true},
		{"parent inside", []entry{man, {"a/../../evil", 0o644, "x"}}, true},
		{"parent with backslash", []entry{man, {`a\..\..\evil`, 0o644, "x"}}, true},
		{"absolute", []entry{man, {"/etc/evil", 0o644, "x"}}, true},
		{"symlink", []entry{man, {"l", fs.ModeSymlink | 0o777, "/etc/passwd"}}, true},
		{"through a symlink", []entry{man, {"l", fs.ModeSymlink | 0o777, "/etc"}, {"l/evil", 0o644, "x"}}, true},
		{"device", []entry{man, {"dev", fs.ModeDevice | 0o600, ""}}, true},
		{"fifo", []entry{man, {"p", fs.ModeNamedPipe | 0o600, ""}}, true},
		{"twice", []entry{man, {"x", 0o644, "1"}, {"x", 0o644, "2"}}, true},
		{"twice, spelled differently", []entry{man, {"x", 0o644, "1"}, {"./x", 0o644, "2"}}, true},
		{"file and directory", []entry{man, {"x", 0o644, "1"}, {"x/y", 0o644, "2"}}, true},
		{"nul", []entry{man, {"a\x00b", 0o644, "x"}}, true},
		{"no manifest", []entry{{"x", 0o644, "x"}}, true},
		{"bomb", []entry{man, {"x", 0o644, strings.Repeat("0", 3<<20)}}, true},
		{"deep", []entry{man, {strings.Repeat("d/", 100) + "x", 0o644, "x"}}, true},
		{"long", []entry{man, {strings.Repeat("d", 300), 0o644, "x"}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			writeFile(t, dir+"/p.zip", string(zipOf(t, tc.entries...)))
			err := unpack(dir+"/p.zip", dir+"/out", 2<<20)
			if (err != nil) != tc.bad {
				t.Fatalf("error %v", err)
			}
			if tc.bad {
				if !errors.Is(err, errBundle) {
					t.Errorf("error %v, want errBundle", err)
				}
				if left, _ := os.ReadDir(dir); len(left) != 1 {
					t.Errorf("%v is left", left)
				}
				return
			}
			if b, err := os.ReadFile(dir + "/out/" + handler.ManifestName); err != nil || string(b) != "[]" {
				t.Errorf("manifest %q %v", b, err)
			}
			err = filepath.WalkDir(dir+"/out", func(p string, d fs.DirEntry, err error) error {
				if fi, ierr := d.Info(); ierr == nil && !d.IsDir() && (fi.Mode()&0o100 == 0 || fi.Mode()&(fs.ModeSetuid|0o022) != 0) {
					t.Errorf("%s has mode %v", p, fi.Mode())
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(zipOf(f, entry{handler.ManifestName, 0o644, "[]"}, entry{"bin/x", 0o644, "x"}))
	f.Add(zipOf(f, entry{handler.ManifestName, 0o644, "[]"}, entry{"../x", fs.ModeSymlink | 0o644, "x"}))
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/p.zip", b, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = unpack(dir+"/p.zip", dir+"/out", 1<<20)
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "p.zip" && e.Name() != "out" {
				t.Errorf("%s escaped", e.Name())
			}
		}
	}))
}

package agent

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// TestVendorFiles: which files of the image count, and that one of another user's
// does not.
func TestVendorFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := host.Root(dir)
	if docs, ps := vendorFiles(r); len(docs) > 0 || len(ps) > 0 {
		t.Errorf("no directory: %v, %v", docs, ps)
	}
	if err := r.MkdirAll(vendorDir+"/50-dir", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, perm := range map[string]os.FileMode{"20-b": 0o644, "10-a": 0o600, ".hidden": 0o644, "30-c~": 0o644, "40-open": 0o666} {
		if err := r.WriteFile(vendorDir+"/"+name, []byte(name), perm); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Symlink("/etc/shadow", vendorDir+"/60-link"); err != nil {
		t.Fatal(err)
	}
	look := func() (got []string) {
		docs, ps := vendorFiles(r)
		for _, d := range docs {
			got = append(got, d.Name+" "+string(d.Data))
		}
		for _, p := range ps {
			got = append(got, p.ID+" "+p.At.Part)
		}
		return got
	}
	want := []string{"10-a 10-a", "20-b 20-b", "AZ-DATA-FETCH 40-open", "AZ-DATA-FETCH 60-link"}
	if diff := cmp.Diff(want, look()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range maxVendorFiles {
		if err := r.WriteFileLazy(fmt.Sprintf("%s/70-%03d", vendorDir, i), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := look(); len(got) != maxVendorFiles+3 {
		t.Errorf("%d documents and problems", len(got))
	}
	if err := r.Chmod(vendorDir, 0o777); err != nil {
		t.Fatal(err)
	}
	if docs, _ := vendorFiles(r); len(docs) > 0 {
		t.Error("everybody may write the directory, and its files count")
	}
}

// TestVendorFilesLeftOut: why files of the image do not count.
func TestVendorFilesLeftOut(t *testing.T) {
	dir := func(root string) string { return filepath.Join(root, vendorDir) }
	write := func(name string) func(root string) error {
		return func(root string) error {
			return os.WriteFile(filepath.Join(dir(root), name), []byte("#!/bin/sh\n"), 0o600)
		}
	}
	for _, tc := range []struct {
		name  string
		do    func(root string) error
		names string // of documents
		fault string
	}{
		{"script", write("a"), "a", ""},
		{"blank in a name", write("a ; b"), "a ; b", ""},
		{"hidden", write(".a"), "", ""},
		{"backup", write("a~"), "", ""},
		{"line break in a name", write("a\nb"), "", `vendor-data.d, "a\nb": the name has characters that cannot be shown`},
		{"escape in a name", write("\x1b[31ma"), "", `vendor-data.d, "\x1b[31ma": the name has characters that cannot be shown`},
		{"not UTF-8", write("a\xff"), "", `vendor-data.d, "a\xff": the name has characters that cannot be shown`},
		{"directory", func(root string) error { return os.Mkdir(filepath.Join(dir(root), "a"), 0o755) }, "", ""},
		{"link", func(root string) error { return os.Symlink("/dev/zero", filepath.Join(dir(root), "a")) }, "", "symbolic link"},
		{"FIFO", func(root string) error { return unix.Mkfifo(filepath.Join(dir(root), "a"), 0o644) }, "", "not a regular file"},
		{"others write the directory", func(root string) error { return os.Chmod(dir(root), 0o777) }, "", "vendor-data.d: /usr/lib/azguest/vendor-data.d: unsafe path: directory is writable by group or others (mode 0777)"},
		{"others write its parent", func(root string) error { return os.Chmod(filepath.Dir(dir(root)), 0o775) }, "", "vendor-data.d: /usr/lib/azguest: unsafe path: directory is writable by group or others (mode 0775)"},
		{"no directory", func(root string) error { return os.Remove(dir(root)) }, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.Chmod(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(dir(root), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tc.do(root); err != nil {
				t.Fatal(err)
			}
			docs, ps := vendorFiles(host.Root(root))
			names, fault := "", ""
			for _, d := range docs {
				names += d.Name
			}
			for _, p := range ps {
				fault += p.Error()
			}
			if names != tc.names || !strings.Contains(fault, tc.fault) || tc.fault == "" && fault != "" {
				t.Errorf("documents %q, fault %q", names, fault)
			}
		})
	}
}

// TestSameData: custom data that the provisioning has taken from the user data,
// decoded or not, is not carried out a second time.
func TestSameData(t *testing.T) {
	t.Parallel()
	const user = "#!/bin/sh\n"
	for custom, want := range map[string]bool{
		user: true, base64.StdEncoding.EncodeToString([]byte(user)): true, "": false, "#!/bin/bash\n": false,
	} {
		if got := sameData([]byte(custom), user); got != want {
			t.Errorf("%q: %v", custom, got)
		}
	}
	if !sameData(nil, "") || sameData([]byte(user), "") {
		t.Error("no user data")
	}
}

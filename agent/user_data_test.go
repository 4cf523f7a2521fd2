package agent

import (
	"encoding/base64"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

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

package generalize_test

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/provisioning/generalize"
)

// TestSEC9AnImageIsReadWithBounds: files that users leave in an image must not
// exhaust memory, block the check, or lead it out of the image.
func TestSEC9AnImageIsReadWithBounds(t *testing.T) {
	t.Parallel()
	r, outside := used(t), t.TempDir()
	write(t, r, "/usr/lib/x", "", 0o600)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	const key = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n"
	must(os.WriteFile(outside+"/authorized_keys", []byte("ssh-rsa x"), 0o600))
	must(os.WriteFile(outside+"/id", []byte(key), 0o600))
	for _, name := range []string{"/tmp/huge/authorized_keys", "/tmp/huge/id"} {
		write(t, r, name, "x", 0o666)
		must(os.Truncate(r.Path(name), 3<<30))
	}
	write(t, r, "/tmp/plain/authorized_keys", "ssh-rsa y", 0o666)
	write(t, r, "/tmp/plain/id", key, 0o666)
	must(os.MkdirAll(r.Path("/tmp/fifo"), 0o777))
	must(unix.Mkfifo(r.Path("/tmp/fifo/authorized_keys"), 0o666))
	must(unix.Mkfifo(r.Path("/tmp/fifo/id"), 0o666))
	must(os.MkdirAll(r.Path("/tmp/link"), 0o777))
	must(os.Symlink(outside+"/authorized_keys", r.Path("/tmp/link/authorized_keys")))
	must(os.Symlink(outside+"/id", r.Path("/tmp/link/id")))
	must(os.Symlink(outside, r.Path("/tmp/out")))
	must(os.Symlink(outside, r.Path("/opt")))
	must(os.Symlink("/tmp", r.Path("/srv")))
	deep := r.Path("/var/tmp")
	for range 150 {
		deep += "/d"
	}
	must(os.MkdirAll(deep, 0o777))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	found, err := generalize.Verify(r, opts(), generalize.Marketplace)
	runtime.ReadMemStats(&after)
	must(err)
	var got []string
	for _, f := range found {
		if strings.Contains(f.String(), outside) {
			t.Errorf("left the image: %s", f)
		}
		if strings.HasPrefix(f.Path, "/tmp") || strings.HasPrefix(f.Path, "/opt") {
			got = append(got, f.Path)
		}
	}
	if want := "/tmp/huge/authorized_keys /tmp/plain/authorized_keys /tmp/plain/id"; strings.Join(got, " ") != want {
		t.Errorf("found %v, want %s", got, want)
	}
	// Other tests allocate at the same time; the files have 6 GiB.
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 1024 {
		t.Errorf("%d MiB were allocated", n)
	}
}

// TestSEC9AnImageInUse does the same while a user exchanges the files.
func TestSEC9AnImageInUse(t *testing.T) {
	r := used(t)
	write(t, r, "/usr/lib/x", "", 0o600)
	hosttest.Attack(t, r.Path("/tmp"), []string{"a/authorized_keys", "a/", "b/.ssh/authorized_keys", "b/.ssh/", "id"}, func(int) {
		found, err := generalize.Verify(r, opts(), generalize.CIS)
		if err != nil {
			t.Error(err)
		}
		for _, f := range found {
			if strings.Contains(f.String(), "victim") {
				t.Errorf("left the image: %s", f)
			}
		}
	})
}

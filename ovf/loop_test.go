package ovf

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// A loop device with the name of a drive: it does not support the ioctls of a
// drive, and its type in sysfs is another one. Sandboxes have such devices.
func TestLoopDeviceAsDrive(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := host.Root(t.TempDir())
	put(t, root, "/image", imageBytes(t, "genisoimage-bridge-small.img"))
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", root.Path("/image")).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", loop).Run(); err != nil {
			t.Errorf("detach %s: %v", loop, err)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(loop, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root.Path("/dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(root.Path("/dev/sr0"), unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		t.Skipf("mknod: %v", err)
	}
	d, err := Load(t.Context(), DVD{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Source{"/dev/sr0", MethodUserSpace, "udf", true}); d.Source != want || d.UserName != "anna" {
		t.Errorf("%+v", d.Source)
	}
	if err := Eject(root, d.Source); err != nil {
		t.Errorf("eject: %v", err)
	}
}

func BenchmarkLoad(b *testing.B) {
	root := host.Root(b.TempDir())
	put(b, root, "/dev/sr0", imageBytes(b, "genisoimage-bridge-small.img"))
	for b.Loop() {
		if _, err := Load(b.Context(), DVD{Root: root}); err != nil {
			b.Fatal(err)
		}
	}
}

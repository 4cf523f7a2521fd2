package host

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPackageLock(t *testing.T) {
	t.Parallel()
	root := Root(t.TempDir())
	if who, _ := PackageLock(root); who != "" {
		t.Errorf("PackageLock() without a lock file = %q", who)
	}
	for _, dir := range []string{"/var/lib/dpkg", "/run"} {
		if err := os.MkdirAll(root.Path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(root.Path("/var/lib/dpkg/lock-frontend"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set := func(kind int16) {
		t.Helper()
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind}); err != nil {
			t.Fatal(err)
		}
	}
	if who, _ := PackageLock(root); who != "" {
		t.Errorf("PackageLock() of a file that is not locked = %q", who)
	}
	set(unix.F_RDLCK)
	if who, _ := PackageLock(root); who != "" {
		t.Errorf("PackageLock() of a read lock = %q", who)
	}
	set(unix.F_WRLCK)
	if who, pid := PackageLock(root); who != "another program" || pid != 0 {
		t.Errorf("held by %q, %d", who, pid)
	}
	set(unix.F_UNLCK)

	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	write := func(pid int) {
		t.Helper()
		if err := os.WriteFile(root.Path("/run/zypp.pid"), fmt.Appendf(nil, "%d\n", pid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(sleeper.Process.Pid)
	if who, pid := PackageLock(root); !strings.HasPrefix(who, "sleep (process ") || pid != sleeper.Process.Pid {
		t.Errorf("held by %q, %d", who, pid)
	}
	_ = sleeper.Process.Kill()
	_ = sleeper.Wait()
	if who, _ := PackageLock(root); who != "" {
		t.Errorf("a dead process holds it: %q", who)
	}
}

package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// TestD7: every package manager's lock is seen while it is held, whichever way
// of locking is used.
func TestD7(t *testing.T) {
	t.Parallel()
	for _, l := range packageLocks {
		for _, how := range []string{"fcntl", "flock"} {
			if l.pid {
				continue
			}
			root := Root(t.TempDir())
			f := packageFile(t, root, l.path, "")
			who := func() string { w, _ := PackageLock(root); return w }
			if got := who(); got != "" {
				t.Errorf("%s, not locked: %q", l.path, got)
			}
			var err error
			if how == "flock" {
				err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			} else {
				err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := who(); got == "" {
				t.Errorf("%s, locked with %s: not seen", l.path, how)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got := who(); got != "" {
				t.Errorf("%s, left behind: %q", l.path, got)
			}
		}
	}
}

// TestD8: a file that names a process is no lock if that has ended, also where
// another process has got its id.
func TestD8(t *testing.T) {
	t.Parallel()
	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	dead := exec.CommandContext(t.Context(), "true") // becomes a zombie
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	for process := dead.Process.Pid; ; {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process))
		if err != nil || strings.Contains(string(b), ") Z ") {
			break
		}
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait(); _ = dead.Wait() }()
	before := time.Now().Add(-time.Hour)
	for _, l := range packageLocks {
		if !l.pid {
			continue
		}
		for name, tc := range map[string]struct {
			content string
			mtime   time.Time
			held    bool
		}{
			"a living process":         {fmt.Sprintln(sleeper.Process.Pid), time.Time{}, true},
			"with NUL, as some write":  {fmt.Sprintf("%d\x00", sleeper.Process.Pid), time.Time{}, true},
			"a later one with this id": {fmt.Sprintln(sleeper.Process.Pid), before, false},
			"a zombie":                 {fmt.Sprintln(dead.Process.Pid), time.Time{}, false},
			"no process":               {"4194303", time.Time{}, false},
			"init":                     {"1", time.Time{}, false},
			"empty":                    {"", time.Time{}, false},
			"text":                     {"zypper", time.Time{}, false},
		} {
			root := Root(t.TempDir())
			f := packageFile(t, root, l.path, tc.content)
			_ = f.Close()
			if !tc.mtime.IsZero() {
				if err := os.Chtimes(root.Path(l.path), tc.mtime, tc.mtime); err != nil {
					t.Fatal(err)
				}
			}
			if who, _ := PackageLock(root); (who != "") != tc.held {
				t.Errorf("%s with %s: held by %q", l.path, name, who)
			}
		}
	}
}

func packageFile(t *testing.T, root Root, name, content string) *os.File {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(root.Path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(root.Path(name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

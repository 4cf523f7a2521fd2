package status

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKeepAdopt: the lock is held without a gap when a program passes it to its
// successor.
func TestKeepAdopt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Acquire(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := l.Keep()
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		t.Errorf("it would not survive an exec: %x %v", flags, err)
	}
	// Instead of the exec: the same open file with another descriptor.
	next, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Adopt(next, path)
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(next), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("handlers would inherit it: %x %v", flags, err)
	}
	if life := Probe(path, "/proc", Snapshot{}); !life.Running || life.PID != os.Getpid() {
		t.Errorf("probe: %+v", life)
	}
	if err := got.Release(); err != nil {
		t.Error(err)
	}
	other, err := os.Create(filepath.Join(t.TempDir(), "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := Adopt(int(other.Fd()), path); err == nil {
		t.Error("took over something that is not the lock")
	}
	if _, err := Adopt(999, path); err == nil {
		t.Error("took over a descriptor that is not open")
	}
}

package sandbox_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/test/sandbox"
)

// TestTOOL12ARemovalCrossesNoMount: what a killed build has left mounted below
// the cache is unmounted before the tree is removed, and what is mounted there
// stays as it is.
func TestTOOL12ARemovalCrossesNoMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount in a namespace")
	}
	machine := t.TempDir()
	for _, d := range []string{"proc/1", "dev"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(machine, d), 0o755), os.WriteFile(filepath.Join(machine, d, "file"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine, and its mounts with it
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			tree := filepath.Join(t.TempDir(), "base with blanks", "root")
			for _, d := range []string{"proc", "dev", "etc"} {
				if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
					return err
				}
			}
			for _, m := range [][2]string{{machine + "/proc", tree + "/proc"}, {machine + "/dev", tree + "/dev"}, {machine + "/dev", tree + "/proc/1"}} {
				if err := unix.Mount(m[0], m[1], "", unix.MS_BIND, ""); err != nil {
					return err
				}
			}
			if err := sandbox.RemoveTree(filepath.Dir(tree)); err != nil {
				return err
			}
			if _, err := os.Lstat(filepath.Dir(tree)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the tree is still there: %v", err)
			}
			return sandbox.RemoveTree(filepath.Dir(tree)) // again: nothing to do
		}()
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"proc/1", "proc/1/file", "dev/file"} {
		if _, err := os.Lstat(filepath.Join(machine, name)); err != nil {
			t.Errorf("what was mounted has lost %s: %v", name, err)
		}
	}
}

// TestTOOL12KilledBuildsAreSwept: the next build removes the directory of one
// whose program has been killed, and no other.
func TestTOOL12KilledBuildsAreSwept(t *testing.T) {
	cache := t.TempDir()
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(cache, fmt.Sprintf(".base-%d-1", gone.Process.Pid))
	running := filepath.Join(cache, fmt.Sprintf(".base-%d-1", os.Getpid()))
	others := filepath.Join(cache, ".base-of-others")
	for _, d := range []string{killed, running, others} {
		if err := os.MkdirAll(filepath.Join(d, "root"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, remove, err := sandbox.BuildDir(cache, "base")
	if err != nil {
		t.Fatal(err)
	}
	for d, want := range map[string]bool{killed: false, running: true, others: true, dir: true} {
		if _, err := os.Stat(d); (err == nil) != want {
			t.Errorf("%s is there: %t", d, err == nil)
		}
	}
	remove()
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is still there after the build")
	}
}

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRemoveAllStopsAtMounts: a bind mount that root has made in a tree is
// neither deleted with it nor walked through.
func TestRemoveAllStopsAtMounts(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	r, _, outside := tree(t)
	at := string(r) + "/in/sub/data"
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and it ends with its mounts
		err := errors.Join(
			os.Mkdir(at, 0o755), unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount(outside, at, "", unix.MS_BIND, ""),
		)
		if err == nil {
			if err = r.RemoveAll("/in/sub"); err == nil {
				err = errors.New("a tree with something mounted in it is said to be removed")
			} else {
				err = nil
			}
			err = errors.Join(err, r.Walk("/in", 1000, func(rel string, _ *Dir, _ os.FileInfo, err error) error {
				if filepath.Dir(rel) == "sub/data" {
					return fmt.Errorf("walked to %s", rel)
				}
				return err
			}))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(outside + "/file"); err != nil {
		t.Errorf("what was mounted was deleted: %q %v", b, err)
	}
	if err := r.RemoveAll("/in/sub"); err != nil {
		t.Errorf("without the mount: %v", err)
	}
}

// TestRemoveAllAgainstAFiller: a user who goes on filling a directory while it
// is removed can neither keep it nor block root.
func TestRemoveAllAgainstAFiller(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	r, _, _ := tree(t)
	dir := string(r) + "/in/sub"
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o777), os.Chown(dir, 1234, 1234)); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var made atomic.Int64
	var stop atomic.Bool
	ended := make(chan error, 4)
	for n := range cap(ended) {
		go func() {
			runtime.LockOSThread() // it ends as another user
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 1234, 1234, 1234); errno != 0 {
				ended <- errno
				return
			}
			for i := 0; !stop.Load(); i++ {
				_ = unix.Fchmod(fd, 0o777)
				f, err := unix.Openat(fd, strconv.Itoa(n)+"."+strconv.Itoa(i), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
				if err != nil {
					break // it was taken away, or is gone
				}
				_ = unix.Close(f)
				made.Add(1)
			}
			ended <- nil
		}()
	}
	for made.Load() < 5000 {
		runtime.Gosched()
	}
	err = r.RemoveAll("/in/sub")
	stop.Store(true)
	for range cap(ended) {
		err = errors.Join(err, <-ended)
	}
	if err != nil || r.Exists("/in/sub") {
		t.Errorf("after %d files: %v", made.Load(), err)
	}
}

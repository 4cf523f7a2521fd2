package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fewFilesArg makes the test program one that removes a tree with few
// descriptors.
const fewFilesArg = "remove-with-few-files"

func removeWithFewFiles(dir string) int {
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 160, Max: 160})
	if err == nil {
		err = Root("").RemoveAll(dir)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestRemoveAllTakesFewDescriptors: a user can nest directories without limit.
func TestRemoveAllTakesFewDescriptors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/deep"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	for range 1000 {
		if err == nil {
			err = unix.Mkdirat(fd, "d", 0o755)
		}
		if err == nil {
			var next int
			next, err = unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			_ = unix.Close(fd)
			fd = next
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	if out, err := exec.Command("/proc/self/exe", fewFilesArg, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the directory is left: ", err)
	}
}

// TestSEC5RemovalEnds: a process that a handler has left running makes files
// in its directory faster than they are removed.
func TestSEC5RemovalEnds(t *testing.T) {
	was := removeTime
	removeTime = 500 * time.Millisecond
	defer func() { removeTime = was }()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/gone", 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir+"/gone", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var end atomic.Bool
	var makers sync.WaitGroup
	full := make(chan bool)
	for m := range 8 {
		makers.Go(func() {
			for i := 0; !end.Load(); i++ {
				if err := unix.Mkdirat(fd, strconv.Itoa(m)+"-"+strconv.Itoa(i%2000), 0o700); errors.Is(err, unix.ENOENT) {
					return // the directory is gone, and the test with it
				}
				if m == 0 && i == 1500 {
					close(full)
				}
			}
		})
	}
	<-full
	done := make(chan error, 1)
	go func() { done <- Root("").RemoveAll(dir + "/gone") }()
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, unix.ENOTEMPTY) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the removal has no end")
	}
	end.Store(true)
	makers.Wait()
	if err := os.RemoveAll(dir + "/gone"); err != nil {
		t.Log(err)
	}
}

// TestSEC7WalkHoldsFewNames: a walk over a directory with very many files
// takes no more memory than any other.
func TestSEC7WalkHoldsFewNames(t *testing.T) {
	const files = 40_000
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := os.WriteFile(dir+"/one", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("n", 240)
	at, links := "one", 0
	for i := range files { // names, which is what counts, without as many inodes
		n := long + strconv.Itoa(i)
		err := unix.Linkat(fd, at, fd, n, 0)
		if links++; errors.Is(err, unix.EMLINK) || links > 30_000 {
			at, links = "one"+strconv.Itoa(i), 0
			err = errors.Join(os.WriteFile(dir+"/"+at, nil, 0o600), unix.Linkat(fd, at, fd, n, 0))
			if errors.Is(err, unix.EEXIST) {
				err = nil
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var most uint64
	seen := 0
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	err = Root("").Walk(dir, 2*files, func(string, *Dir, fs.FileInfo, error) error {
		if seen++; seen%8_000 == 1 {
			runtime.GC()
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
		}
		return nil
	})
	if err != nil || seen < files {
		t.Errorf("%d seen: %v", seen, err)
	}
	if most > 4<<20 {
		t.Errorf("a walk holds %d KiB", most>>10)
	}
	if err := Root("").Walk(dir, files/2, func(string, *Dir, fs.FileInfo, error) error { return nil }); !errors.Is(err, ErrTooMany) {
		t.Error("Walk beyond its limit: ", err)
	}
}

package cgroup

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSEC5ScopeOfAState: the state of a job is a file that the command of the
// job can write. What it names as its scope is a cgroup, and not a FIFO.
func TestSEC5ScopeOfAState(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/cgroup.procs", 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan []int, 1)
	go func() { done <- Procs("/../../.." + dir) }()
	select {
	case pids := <-done:
		if len(pids) > 0 {
			t.Error(pids)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for the other end of a FIFO")
	}
}

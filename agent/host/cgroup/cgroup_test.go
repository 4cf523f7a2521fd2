package cgroup

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSEC5ScopeOfAState: the command of a job can write the job's state file.
// A scope that it names there is read only if it is a cgroup, and not, for
// example, a FIFO.
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
		t.Error("reading a FIFO did not end")
	}
}

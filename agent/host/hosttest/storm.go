package hosttest

import (
	"context"
	"os/exec"
	"sync"
	"testing"
)

// Storm calls start 500 times from eight goroutines, while others do nothing
// but fork. start is to write a program and start it: a process between fork
// and exec has a copy of every descriptor that is open at that moment.
func Storm(t *testing.T, start func(n int) error) {
	t.Helper()
	ctx, calm := context.WithCancel(t.Context())
	var forking, starting sync.WaitGroup
	for range 4 {
		forking.Go(func() {
			for ctx.Err() == nil {
				_ = exec.CommandContext(ctx, "/bin/true").Run() // it may be cut off
			}
		})
	}
	numbers := make(chan int)
	for range 8 {
		starting.Go(func() {
			for n := range numbers {
				if err := start(n); err != nil {
					t.Errorf("program %d: %v", n, err)
				}
			}
		})
	}
	for n := range 500 {
		numbers <- n
	}
	close(numbers)
	starting.Wait()
	calm()
	forking.Wait()
}

package extensions

import (
	"testing"
	"time"
)

// TestAnIdleEngineIsSilent: looking again without finding anything new is
// nothing to tell anybody.
func TestAnIdleEngineIsSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.X", version: "1.0"})
	w.start()
	w.processed(ext("P.X", "1.0", 0))
	quiet := func() int {
		n := 0
		for end := time.After(10 * w.cfg.StatusPoll); ; {
			select {
			case <-w.m.Changed():
				n++
			case <-end:
				return n
			}
		}
	}
	n := quiet()
	for range 10 { // what the last command has left behind takes as long as it takes
		if n <= 1 {
			return
		}
		n = quiet()
	}
	t.Errorf("the engine goes on speaking about nothing, %d times in ten looks", n)
}

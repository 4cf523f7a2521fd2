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
	quiet() // what the last command has left behind
	if n := quiet(); n > 1 {
		t.Errorf("the engine spoke %d times about nothing in ten looks", n)
	}
}

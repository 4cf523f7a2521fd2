package extensions

import (
	"testing"
	"time"
)

// TestAnIdleEngineIsSilent: an idle engine that finds no changes does not signal
// Changed.
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
	for range 10 { // effects of the last command may take a while
		if n <= 1 {
			return
		}
		n = quiet()
	}
	t.Errorf("an idle engine reported a change %d times in ten polls", n)
}

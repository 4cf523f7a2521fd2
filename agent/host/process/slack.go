package process

import (
	"os"
	"strconv"
	"time"
)

// ExactTimers is the timer slack that Linux gives a process by default.
const ExactTimers = 50 * time.Microsecond

// SetTimerSlack lets the kernel delay timers of this process, and of those
// that it starts from then on, by up to d. The Go runtime's own monitor wakes
// up every 20 µs while anything runs, which is most of what a nearly idle
// agent does. Errors are ignored, as it only saves CPU time.
func SetTimerSlack(d time.Duration) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	ns := []byte(strconv.FormatInt(d.Nanoseconds(), 10))
	for _, t := range threads { // later threads inherit it
		f, err := os.OpenFile("/proc/"+t.Name()+"/timerslack_ns", os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		_, _ = f.Write(ns)
		_ = f.Close()
	}
}

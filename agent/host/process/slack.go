package process

import (
	"os"
	"strconv"
	"time"
)

// ExactTimers is what Linux gives a process by itself.
const ExactTimers = 50 * time.Microsecond

// SetTimerSlack lets the kernel be late by so much with the timers of this
// process, and of those that it starts from then on. The Go runtime watches
// itself every 20 µs while anything runs, which is most of what an agent does
// that hardly does anything. That it can't be set matters to nobody.
func SetTimerSlack(d time.Duration) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	ns := []byte(strconv.FormatInt(d.Nanoseconds(), 10))
	for _, t := range threads { // those to come have it from one of these
		f, err := os.OpenFile("/proc/"+t.Name()+"/timerslack_ns", os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		_, _ = f.Write(ns)
		_ = f.Close()
	}
}

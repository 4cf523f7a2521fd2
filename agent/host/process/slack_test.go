package process

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestTimerSlack(t *testing.T) {
	t.Cleanup(func() { SetTimerSlack(ExactTimers) })
	for _, d := range []time.Duration{4 * time.Millisecond, ExactTimers} {
		SetTimerSlack(d)
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Skip(err)
		}
		want := map[time.Duration]string{4 * time.Millisecond: "4000000", ExactTimers: "50000"}[d]
		for _, th := range threads {
			b, err := os.ReadFile("/proc/" + th.Name() + "/timerslack_ns")
			if err != nil {
				t.Skip(err) // may need CAP_SYS_NICE
			}
			if got := strings.TrimSpace(string(b)); got != want {
				t.Errorf("thread %s: %s, want %s", th.Name(), got, want)
			}
		}
	}
}

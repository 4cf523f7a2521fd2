package job

import (
	"testing"
	"time"
)

// TestSlowed: short waits are not reported.
func TestSlowed(t *testing.T) {
	t.Parallel()
	at := time.Now()
	for _, tc := range []struct {
		took, throttled time.Duration
		want            bool
	}{
		{time.Minute, 0, false},
		{time.Minute, 500 * time.Millisecond, false},
		{time.Minute, 2 * time.Second, true},
		{time.Second, 200 * time.Millisecond, true},
	} {
		if got := (Result{Started: at, Finished: at.Add(tc.took), Throttled: tc.throttled}).Slowed(); got != tc.want {
			t.Errorf("%v of %v: %t", tc.throttled, tc.took, got)
		}
	}
}

package host

import (
	"encoding/json"
	"testing"
	"time"
)

// TestERR8Moment: what is left of a span does not depend on the wall clock, and
// no stored value makes it longer.
func TestERR8Moment(t *testing.T) {
	const span, years = time.Hour, 10 * 365 * 24 * time.Hour
	now := Now()
	for _, tc := range []struct {
		name     string
		m        Moment
		min, max time.Duration
	}{
		{"now", now, span - time.Minute, span},
		{"never written", Moment{}, span, span},
		{"half of it is over", Moment{now.Boot, now.At - span/2}, span/2 - time.Minute, span / 2},
		{"over", Moment{now.Boot, now.At - span}, 0, 0},
		{"over for years", Moment{now.Boot, now.At - years}, 0, 0},
		{"in years", Moment{now.Boot, now.At + years}, span, span},
		{"another boot", Moment{"another", now.At}, 0, 0},
		{"another boot, in years", Moment{"another", now.At + years}, 0, 0},
	} {
		if got := tc.m.Left(span); got < tc.min || got > tc.max {
			t.Errorf("%s: %v is left, want %v to %v", tc.name, got, tc.min, tc.max)
		}
	}
	if got := now.Left(-span); got != 0 {
		t.Errorf("%v is left of a span that is over", got)
	}
	b, err := json.Marshal(now)
	var back Moment
	if err != nil || json.Unmarshal(b, &back) != nil || back != now {
		t.Errorf("%s is not %+v", b, now)
	}
}

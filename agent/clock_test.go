package agent

import (
	"testing"
	"time"

	"github.com/azguest/azguest/agent/status"
)

func TestClockReading(t *testing.T) {
	wall := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	then := reading{wall: wall, mono: 100 * time.Second, boot: 200 * time.Second}
	for name, tc := range map[string]struct {
		now           reading
		slept, jumped time.Duration
	}{
		"nothing":         {reading{wall.Add(30 * time.Second), 130 * time.Second, 230 * time.Second}, 0, 0},
		"slewed":          {reading{wall.Add(31 * time.Second), 130 * time.Second, 230 * time.Second}, 0, 0},
		"slept":           {reading{wall.Add(2 * time.Hour), 130 * time.Second, 200*time.Second + 2*time.Hour}, 2*time.Hour - 30*time.Second, 0},
		"set ahead":       {reading{wall.Add(24*time.Hour + 30*time.Second), 130 * time.Second, 230 * time.Second}, 0, 24 * time.Hour},
		"set back":        {reading{wall.Add(-24*time.Hour + 30*time.Second), 130 * time.Second, 230 * time.Second}, 0, -24 * time.Hour},
		"slept, wall not": {reading{wall.Add(30 * time.Second), 130 * time.Second, 230*time.Second + time.Hour}, time.Hour, -time.Hour},
	} {
		if slept, jumped := tc.now.since(then); slept != tc.slept || jumped != tc.jumped {
			t.Errorf("%s: slept %v, jumped %v; want %v, %v", name, slept, jumped, tc.slept, tc.jumped)
		}
	}
	if _, err := readClocks(); err != nil {
		t.Error(err)
	}
}

func TestFillClock(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		skew  time.Duration
		known bool
		state status.State
		code  string
	}{
		{0, false, status.Unknown, ""},
		{time.Minute, true, status.OK, ""},
		{-6 * time.Minute, true, status.Warn, "AZ-CLOCK-SKEW"},
		{24 * time.Hour, true, status.Warn, "AZ-CLOCK-SKEW"},
	} {
		var c status.Clock
		fillClock(&c, tc.skew, at, tc.known)
		if c.State != tc.state || c.Code != tc.code {
			t.Errorf("%v: %+v", tc.skew, c)
		}
	}
}

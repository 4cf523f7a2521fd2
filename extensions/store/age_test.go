package store

import (
	"syscall"
	"testing"
	"time"
)

// TestPAT2AgeOfAFile: setting the clock of the machine makes no file older or
// younger, except one that was not looked at before.
func TestPAT2AgeOfAFile(t *testing.T) {
	t.Parallel()
	at := func(w time.Time) FileStamp { return FileStamp{Inode: 1, Mtime: syscall.NsecToTimespec(w.UnixNano())} }
	start := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	type look struct {
		steady  time.Duration
		wall    time.Time
		written time.Time
		want    time.Duration
	}
	const hour = time.Hour
	for name, looks := range map[string][]look{
		"the clock is right": {
			{0, start, start.Add(-time.Minute), time.Minute},
			{hour, start.Add(hour), start.Add(-time.Minute), hour + time.Minute},
			{2 * hour, start.Add(2 * hour), start.Add(2*hour - time.Second), time.Second},
		},
		"set forward by ten years": {
			{0, start, start.Add(-time.Second), time.Second},
			{5 * time.Second, start.AddDate(10, 0, 0), start.Add(-time.Second), 6 * time.Second},
		},
		"set forward, and the file was written just before": {
			{0, start, start, 0},
			{5 * time.Second, start.Add(hour), start.Add(4 * time.Second), 5 * time.Second},
			{10 * time.Second, start.Add(hour + 5*time.Second), start.Add(4 * time.Second), 10 * time.Second},
			{20 * time.Second, start.Add(hour + 15*time.Second), start.Add(hour + 14*time.Second), time.Second},
		},
		"set back": {
			{0, start, start.Add(-time.Minute), time.Minute},
			{5 * time.Second, start.Add(-hour), start.Add(-time.Minute), time.Minute + 5*time.Second},
			{10 * time.Second, start.Add(-hour), start.Add(-hour), 0},
		},
		"a time in the future": {
			{0, start, start.AddDate(1, 0, 0), 0},
			{11 * time.Minute, start.Add(11 * time.Minute), start.AddDate(1, 0, 0), 11 * time.Minute},
		},
		"suspended": {
			{0, start, start, 0},
			{5 * time.Second, start.Add(3 * hour), start, 5 * time.Second},
		},
		"set to an old time by touch": {
			{0, start, start, 0},
			{5 * time.Second, start.Add(5 * time.Second), start.Add(-hour), hour + 5*time.Second},
		},
	} {
		var a Ages
		for i, l := range looks {
			if got := a.Of("f", at(l.written), l.steady, l.wall); got != l.want {
				t.Errorf("%s: look %d: %v, want %v", name, i, got, l.want)
			}
		}
	}
	// Every file of which the last look was before the clock was set counts.
	var a Ages
	for _, f := range []string{"a", "b"} {
		a.Of(f, at(start), 0, start)
	}
	for _, f := range []string{"a", "b"} {
		if got := a.Of(f, at(start.Add(time.Second)), 2*time.Second, start.Add(hour)); got > 2*time.Second {
			t.Errorf("%s: %v", f, got)
		}
	}
}

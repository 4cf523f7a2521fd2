package store

import "time"

// Ages says how long ago files were written, although the clock of the machine
// may be set at any time: at the first boot, after a resume, or by hours where
// it runs in local time. The time of a file is compared with the clock only when
// the file is seen for the first time, or has changed; from then on, its age is
// measured with a clock that can't be set. The zero value is ready to use.
type Ages struct {
	files map[string]age
	// steady and wall are both clocks at the last look; set is the first one at
	// the last look that found the clock of the machine set.
	steady, set time.Duration
	wall        time.Time
}

type age struct {
	stamp FileStamp
	first time.Duration // age when this stamp was seen first
	seen  time.Duration // steady clock at that time
	look  time.Duration // steady clock at the last look
}

// jump is the difference of the two clocks from which on the clock of the
// machine was set, or the machine was suspended. Time services correct smaller
// differences gradually.
const jump = 2 * time.Second

// maxAges is for how many files ages are kept.
const maxAges = 1000

// Of returns the age of a file. steady is a clock that can't be set, wall the
// time of the machine. A time in the future counts as now.
func (a *Ages) Of(path string, stamp FileStamp, steady time.Duration, wall time.Time) time.Duration {
	old, known := a.files[path]
	wall = wall.Round(0)
	if !a.wall.IsZero() && (wall.Sub(a.wall)-(steady-a.steady)).Abs() > jump {
		a.set = steady
	}
	a.steady, a.wall = steady, wall
	if known && old.stamp == stamp {
		old.look = steady
		a.files[path] = old
		return old.first + steady - old.seen
	}
	first := max(0, wall.Sub(time.Unix(stamp.Mtime.Unix())))
	if known && a.set > old.look {
		// It was written since the last look, before or after the clock was set.
		first = min(first, steady-old.look)
	}
	if a.files == nil || len(a.files) > maxAges {
		a.files = map[string]age{}
	}
	a.files[path] = age{stamp: stamp, first: first, seen: steady, look: steady}
	return first
}

package host

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Moment is a point in time that means the same to every process of one
// boot. Its clock can't be set and, like timers, does not run while the
// machine is suspended, so a time limit is not used up by that.
type Moment struct {
	Boot string        `json:"boot"` // BootID
	At   time.Duration `json:"at"`   // CLOCK_MONOTONIC
}

// Now is the present moment.
func Now() Moment {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail for this clock
	return Moment{Boot: BootID(), At: time.Duration(ts.Nano())}
}

// Left is how much of a span that began at m is left: at most the span, and 0
// if m is from another boot. A zero m, as in files of older versions, or one
// in the future counts as now.
func (m Moment) Left(span time.Duration) time.Duration {
	now := Now()
	switch {
	case m == Moment{} || m.Boot == now.Boot && m.At > now.At:
		return max(span, 0)
	case m.Boot != now.Boot:
		return 0
	}
	return max(span-(now.At-m.At), 0)
}

// BootID is the kernel's random id of this boot, or "" where there is none.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

package agent

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/status"
)

// clockPeriod is how often the clocks are compared.
const clockPeriod = 30 * time.Second

// Tolerances.
const (
	leastSleep = 2 * time.Second // CLOCK_BOOTTIME ahead of CLOCK_MONOTONIC: the machine slept
	leastJump  = 2 * time.Second // the wall clock against CLOCK_BOOTTIME: it was set
	skewMax    = 5 * time.Minute // against the platform: beyond it, signatures and tokens do not work
)

// A reading is the three clocks at one moment. mono stands still while the
// machine sleeps, boot does not; wall is the clock that can be set.
type reading struct {
	wall       time.Time // without Go's monotonic part
	mono, boot time.Duration
}

func readClocks() (reading, error) {
	var mono, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		return reading{}, fmt.Errorf("read clock: %w", err)
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return reading{}, fmt.Errorf("read clock: %w", err)
	}
	return reading{time.Now().Round(0), time.Duration(mono.Nano()), time.Duration(boot.Nano())}, nil
}

// since returns what happened between two readings: for how long the machine
// slept, and by how much the wall clock was set (0: neither).
func (now reading) since(then reading) (slept, jumped time.Duration) {
	slept = (now.boot - then.boot) - (now.mono - then.mono)
	if slept < leastSleep {
		slept = 0
	}
	jumped = now.wall.Sub(then.wall) - (now.boot - then.boot)
	if jumped.Abs() < leastJump {
		jumped = 0
	}
	return slept, jumped
}

// checkClock is the job that detects sleeps and changes of the wall clock.
// Deadlines do not depend on it, because they use monotonic clocks. It shows
// what happened and makes the next status report go out.
func (a *Agent) checkClock(context.Context) error {
	now, err := readClocks()
	if err != nil {
		return err
	}
	then := a.clock
	a.clock = now
	if then.wall.IsZero() {
		return nil
	}
	slept, jumped := now.since(then)
	if slept == 0 && jumped == 0 {
		return nil
	}
	a.live.set(func(s *status.Snapshot) {
		if slept > 0 {
			s.Clock.Suspends++
		}
		if jumped != 0 {
			s.Clock.LastJump = now.wall.UTC()
		}
	})
	if slept > 0 {
		a.Log.Info().Dur("slept", slept).Msg("machine resumed from sleep")
		a.live.note("machine", "slept for "+slept.Round(time.Second).String())
	}
	if jumped != 0 {
		a.Log.Info().Dur("by", jumped).Msg("the clock was set")
		a.live.note("clock", "set by "+jumped.Round(time.Second).String())
	}
	// The VM may be on another host now.
	a.rep.force()
	return nil
}

// fillClock sets the state of the clock from its difference to the platform's.
func fillClock(c *status.Clock, skew time.Duration, at time.Time, known bool) {
	if c.State == "" {
		c.State = status.Unknown
	}
	if !known {
		return
	}
	c.State, c.SkewS, c.Problem = status.OK, float64(skew.Round(time.Second))/float64(time.Second), status.Problem{}
	if skew.Abs() > skewMax {
		c.State = status.Warn
		c.Problem = status.Problem{Code: "AZ-CLOCK-SKEW", Since: at, Fix: "chronyc makestep, or timedatectl set-ntp true"}
	}
}

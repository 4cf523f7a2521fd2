package protocol

import (
	"cmp"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// The pace of a request that keeps failing (protocol/SPEC.md §2.5). Twenty
// attempts an hour can't probe once a minute, so most are made early:
// a fault is noticed as cleared within a minute while it is young, as most
// are, then within a third of its age, at most nine minutes, and within
// little more than three when it has lasted for more than an hour.
const (
	PaceFirst  = time.Second
	PaceGrowth = 3
	PaceMost   = 43 * time.Second // with jitter and the loop's period a minute
	PaceHourly = 20
	PaceShare  = 0.3
	PaceLate   = 450 * time.Second
	PaceSteady = time.Hour / (PaceHourly - 1) // one attempt is left for when a canary works
)

// A Pace says when to repeat something that fails. The zero value has not
// failed yet.
type Pace struct {
	// First replaces PaceFirst. Two ways to the same thing that fail together
	// are not tried at the same moments then, so that the end of a fault that
	// both have is noticed in half the time.
	First time.Duration

	early backoff.ExponentialBackOff
	tries []time.Time // of the last hour, oldest first
	total int
	since time.Time
}

// Failed records an attempt that failed and returns how long to wait.
func (p *Pace) Failed(now time.Time) time.Duration {
	if p.total == 0 {
		p.since = now
		p.early = backoff.ExponentialBackOff{InitialInterval: cmp.Or(p.First, PaceFirst), RandomizationFactor: 0.25, Multiplier: PaceGrowth, MaxInterval: PaceMost}
		p.early.Reset()
	}
	p.forget(now)
	p.tries = append(p.tries, now)
	p.total++
	delay := p.early.NextBackOff()
	if age := now.Sub(p.since); age < time.Hour {
		delay = max(delay, min(time.Duration(PaceShare*float64(age)), PaceLate))
	} else {
		delay = max(delay, PaceSteady)
	}
	if n := len(p.tries); n >= PaceHourly {
		delay = max(delay, p.tries[n-PaceHourly].Add(time.Hour).Sub(now))
	}
	return delay
}

// forget drops the attempts of more than an hour ago.
func (p *Pace) forget(now time.Time) {
	for len(p.tries) > 0 && now.Sub(p.tries[0]) >= time.Hour {
		p.tries = p.tries[1:]
	}
}

// Spent reports whether the attempts of one hour have been used up.
func (p *Pace) Spent(now time.Time) bool {
	p.forget(now)
	return len(p.tries) >= PaceHourly
}

// Since is when the first attempt failed.
func (p *Pace) Since() time.Time { return p.since }

// Total is how many attempts have failed.
func (p *Pace) Total() int { return p.total }

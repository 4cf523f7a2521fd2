package web

import (
	"time"

	"github.com/cenkalti/backoff/v5"
)

// The pace of a request that keeps failing (protocol/SPEC.md §2.5). Twenty
// attempts an hour can't probe once a minute, so most are made early:
// a fault is noticed as cleared within a minute while it is young, as most
// are, then within a third of its age, at most nine minutes, and within
// little more than three when it has lasted for more than an hour.
const (
	firstDelay = time.Second
	multiplier = 3
	maxDelay   = 43 * time.Second // with jitter and the loop's period a minute
	hourly     = 20
	ageShare   = 0.3
	maxShare   = 450 * time.Second
	steady     = time.Hour / (hourly - 1) // one attempt is left for when a canary works
)

// A Pace says when to repeat something that fails. The zero value has not
// failed yet.
type Pace struct {
	early backoff.ExponentialBackOff
	tries []time.Time // of the last hour, oldest first
	total int
	since time.Time
}

// Failed records an attempt that failed and returns how long to wait.
func (p *Pace) Failed(now time.Time) time.Duration {
	if p.total == 0 {
		p.since = now
		p.early = backoff.ExponentialBackOff{InitialInterval: firstDelay, RandomizationFactor: 0.25, Multiplier: multiplier, MaxInterval: maxDelay}
		p.early.Reset()
	}
	p.forget(now)
	p.tries = append(p.tries, now)
	p.total++
	delay := p.early.NextBackOff()
	if age := now.Sub(p.since); age < time.Hour {
		delay = max(delay, min(time.Duration(ageShare*float64(age)), maxShare))
	} else {
		delay = max(delay, steady)
	}
	if n := len(p.tries); n >= hourly {
		delay = max(delay, p.tries[n-hourly].Add(time.Hour).Sub(now))
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
	return len(p.tries) >= hourly
}

// Since is when the first attempt failed.
func (p *Pace) Since() time.Time { return p.since }

// Total is how many attempts have failed.
func (p *Pace) Total() int { return p.total }

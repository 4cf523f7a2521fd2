package platform

import (
	"errors"
	"time"

	"github.com/azguest/azguest/protocol"
)

// A pace spreads what the HTTP layer can't: answers that arrive well and
// can't be used. It doubles from the poll's period, so that a document which
// stays broken is not fetched in a loop (asks U19).
type pace struct {
	op    string
	until time.Time
	pause time.Duration
	err   error
	since time.Time
	loud  time.Time
	tries int
}

const (
	paceFirst = 6 * time.Second
	paceMax   = 4 * time.Minute
	paceLoud  = 10 * time.Minute
)

// failed records a failure and returns it as a Fault. What is paced below
// already keeps its own Fault.
func (p *pace) failed(err error) error {
	now := time.Now()
	if p.tries == 0 {
		p.since, p.pause = now, paceFirst
	} else {
		p.pause = min(2*p.pause, paceMax)
	}
	p.tries++
	p.err, p.until = err, now.Add(p.pause)
	return p.fault(false)
}

func (p *pace) fault(waiting bool) error {
	now := time.Now()
	f := &protocol.Fault{Op: p.op, Err: p.err, Since: p.since, Tries: p.tries, Next: p.until, Waiting: waiting}
	if inner, ok := errors.AsType[*protocol.Fault](p.err); ok {
		f.Err = inner.Err
	}
	if f.Loud = p.loud.IsZero() || now.Sub(p.loud) >= paceLoud; f.Loud {
		p.loud = now
	}
	return f
}

// wait returns the Fault while the next attempt has to wait.
func (p *pace) wait() error {
	if p.tries > 0 && time.Now().Before(p.until) {
		return p.fault(true)
	}
	return nil
}

func (p *pace) worked() { *p = pace{op: p.op} }

package platform

import (
	"errors"
	"time"

	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// A pace spreads what the HTTP layer can't: answers that arrive well and
// can't be used. It spends the attempts of an hour as that does
// (protocol/SPEC.md §2.5), and leaves what was paced there alone.
type pace struct {
	op    string
	pace  web.Pace
	until time.Time
	err   error
	loud  time.Time
}

const paceLoud = 10 * time.Minute

// failed records a failure and returns it as a Fault.
func (p *pace) failed(err error) error {
	now := time.Now()
	p.err = err
	if inner, ok := errors.AsType[*protocol.Fault](err); ok {
		p.until = inner.Next
		if !inner.Waiting || p.pace.Total() == 0 {
			p.pace.Failed(now)
		}
	} else {
		p.until = now.Add(p.pace.Failed(now))
	}
	return p.fault(false)
}

func (p *pace) fault(waiting bool) error {
	now := time.Now()
	f := &protocol.Fault{Op: p.op, Err: p.err, Since: p.pace.Since(), Tries: p.pace.Total(), Next: p.until, Waiting: waiting}
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
	if p.err != nil && time.Now().Before(p.until) {
		return p.fault(true)
	}
	return nil
}

func (p *pace) worked() { *p = pace{op: p.op} }

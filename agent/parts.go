package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/azguest/azguest/agent/host"
)

// A part of the agent runs until its context ends.
type part struct {
	name string
	run  func(context.Context) error
	// once: it has an end of its own, when its work is done.
	once bool
}

const (
	partFirst = time.Second // until the first restart of a part
	partMax   = time.Minute // between two restarts
	// partWell is how long a part has to run until it counts as well again.
	partWell = 2 * time.Minute
	codePart = "AZ-AGENT-PART"
)

// errEnded is the end of a part that should have none.
var errEnded = errors.New("ended without a reason")

// runParts runs parts side by side until the context ends, and each one again when
// it ends before: a fault of one of them is shown, and ends none of the others.
func (a *Agent) runParts(ctx context.Context, parts ...part) {
	var all sync.WaitGroup
	for _, p := range parts {
		all.Go(func() { a.runPart(ctx, p) })
	}
	// wait: each of them ends with the context
	all.Wait() // each ends with the context
}

// inBackground runs f in a goroutine of its own, and its end can be had from the
// channel. A panic is an error there, too.
func inBackground(f func() error) <-chan error {
	end := make(chan error, 1)
	go func() { end <- host.Safely(f) }()
	return end
}

// runPart runs one part.
func (a *Agent) runPart(ctx context.Context, p part) {
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval, pace.MaxInterval, pace.RandomizationFactor = partFirst, partMax, 0
	what, ill := "part "+p.name, false
	well := func() { a.live.problem(what, "", "", nil) }
	for {
		began := time.Now()
		recovery := func() bool { return false }
		if ill {
			recovery = time.AfterFunc(partWell, well).Stop
		}
		err := host.Safely(func() error { return p.run(ctx) })
		recovery()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && p.once:
			if ill {
				well()
			}
			return
		case err == nil:
			err = errEnded
		}
		if time.Since(began) > partWell {
			pace.Reset()
		}
		wait := pace.NextBackOff()
		code := codePart
		if p, ok := errors.AsType[*host.PanicError](err); ok {
			code = p.Code()
		}
		ill = true
		a.live.problem(what, code, fixOf(code), fmt.Errorf("%s is not running: %w", p.name, err))
		a.Log.Error().Err(err).Func(host.LogStack(err)).Str("code", code).Str("part", p.name).Dur("again_in", wait).Msg("part of the agent failed, it will be restarted")
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

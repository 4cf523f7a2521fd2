package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/azguest/azguest/agent/crash"
	"github.com/azguest/azguest/agent/host"
)

// A part of the agent runs until its context ends.
type part struct {
	name string
	run  func(context.Context) error
	// once: it ends by itself when its work is done.
	once bool
}

const (
	partFirst = time.Second // until the first restart of a part
	partMax   = time.Minute // between two restarts
	// partWell is how long a part has to run until it counts as healthy again.
	partWell = 2 * time.Minute
	codePart = "AZ-AGENT-PART"
)

// errEnded is the error of a part that returned nil although its work has no
// end.
var errEnded = errors.New("ended without a reason")

// runParts runs parts concurrently until the context ends, and restarts each
// one that ends earlier. A failure of one is shown and does not stop the
// others.
func (a *Agent) runParts(ctx context.Context, parts ...part) {
	var all sync.WaitGroup
	for _, p := range parts {
		all.Go(func() {
			defer crash.Guard()
			a.runPart(ctx, p)
		})
	}
	// wait: each of them ends with the context
	all.Wait() // each ends with the context
}

// inBackground runs f in a goroutine of its own and returns a channel that
// receives its result. A panic is returned as an error.
func inBackground(f func() error) <-chan error {
	end := make(chan error, 1)
	go func() {
		defer crash.Guard()
		end <- host.Safely(f)
	}()
	return end
}

// runPart runs one part, and restarts it with growing pauses.
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

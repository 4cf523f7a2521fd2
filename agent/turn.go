package agent

import "context"

// A turn is a mutex that is waited for with a context, so that it may be held
// while files, sockets and other programs are used.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn; give ends it.
func (t turn) take(ctx context.Context) (give func(), err error) {
	select {
	case t <- struct{}{}:
		// wait: it gives back what take has put there
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

package agent

import "sync/atomic"

// gate keeps handlers from starting while something else has to come first.
type gate struct{ opened atomic.Bool }

func (g *gate) open() { g.opened.Store(true) }

// whyWait says what handlers wait for, or "".
func (a *Agent) whyWait() string {
	if !a.gate.opened.Load() {
		if w := a.board.copy().Provisioning.Waiting; w != "" {
			return w
		}
		return "provisioning"
	}
	if a.upd.going.Load() {
		return "an update of the agent"
	}
	return a.hold.why()
}

package agent

import "sync/atomic"

// startGate keeps handlers from starting while something else has to come first.
type startGate struct{ opened atomic.Bool }

func (g *startGate) open() { g.opened.Store(true) }

// whyWait says what handlers wait for, or "".
func (a *Agent) whyWait() string {
	if !a.startGate.opened.Load() {
		if w := a.live.copy().Provisioning.Waiting; w != "" {
			return w
		}
		return "provisioning"
	}
	if a.upd.going.Load() {
		return "an update of the agent"
	}
	return a.hold.why()
}

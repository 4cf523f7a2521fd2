package agent

import "sync/atomic"

// startGate keeps handlers from starting until provisioning has finished or
// failed, and the platform has been reached. Everything else that changes
// accounts or the name of the machine waits for it, too.
type startGate struct{ opened atomic.Bool }

func (g *startGate) open() { g.opened.Store(true) }

// whyWait returns a text for what handlers wait for, "" if they may start.
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

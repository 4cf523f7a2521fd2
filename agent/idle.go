package agent

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/azguest/azguest/agent/host/process"
)

// setIdle leaves one processor to an agent to which nothing happens: waking a
// second one costs more than the little that both do. It also needs less
// memory from now on.
func (a *Agent) setIdle(quiet bool) {
	if quiet {
		a.memory.idle.Store(true)
	}
	if a.Processors < 1 {
		return // not our process
	}
	if quiet {
		debug.SetGCPercent(quietGC)
		runtime.GOMAXPROCS(1)
		process.SetTimerSlack(quietSlack)
		return
	}
	debug.SetGCPercent(BusyGC)
	runtime.GOMAXPROCS(a.Processors)
	process.SetTimerSlack(process.ExactTimers)
}

// quietSlack is how late a timer may be when nothing is urgent.
const quietSlack = 4 * time.Millisecond

// How much of the heap may be garbage, in percent of what is used. An agent
// that rests makes so little that a small heap costs no more collections than
// those that the runtime makes every two minutes anyway.
const (
	BusyGC  = 50
	quietGC = 20
)

package agent

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/azguest/azguest/agent/host/process"
)

// setIdle adapts the Go runtime to an agent that is idle (quiet) or busy. An
// idle one gets a single processor, because waking a second one costs more than
// it gains, imprecise timers and a small heap.
func (a *Agent) setIdle(quiet bool) {
	if quiet {
		a.memory.idle.Store(true)
	}
	if a.Processors < 1 {
		return // the agent is not the whole process
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

// quietSlack is how late a timer may be while the agent is idle.
const quietSlack = 4 * time.Millisecond

// Percentages for the garbage collector (GOGC). An idle agent allocates so
// little that a small heap costs no more collections than those that the
// runtime makes every two minutes anyway.
const (
	BusyGC  = 50
	quietGC = 20
)

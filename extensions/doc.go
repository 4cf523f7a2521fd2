// Package extensions runs VM extension handlers: it gets their packages,
// runs their commands in the right order, and reports what became of them.
//
// The contract with a handler is extensions/SPEC.md, to the byte
// where handlers depend on it. What is decided is in three places: state.go
// (what can follow what), plan.go (what is to be done, from facts) and pass.go
// (what waits for what). Everything else does as it is told.
//
//	Offer ─► pass ─► Plan ─► Task ─► work (a goroutine per handler)
//	                  ▲                │  Record on disk, before
//	                  │                ▼
//	               Records ◄─── supervisor (a process per command)
//	                  │                │  result on disk, after
//	                  ▼                ▼
//	Status ◄─ rows: Records + status/<n>.status + heartbeat.log
//
// Commands run under supervisors (agent/host), which outlive the agent: a
// restart of the agent finds the Record that says what is being done, and
// waits for the same process with the same deadline.
//
// When enable runs: for a new sequence number, new public settings or a new
// version; after a failure, with the next goal state or boot; once per boot;
// once per version of the agent. Nothing else runs it again: not a goal state
// about other extensions, and not a mere restart of the agent.
package extensions

// Package extensions runs VM extension handlers: it gets their packages,
// runs their commands in the right order, and reports what became of them.
// This package is the engine; what it is made of lies below it:
//
//	extensions/plan     what is to be done, from facts: pure (states.mmd is the picture)
//	extensions/handler  the contract with a handler, SPEC.md in this directory
//	extensions/policy   which extensions may run
//	extensions/store    what is on disk: records, packages, audit log
//	extensions/folder   the directories of handlers, used safely
//	extensions/fault    codes and causes of failures
//
// What is decided is in two places: plan.For (what is to be done for one
// handler) and pass.go (what waits for what). Whether enable runs again is
// decided in extensions/plan/plan.go, function WhyEnable. Everything else does
// as it is told.
//
//	Offer ─► pass ─► plan.For ─► Task ─► operation (a goroutine per handler)
//	                  ▲                   │  Record on disk, before
//	                  │                   ▼
//	               Records ◄─── supervisor (a process per command)
//	                  │                   │  result on disk, after
//	                  ▼                   ▼
//	Status ◄─ rows: Records + status/<n>.status + heartbeat.log
//
// Commands run under supervisors (agent/host/job), which outlive the agent: a
// restart of the agent finds the Record that says what is being done, and
// waits for the same process with the same deadline.
//
// When enable runs: for a new sequence number, new public settings or a new
// version; after a failure, with the next goal state or boot; once per boot;
// once per version of the agent. Nothing else runs it again: not a goal state
// about other extensions, and not a mere restart of the agent.
//
// Begin reading in manager.go (Run and loop), then pass.go (schedule, advance),
// operation.go (one step of one handler) and outcome.go (what its end means).
package extensions

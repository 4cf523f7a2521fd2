// Package extensions runs VM extension handlers: it downloads their packages,
// runs their commands in the right order, and reports the results. This package
// is the engine. It uses these packages:
//
//	extensions/plan     decides the next steps from facts; pure (diagram: states.mmd)
//	extensions/handler  the contract with a handler, SPEC.md in this directory
//	extensions/policy   which extensions may run
//	extensions/store    data on disk: records, packages, audit log
//	extensions/folder   safe access to the directories of handlers
//	extensions/fault    codes and causes of failures
//
// Decisions are made in two places: plan.For (the remaining steps of one
// handler) and pass.go (what has to wait for what). Whether enable runs again is
// decided by WhyEnable in extensions/plan/plan.go.
//
//	Offer ─► pass ─► plan.For ─► Task ─► operation (a goroutine per handler)
//	                  ▲                   │  Record on disk, before
//	                  │                   ▼
//	               Records ◄─── supervisor (a process per command)
//	                  │                   │  result on disk, after
//	                  ▼                   ▼
//	Status ◄─ rows: Records + status/<n>.status + heartbeat.log
//
// Commands run under supervisors (agent/host/job), which outlive the agent.
// After a restart, the agent finds the running command in the Record, and waits
// for the same process with the same deadline.
//
// Enable runs for a new sequence number, new public settings or a new version;
// after a failure, with the next goal state or boot; once per boot; and once
// per version of the agent. It does not run again for a goal state that changes
// other extensions, or for a restart of the agent.
//
// Begin reading in manager.go (Run and loop), then pass.go (schedule, advance),
// operation.go (one step of one handler) and outcome.go (handling its result).
package extensions

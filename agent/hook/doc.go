// Package hook runs the administrator's scripts for events: the start of the
// machine, its shutdown, and what the platform is going to do to it.
//
// [Find] says which scripts there are and which are refused. [Decide] is the one
// decision about a scheduled event: what to do next, from its record and the
// time. A [Runner] starts scripts and waits for them. Each runs in a job of
// package agent/host/job, so that neither a kill nor an update of the agent ends
// or repeats it. What became of them is in records (package agent/status), which
// are on disk before anything is started.
//
// It imports agent/host and agent/host/job to run scripts, and agent/status for
// the records that agentctl reads, too. It knows nothing about the platform;
// package agent brings the two together.
package hook

// Package status is the document in which the agent describes itself and which
// agentctl reads: [Snapshot]. It also has the three small things that both
// sides must agree on: where the files are ([Paths]), how to tell whether the
// agent runs ([Acquire], [Probe]), and the line protocol of the control socket
// ([Request], [Serve], [Call]).
//
// The agent calls [Save] at every change, which writes two files:
//
//	status.json       0644  for everybody: no texts of handlers, no settings
//	status.root.json  0600  the same, with messages and the last output of each handler
//
// [Load] returns the newest that the caller may read. A snapshot stays readable
// when the agent is down; WrittenAt says how old it is.
//
// All times are UTC, all durations whose key ends in _s are seconds, all sizes
// are bytes. A zero time means "never" and is left out of the JSON.
//
// Begin with Snapshot in snapshot.go. Of this module, the package imports only
// the floor (DESIGN.md, The shape), so that agentctl stays small.
package status

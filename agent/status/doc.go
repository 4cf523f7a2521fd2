// Package status is the one document the agent writes about itself and
// agentctl reads: [Snapshot]. With it come the three small things both sides
// must agree on: where the files are ([Paths]), how to tell that the agent
// lives ([Acquire], [Probe]), and the line protocol of the control socket
// ([Request], [Serve], [Call]).
//
// The agent calls [Save] at every change. Two files are written:
//
//	status.json       0644  for everybody: no words of handlers, no settings
//	status.root.json  0600  the same, with messages and the last output of each handler
//
// [Load] takes the better of the two that the caller may read. A snapshot
// stays readable when the agent is dead; WrittenAt says how old it is.
//
// All times are UTC, all durations whose key ends in _s are seconds, all sizes
// are bytes. A zero time means "never" and is left out of the JSON.
//
// Begin with Snapshot in snapshot.go. Of ours the package imports the floor only,
// so agentctl stays small.
package status

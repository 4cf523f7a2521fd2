// Package doctor knows what can be wrong. It holds the table of stable codes
// that `agentctl explain` prints ([Codes]), and the checks that `agentctl
// doctor` makes ([Run]).
//
// A check reads local evidence only: files, /proc, mounts, the lock, the last
// snapshot. None opens a connection, starts a process or changes anything, so
// doctor can run while the agent is dead, hung or in the middle of something.
//
// Begin with codes.go and the list of checks in run.go. The package may import
// agent/status and the floor, so that agentctl stays small.
//
// Codes are AZ-AREA-WHAT. A code, once published, keeps its meaning; a code
// nobody emits any more stays in the table.
package doctor

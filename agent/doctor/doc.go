// Package doctor finds problems on a machine. It has the table of stable codes
// that `agentctl explain` prints ([Codes]), and the checks that `agentctl
// doctor` makes ([Run]).
//
// A check reads local evidence only: files, /proc, mounts, the lock, the last
// snapshot. None opens a connection, starts a process or changes anything, so
// doctor works while the agent is down, hangs or is busy.
//
// Begin with codes.go and the list of checks in run.go. The package may import
// agent/status and the floor, so that agentctl stays small.
//
// Codes are AZ-AREA-WHAT. A code, once published, keeps its meaning; a code
// that is no longer used stays in the table.
package doctor

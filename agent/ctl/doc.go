// Package ctl is agentctl: one file per group of commands, render.go for what
// a person reads.
//
// Begin with the list of commands in ctl.go.
//
// It knows what the files tell, the snapshot first of all, and asks the agent
// itself only to change something, over a socket for root. It must start in
// about a millisecond and stay small: it links neither protocol nor extensions
// nor net/http, and a test holds it to that.
//
// Exit codes of status, the same for scripts and monitors:
//
//	0   healthy
//	1   degraded, or still starting
//	2   failed
//	3   the agent is not running
//	4   cannot tell
//	64  wrong usage (EX_USAGE, so that no mistyped command looks like a sick agent)
//
// Other commands end with 0, with 1 when something is wrong with what they
// looked at, with 4 when they could not look, and with 64. waagent-compat ends
// with 2 on wrong usage.
package ctl

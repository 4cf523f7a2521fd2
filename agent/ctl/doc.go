// Package ctl is agentctl: one file per group of commands, and render.go for
// the status screen.
//
// Begin with the list of commands in ctl.go. The package is flat, because each
// command is small and all of them share one command line.
//
// It reads files, above all the snapshot, and asks the agent itself only to
// change or check something, over a socket that only root may use. It must
// start in about a millisecond and stay small: it links neither protocol nor
// extensions nor net/http, and a test enforces that.
//
// Exit codes of status, the same for scripts and monitors:
//
//	0   healthy
//	1   degraded, or still starting
//	2   failed
//	3   the agent is not running
//	4   unknown
//	64  wrong usage (EX_USAGE, so that typing errors do not look like a failed agent)
//	74  the output could not be written (EX_IOERR), whatever the command has found
//
// Other commands end with 0, with 1 when something is wrong with what they
// looked at, with 4 when they could not look at it, and with 64 and 74. waagent-compat
// ends with 2 on wrong usage. metadata has exit codes of its own, see its help.
package ctl

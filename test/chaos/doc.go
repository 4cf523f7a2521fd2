// Package chaos is the release binary under everything at once: a machine in
// a sandbox, a platform that misbehaves, customers who change their minds, and
// somebody who kills processes.
//
// What happens is drawn from a seed and nothing else, so the same seed gives
// the same steps in the same order; when they happen is up to the machine. The
// seed and every step are logged. What must come out does not depend on the
// timing either: once the faults are mended, the control plane, the status
// document, the files of the handlers and agentctl say the same, and it is
// what was asked for.
//
//	TestFaults     one long life: faults of the platform, changes of goal
//	               states, kills. -minutes sets how long. In its first part the
//	               agent itself is spared and its resources are measured at
//	               equal points, in the second it is killed as well.
//	TestSequences  -sequences short lives on fresh machines with goal states and
//	               kills and a platform in order; -only N repeats one of them.
//
// scripts/chaos runs both.
package chaos

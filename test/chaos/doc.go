// Package chaos tests the release binary under random events: a machine in a
// sandbox, a faulty platform, changing goal states, and killed processes.
//
// The events are drawn from a seed only, so the same seed gives the same steps
// in the same order; their timing depends on the machine. The seed and every
// step are logged. The result does not depend on the timing: once the faults
// are removed, the control plane, the status document, the files of the
// handlers and agentctl agree on what was requested.
//
//	TestFaults     one long run: faults of the platform, changes of goal
//	               states, kills. -minutes sets its duration. In its first part
//	               the agent is not killed and its resources are measured at
//	               equal points, in the second it is killed as well.
//	TestSequences  -sequences short runs on fresh machines with goal states and
//	               kills on a platform without faults; -only N repeats one.
//
// scripts/chaos runs both.
package chaos

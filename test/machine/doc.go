// Package machine provides one virtual machine of the emulated platform: a
// sandbox with the agent's binaries installed, and the fabric that it is
// connected to.
//
// New creates a machine on which nothing is running yet; StartAgent, KillAgent,
// RestartAgent and Reboot control it; Sh, Rows and ReadStatus return its state;
// Explain prints what helps to find the cause of a failure. Programs use the
// package directly. Tests use machinetest, where an error ends the test. For
// machines that are more than a sandbox (test/vm, test/nspawn), only Connect
// and Until are useful.
//
// The agent is used through its interfaces only: none of its packages is
// imported.
package machine

// Package machine is one virtual machine of the emulated platform: a sandbox
// with the agent's binaries installed, and the fabric that it sees.
//
// New makes a machine, on which nothing runs yet; StartAgent, KillAgent,
// RestartAgent and Reboot are what happens to it; Sh, Rows and ReadStatus say
// what has become of it; Explain shows what one looks at after a failure.
// Programs use it directly. Tests use machinetest, where a failure ends the
// test. Where a machine is more than a sandbox (test/vm, test/nspawn), Connect
// and Until are of use alone.
//
// It knows the agent from outside only: nothing of the agent is linked.
package machine

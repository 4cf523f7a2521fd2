// Package handlers tests the agent's release binary in a sandbox of this
// machine, with the emulated platform. It shows two things.
//
// Published handlers work: look-alikes of seven of them, which use the same
// interfaces of the agent as the published ones (extensions/SPEC.md §18) and
// are packaged with the same irregularities, go through install, enable, new
// settings, restart of the agent, reboot, upgrade, downgrade and delete.
//
// Hostile input does no harm: packages, files written by handlers, goal states
// and local users that try to escape from their directories, to affect other
// handlers, or to stop the agent from reporting.
//
// The look-alikes are in testdata, one folder for each. They imitate only what
// can be observed from outside.
package handlers

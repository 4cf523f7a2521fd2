// Package handlers proves two things about the agent's release binary in a
// sandbox of this machine, against the emulated platform.
//
// Published handlers work: look-alikes of seven of them, which need from the
// agent what the published ones were seen to need (extensions/SPEC.md §18), with the
// packaging oddities of the real ones, live through install, enable, new
// settings, restart of the agent, reboot, upgrade, downgrade and delete.
//
// Hostile things do no harm: packages, files that handlers leave, goal states
// and local users that try to get out of their box, into somebody else's, or
// to silence the agent.
//
// The look-alikes are in testdata, one folder for each. They only imitate
// what can be seen from outside.
package handlers

// Package vm boots real virtual machines with the agent's package installed and
// checks them from outside, as a customer and as the platform do.
//
// It has three parts: images.go builds a disk from Debian's packages and the
// agent's, lab.go a network namespace in which the platform's addresses answer,
// machine.go runs QEMU in that namespace. scenarios.go is the table of
// scenarios; to add one, add a row. Everything that a run creates is in one
// scratch directory and one namespace, which are removed at its end.
//
// It needs root, Debian and the packages that scripts/vm installs. It does not
// import the agent: the agent is tested as it is shipped.
package vm

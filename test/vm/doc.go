// Package vm boots real virtual machines with the agent's package installed
// and looks at them from outside, as a customer and as the platform do.
//
// Three parts: images.go makes a disk from Debian's packages and ours, lab.go
// a network namespace in which the platform's addresses answer, machine.go a
// QEMU in that namespace. scenarios.go is the table of what is tried; a new
// one is a row there. Everything a run makes lives in one scratch directory
// and one namespace, and goes away with it.
//
// It needs root, Debian and the packages that scripts/vm installs. Nothing
// here imports the agent: it is tried as it ships.
package vm

// Package process deals with the processes of the machine: what the kernel
// says of each (Info), whether a process id still means the same process
// (Alive), how to start one that outlives the agent (Detach), and how to end
// everything that a user runs (EndUser). It reads /proc and sends signals,
// imports nothing from this module, and trusts nothing that a process can
// choose itself (DESIGN.md, decision 49). Begin with Info.
package process

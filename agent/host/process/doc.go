// Package process is what the agent knows of the processes of the machine: what
// the kernel says of each (Info), which one is still the same, how one is
// started that outlives the agent (Detach), and how everything that a user runs
// is ended (EndUser). It reads /proc and sends signals, imports nothing of ours,
// and believes nothing that a process has chosen by itself (DESIGN.md,
// decision 49). Begin with Info.
package process

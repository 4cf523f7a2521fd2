// Package host is the only package that touches Linux: files below a Root,
// processes through a Runner. Everything above it describes what it wants
// and can be tested against a temporary directory and hosttest.Runner; the
// real machine is named in one place only, agent/cmd/azguest.
//
// Begin with Root (root.go), which takes paths, and Dir (dir.go, openat.go),
// which works on a descriptor; neither follows a symbolic link that a user
// other than root could have made (DESIGN.md, decision 38). Then Cmd and
// Runner (run.go), Kernel (kernel.go), and the accounts of the machine
// (users.go).
//
// Running processes have packages of their own: process (what the kernel says
// of processes), cgroup (scopes and limits), job (a handler's command and its
// supervisor). Files, accounts and mounts stay together because most of them
// are methods of Root. From this module the package imports agent/secret and
// agent/host/process.
package host

// Package sandbox runs the real binaries on a copy-on-write view of this
// machine, so that a test can let the agent call the real useradd, write the
// real /etc/shadow and restart the real sshd without touching anything.
//
// # What a sandbox is
//
// A supervisor process owns a network namespace, a mount namespace with a
// private tmpfs, and a process namespace in which everything else lives. Under
// it, one "boot" process is process 1 of the sandboxed machine: its root is an
// overlay of the machine's own root below and the tmpfs above, with its own
// /proc, /sys, /dev, /run and /tmp. Reboot replaces the boot process and keeps
// the upper layer: files survive, processes and /run do not.
//
// The loopback device of the network namespace carries 168.63.129.16 and
// 169.254.169.254, so a fabric emulator started with Beside answers where the
// platform would, and nothing can reach the machine's own network.
//
// # What it promises
//
//   - Nothing of the machine is changed: no mounts, users, files, modules,
//     sysctls, clock or host name. The boundary guards against accidents, not
//     against hostile code: processes inside are real root with a few
//     capabilities missing.
//   - Nothing stays behind. The supervisor ends when its control socket does,
//     also when the program that made it is killed with SIGKILL, and takes every
//     process, mount, namespace and loop device with it. Nothing is written to
//     the machine's disks, except without root before Linux 6.6: what a killed
//     program leaves then is a directory sandbox-* in the temporary folder.
//   - It refuses to start a process in the machine's own network namespace.
//
// # Without root
//
// AsRoot runs the program again as root of a user namespace. The machine is
// then shown by an overlay for each top directory, and what root writes in is
// copied; see lowers.go. Loop devices are not to be had, and whether there are
// other users depends on /etc/subuid: see Rights.
//
// Programs that use it call Main first thing in main or TestMain: the sandbox
// starts the program's own executable again as supervisor and boot process.
package sandbox

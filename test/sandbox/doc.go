// Package sandbox runs the real binaries on a copy-on-write view of this
// machine, so that a test can let the agent call the real useradd, write the
// real /etc/shadow and restart the real sshd without changing the machine.
//
// # What a sandbox is
//
// A supervisor process owns a network namespace, a mount namespace with a
// private tmpfs, and a process namespace in which everything else runs. Its
// child, the "boot" process, is process 1 of the sandboxed machine: its root is
// an overlay of the machine's own root below and the tmpfs above, with its own
// /proc, /sys, /dev, /run and /tmp. Reboot replaces the boot process and keeps
// the upper layer: files survive, processes and /run do not.
//
// The loopback device of the network namespace has the addresses 168.63.129.16
// and 169.254.169.254, so a fabric emulator started with Beside answers in
// place of the platform, and nothing can reach the machine's own network.
//
// # Guarantees
//
//   - Nothing of the machine is changed: no mounts, users, files, modules,
//     sysctls, clock or host name. This protects against accidents, not against
//     hostile code: processes inside are real root with a few capabilities
//     missing.
//   - Nothing is left behind. The supervisor ends when its control socket is
//     closed, also when the program that created it is killed with SIGKILL, and
//     with it every process, mount, namespace and loop device. Nothing is written
//     to the machine's disks, except without root before Linux 6.6: a killed
//     program then leaves a directory sandbox-* in the temporary folder.
//   - No process is started in the machine's own network namespace.
//
// # Without root
//
// AsRoot runs the program again as root of a user namespace. The machine is
// then mounted as one overlay for each top directory, and files that root
// writes to are copied; see lowers.go. Loop devices are not available, and
// whether there are other users depends on /etc/subuid: see Rights.
//
// Programs that use the package call Main first in main or TestMain: the
// sandbox starts the program's own executable again as supervisor and boot
// process.
package sandbox

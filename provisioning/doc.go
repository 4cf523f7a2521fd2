// Package provisioning makes a fresh machine what its provisioning document
// says: host name, account, password, keys, sudo, sshd, host keys, custom
// data (provisioning/SPEC.md §7).
//
// [Gather] reads the machine, [Plan] decides without touching it, [Apply]
// does what was decided, step by step, with a [Journal] on disk before and
// after each one. Every step may be applied any number of times; a process
// killed anywhere and started again ends in the same state. What differs
// between distributions is found out by looking (is there a useradd, does
// sshd read its drop-in directory), never by name.
//
// The package also knows who else may be provisioning this machine
// ([FindOwner]), which VM this is ([Identify]) and how a failure is told to
// the platform ([Record]). It sends nothing: that is the caller's part.
package provisioning

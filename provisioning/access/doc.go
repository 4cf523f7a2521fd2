// Package access finds out, after provisioning, whether the person for whom
// the machine was made can get in: with a key, with a password, and from there
// to root.
//
// [Check] asks the programs that decide: getent, sshd -T and the sshd that
// listens, the shell, sudo, faillock. What cannot be asked of a program is
// read: the stack of PAM (pam.go), and the lists of sshd, which it prints but
// does not judge (lists.go). A module or a rule that is not understood is
// named and shuts nothing.
//
// The check changes nothing and never fails: its result is a [Report] of
// findings, each with a code, what was asked and answered, and what to do. It
// imports package provisioning, whose steps ask the same questions. Begin with
// Check.
package access

// Package provisioning makes a fresh machine what its provisioning document
// says: host name, account, password, keys, sudo, sshd, host keys, custom
// data (provisioning/SPEC.md §7).
//
// A [Machine] is what all of it works on. [Machine.Gather] reads the facts,
// [Plan] decides without touching anything, [Machine.Apply] does what was
// decided, step by step, with a [Journal] on disk before and after each one.
// Every step may be applied any number of times; a process killed anywhere
// and started again ends in the same state. What differs between
// distributions is found out by looking (is there a useradd, does sshd read
// its drop-in directory), never by name.
//
// The package also knows who else may be provisioning this machine
// ([Machine.FindOwner]), which VM this is ([Identify]) and how a failure is
// told to the platform ([Record]). It sends nothing: that is the caller's
// part. It imports the floor (agent/host, agent/event, agent/secret) and
// package ovf, and nothing of the protocol.
//
// Begin with plan.go, then apply.go, then any step. The package is flat,
// because its parts share more than they hide: the steps share Facts and the
// ledgers, just-in-time users are made by the steps of the first user, and
// that step asks the ledger of numbers. By files:
//
//   - the machine: machine, facts, identity
//   - what was ordered: input, fromovf, custom_data, keys (formats of public
//     keys)
//   - decisions and their execution: plan, late (what comes after Ready),
//     apply, state
//   - one step each: step_*; with them home and ledger (of the account),
//     hostkey_maker, sshdconf (the configuration as sshd reads it)
//   - just-in-time users and what is taken back: jit, jit_ledger, uids,
//     removal, forget
//   - others: owner and cloudinit (another provisioner), pps (pools)
//   - what is told: errors, report
package provisioning

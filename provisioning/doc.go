// Package provisioning sets a fresh machine up as its provisioning document
// says: host name, account, password, keys, sudo, sshd, host keys, custom data
// (provisioning/SPEC.md §7).
//
// A [Machine] is the machine that is provisioned. [Machine.Gather] reads the
// facts, [Plan] decides without touching anything, [Machine.Apply] applies the
// plan step by step and writes a [Journal] before and after each one. Every
// step may be applied any number of times; a process killed anywhere and
// started again ends in the same state. Differences between distributions are
// found by looking (is there a useradd, does sshd read its drop-in directory),
// never by name.
//
// The package also finds out whether another program provisions this machine
// ([Machine.FindOwner]) and which VM this is ([Identify]), and encodes the
// report about a failure for the platform ([Record]). It sends nothing; that
// is left to the caller. It imports base packages (agent/host, agent/event,
// agent/secret) and package ovf, and no package of the protocol.
//
// Begin with plan.go, then apply.go, then any step. The package is flat
// because its parts share much: the steps share Facts and the ledgers,
// just-in-time users are made by the steps of the first user, and that step
// asks the ledger of user ids (UIDs). By files:
//
//   - the machine: machine, facts, identity
//   - what was requested: input, fromovf, custom_data, keys (formats of public
//     keys)
//   - decisions and their execution: plan, late (steps after Ready), apply,
//     state
//   - one step each: step_*; with them home and ledger (of the account),
//     hostkey_maker, sshdconf (the configuration as sshd reads it)
//   - just-in-time users and the removal of accounts: jit, jit_ledger, uids,
//     removal, forget
//   - other programs: owner and cloudinit (another provisioner), pps (pools)
//   - errors and reports: errors, report
package provisioning

// Package policy says which extensions may run on this machine: the platform's
// policy file (extensions/SPEC.md §14.1) and the rules of policy.d (extensions/SPEC.md §14.2).
// Read makes of the files what is in force, and Deny answers with a problem.
// The engine asks it before anything of an extension is done, and `agentctl
// policy explain` asks the same through Explain, without an engine.
package policy

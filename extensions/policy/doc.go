// Package policy decides which extensions may run on this machine, by the
// platform's policy file (extensions/SPEC.md §14.1) and the rules in policy.d
// (extensions/SPEC.md §14.2). Read reads both, and Deny returns why an extension
// is not allowed. The engine calls it before it does anything for an extension;
// `agentctl policy explain` calls Explain, without an engine.
package policy

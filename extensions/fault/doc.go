// Package fault has the codes of extension failures that are reported to the
// platform, and the causes that `agentctl explain` documents. An error gets its
// cause where it is created; it is never derived from a text later.
package fault

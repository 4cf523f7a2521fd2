// Package fault has the failures of extensions as they are told: the codes
// that the platform knows, and the causes that `agentctl explain` knows. An
// error gets its cause where it is made; nobody reads it out of a text later.
package fault

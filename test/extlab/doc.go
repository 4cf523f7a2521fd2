// Package extlab is a laboratory for the authors of VM extensions: it checks a
// package without running it, runs it on the emulated platform with the real
// agent in a sandbox, and tests it in the situations that extensions meet in
// practice. It implements the command "fabric ext".
//
// It depends on the handler contract only: none of the agent's packages is
// imported, and the agent is run as a binary.
package extlab

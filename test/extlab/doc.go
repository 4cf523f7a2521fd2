// Package extlab is a laboratory for the authors of VM extensions:
// it looks at a package without running it, runs it on the emulated platform
// under the real agent in a sandbox, and puts it through what happens to
// extensions in the field. "fabric ext" is its face.
//
// It knows the handler contract from the outside only: nothing of the agent
// is linked, the agent is a binary like any other.
package extlab

// Package arm holds tests in which somebody else's client speaks with the
// emulated control plane: Microsoft's SDK for Go, unmodified, its pollers and
// its JSON. It is a module of its own so that the SDK is no dependency of the
// agent's.
//
// The guest at the other end is the real agent in a sandbox: what the SDK asks
// for is done, and what it reads was reported.
package arm

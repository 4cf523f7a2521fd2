// Package arm tests the emulated control plane with third-party clients:
// Microsoft's SDK for Go, unmodified, with its pollers and its JSON, and
// azure-cli. It is a module of its own so that the SDK is not a dependency of
// the agent.
//
// The guest is the real agent in a sandbox: it carries out what the SDK
// requests, and the SDK reads what it reports.
package arm

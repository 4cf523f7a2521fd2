// Package handler implements the contract between the agent and a handler: the
// files that the agent writes into a handler's directory and reads from it, and
// how a command is called. The contract is extensions/SPEC.md; it is followed
// to the byte where handlers depend on it. This package knows nothing about
// goal states or other handlers.
//
//   - manifest.go: HandlerManifest.json; json.go has the lenient JSON reader.
//   - files.go: settings, HandlerEnvironment.json, HandlerStatus.
//   - status.go, heartbeat.go: what a handler reports about itself.
//   - command.go: command line and environment of a command.
//   - cause.go: why a command failed.
//
// It imports package folder to access the files, and plan for the operations.
package handler

// Package handler is the contract between the agent and a handler: what the
// agent writes into a handler's directory and reads from it, and how a command
// is called. The contract is extensions/SPEC.md, to the byte where handlers
// depend on it. Nothing here knows of goal states, or of other handlers.
//
//   - manifest.go: HandlerManifest.json; json.go has the lenient reading.
//   - files.go: settings, HandlerEnvironment.json, HandlerStatus.
//   - status.go, heartbeat.go: what a handler says of itself.
//   - command.go: command line and environment of a command.
//   - cause.go: why a command failed.
//
// It imports package folder for the files, and plan for the operations.
package handler

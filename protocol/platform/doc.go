// Package platform is everything that the agent uses to talk to the platform:
// one Client for the WireServer, the HostGAPlugin, blob storage and the
// metadata service. It decides which goal state counts
// (protocol/SPEC.md §7.4), keeps the files that other programs read
// (protocol/SPEC.md §16), and goes on working whatever the host answers; its
// results have the types of package protocol.
//
// Order of use: New, Connect, Identity and ReportHealth as early as wanted,
// then GoalState in a loop and the reports at any time. Methods are safe for
// concurrent use; calls of GoalState run one at a time.
//
// It may use every package of protocol, and agent/host for files, but nothing
// of the agent above it. Begin with Options and New (client.go), then
// goalstate.go.
package platform

// Package protocol has the types in which the agent describes what the
// platform says and wants to hear: goal state (goalstate.go), status document
// (status.go, statusjson.go), health, and how a channel fails (fault.go). It
// does no I/O. XML, JSON and HTTP are hidden, except that a Status can encode
// itself as JSON.
//
// The packages below it translate: wire (WireServer), hostga (HostGAPlugin)
// and imds (instance metadata) have a client and the documents of one service
// each, transfer downloads blobs, discover finds the WireServer, cms opens
// encrypted settings and checks signatures. Package platform puts them
// together and is what the agent uses. Only they may do HTTP, through
// protocol/internal/web.
//
// What goes over the wire, and all numbers, are in SPEC.md beside this file.
// Begin with GoalState in goalstate.go, then read package platform.
package protocol

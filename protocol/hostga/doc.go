// Package hostga speaks to the HostGAPlugin, the platform's second channel on
// the same address (protocol/SPEC.md §7): vmSettings, the artifact relay,
// status and log upload. A 410, or a 400 that says
// InvalidContainerConfiguration, means that the container ID or configuration
// name that we sent is out of date: they are refreshed and the call repeated
// once.
//
// client.go has the calls, vmsettings.go reads the one document that comes
// from here. The package uses the HTTP layer (web) and makes no decisions:
// which goal state counts is for package platform.
package hostga

// Package hostga speaks to the HostGAPlugin, the platform's second channel
// on the same address (protocol/SPEC.md §7): vmSettings, the artifact relay,
// status and log upload. A 410, or a 400 that says
// InvalidContainerConfiguration, means that our idea of container and
// configuration is stale: it is refreshed and the call repeated once.
//
// client.go has the calls, vmsettings.go reads the one document that comes
// from here. The package uses the HTTP layer (web) and decides nothing: which
// goal state counts is for package platform.
package hostga

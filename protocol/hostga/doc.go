// Package hostga speaks to the HostGAPlugin, the platform's second channel
// on the same address (spec/protocol §5): vmSettings, the artifact relay,
// status and log upload. A 410, or a 400 that says
// InvalidContainerConfiguration, means that our idea of container and
// configuration is stale: it is refreshed and the call repeated once.
package hostga

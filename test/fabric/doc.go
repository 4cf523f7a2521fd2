// Package fabric emulates the platform side of a Linux virtual machine on an
// Azure-style cloud: the WireServer, the HostGAPlugin, blob storage, the
// instance metadata service and the control plane with its extension API.
package fabric

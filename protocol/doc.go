// Package protocol is the agent's own vocabulary for what the platform says
// and wants to hear: goal state, extensions, certificates, status, health.
// Neither XML nor JSON nor HTTP shows through; the packages below it
// translate (wire, hostga, imds) and platform puts them together.
package protocol

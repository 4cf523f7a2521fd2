// Package wire speaks to the WireServer: one client, and one file for each
// document, which parses it into the types of package protocol or builds it
// from them. It makes no decisions.
//
// Documents are read as liberally as the platform writes them: names are
// matched anywhere below a node, without namespace and case, order does not
// matter, what is missing is empty (protocol/SPEC.md §2.8). They are bounded
// in size, depth and number of nodes (limits.go).
//
// Begin with client.go; the readers share the small XML layer in xml.go. The
// package uses the HTTP layer (web) and imports none of its neighbours.
package wire

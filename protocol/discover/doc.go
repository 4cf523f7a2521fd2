// Package discover finds the address of the WireServer. It is 168.63.129.16
// unless the network says otherwise: option 245 of a DHCP lease is a hint, a
// name server or a default gateway never is (protocol/SPEC.md §3.1).
//
// Begin with Candidates (discover.go), which lists the addresses to try, in
// order, from lease files and from NetworkManager; who asks them is package
// platform. dhcp.go and packet.go send one DHCP request and read the answers,
// uplinks.go says which interfaces may lead to the platform. The package reads
// files through agent/host and knows nothing of HTTP.
package discover

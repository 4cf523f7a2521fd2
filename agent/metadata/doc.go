// Package metadata has the instance metadata (protocol/SPEC.md §13) for people
// and scripts: the document as a tree, and the forms in which it is shown and
// stored.
//
// Begin with Parse and Node.Find (tree.go). text.go shows a part on a screen,
// variables.go as variables for shells and units of systemd; public.go takes
// out what is not for every user of the machine; cache.go has the files below
// /run/azguest.
//
// It asks no service: azguest and the agent fetch the document with
// protocol/imds, and agentctl, which can't, reads the cache to complete paths.
// Of this module it imports only how files are written, what bounds documents
// and words, and what a secret is.
package metadata

// Package userdata carries out what people give a VM to set it up: scripts and
// a named subset of cloud-config, from custom data, user data and vendor data
// (provisioning/SPEC.md §18).
//
// Documents are parsed into parts (scripts and cloud-configs), every
// cloud-config is judged as a whole, and what it says is refused by name, with
// its place, before anything is changed. The layers are merged, the merged
// configuration is a [Config], and the rest follows the house: a pure plan of
// items in order, and a runner with a journal.
//
// The package imports package provisioning, whose steps it resembles and whose
// machine it changes, and base packages. It sends nothing and asks no service:
// the caller brings the documents.
//
// Begin with config.go, then load.go and run.go. The package is flat because its
// two halves meet in [Config] and in nothing else: one makes it, the other
// carries it out, and neither is of use without the other. By files:
//
//   - documents: parse (parts of a document), yaml (values with their places),
//     cloudconfig and decode (what each key may say), merge, load (all of it)
//   - carrying it out: plan, run, journal
//   - what a configuration becomes: step_*
package userdata

// Package store reads and writes everything that the engine keeps on disk. The
// directory tree is described at type Store.
//
//   - record.go: a Record, which has the state of one version of a handler. It
//     is written before and after every operation that changes it.
//   - store.go: records, and the state files in the handlers' directories (Save,
//     SaveFiles, Load).
//   - place.go, remove.go: moving a package into its directory and removing a
//     handler, each as an atomic step.
//   - reserve.go: disk space that is reserved for commands on a full disk.
//   - audit.go: the audit log.
//   - cache.go: status files and manifests, read only when they have changed.
//
// It imports the packages plan, handler, folder and fault, and knows nothing
// about goal states.
package store

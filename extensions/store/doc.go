// Package store is everything that the engine keeps on disk. The tree is
// described at type Store.
//
//   - record.go: a Record, what is known about one version of a handler. It is
//     on disk before and after every operation that changes it.
//   - store.go: records and the states in the handlers' directories, written
//     together and read together (Save, SaveFiles, Load).
//   - place.go, remove.go: how a package gets its directory and loses it, in
//     one step whatever happens meanwhile.
//   - reserve.go: room that is kept for commands on a full disk.
//   - audit.go: the audit log.
//   - cache.go: status files and manifests, read only when they have changed.
//
// It imports the packages plan, handler, folder and fault, and knows nothing of
// goal states.
package store

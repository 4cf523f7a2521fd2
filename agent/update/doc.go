// Package update replaces the running agent by another version of itself
// (protocol/SPEC.md §14): it decides which version is wanted, checks its
// package, hands over to it, and rolls back if the new version does not report.
// Begin with decide.go, which has only pure functions.
//
// # Modes
//
//	off      no updates; the version that was in use stays
//	distro   the installed binary only, whatever was staged before
//	pinned   exactly AutoUpdate.Pin, from the agent family's manifest
//	channel  what the platform offers: the highest version of the family's
//	         manifest, or the version that it requests
//
// # A package
//
// A zip with, at its root, HandlerManifest.json whose signingInfo says type
// "azguest", publisher "Azguest" and the version; and bin/azguest-<GOARCH>
// or bin/azguest. Its signature, detached CMS over the bytes of the zip
// (protocol/SPEC.md §14.3), has the same address with ".sig" appended, because
// classic manifests have no field for it. It is checked before anything of the
// zip is used, against the root certificates in the file that
// AutoUpdate.TrustRoots names. Without that file or without a signature, there
// is no update (unless AutoUpdate.RequireSignature is off).
//
// # The hand-over
//
// The package is unpacked to <lib>/WALinuxAgent-<version>/. The old agent
// starts a guard (itself, in a session and scope of its own), ends its work
// and becomes the new version by exec: same process id, same unit, the lock
// stays held. The first status document that the platform accepts from the
// new version commits it; without one the guard kills the process and marks
// the version bad, and the service manager (or, where there is none, the
// guard) starts the installed binary. Handlers have supervisors of their own
// and are not affected.
//
// Every boot starts the installed binary. It hands over to the committed
// version at once and counts how often; at the third time within five minutes
// of one boot, it rolls that version back instead.
//
// The state is in <lib>/azguest/update.json.
package update

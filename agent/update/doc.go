// Package update replaces the running agent by another version of itself
// (protocol/SPEC.md §14): it decides which version is wanted, checks its
// package, hands over to it, and takes the hand-over back when the new version
// does not report. Begin with decide.go, which is pure.
//
// # Modes
//
//	off      no updates; what was running goes on running
//	distro   the installed binary only, whatever was staged before
//	pinned   exactly AutoUpdate.Pin, from the agent family's manifest
//	channel  what the platform offers: the highest version of the family's
//	         manifest, or the version it asks for where it governs versions
//
// # A package
//
// A zip with, at its root, HandlerManifest.json whose signingInfo says type
// "azguest", publisher "Azguest" and the version; and bin/azguest-<GOARCH>
// or bin/azguest. Its signature, detached CMS over the bytes of the zip
// (protocol/SPEC.md §14.3), lies beside it under the same address with ".sig"
// appended: classic manifests have no place for one. It is checked before the
// first byte of the zip is looked at, against the authorities in the file
// AutoUpdate.TrustRoots names. No file, no signature, no trust: no update.
//
// # The hand-over
//
// The package is unpacked to <lib>/WALinuxAgent-<version>/. The old agent
// starts a guard (itself, in a session and scope of its own), ends its work
// and becomes the new version by exec: same process id, same unit, the lock
// stays held. The first status document that the platform accepts from the
// new version commits it; without one the guard kills the process and marks
// the version bad, and the service manager (or, where there is none, the
// guard) starts the installed binary. Handlers live in supervisors of their
// own and notice nothing.
//
// The installed binary is what every boot starts. It hands over to the
// committed version at once, counts how often it had to, and stops doing so
// at the third time within five minutes of one boot.
//
// Everything that must survive is in <lib>/azguest/update.json.
package update

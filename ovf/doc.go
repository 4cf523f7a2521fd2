// Package ovf finds and reads the provisioning medium: the small DVD with
// ovf-env.xml that the platform attaches for the first boot
// (provisioning/SPEC.md §4 and §5).
//
// Parse is pure: bytes in, Environment out. Load finds the document with a
// Media, which is DVD on a machine and Dir in tests, and returns where it was
// found. Redacted makes the copy that may stay on disk. Eject is called last,
// after everything else has succeeded: the medium is the only copy of the
// password.
//
// Media are read in user space first (packages udf and iso9660). That needs no
// kernel module or process, works on hardened systems that forbid the modules,
// takes about a millisecond, and does not expose the kernel to a hostile
// image. Only media that these readers do not understand are mounted.
//
// Begin with media.go ([Load]), then dvd.go (the ways to read a device) and
// parse.go. It imports agent/host, agent/secret and agent/bound.
package ovf

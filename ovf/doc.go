// Package ovf finds and reads the provisioning medium: the small DVD with
// ovf-env.xml that the platform attaches for the first boot
// (provisioning/SPEC.md §4 and §5).
//
// Parse is pure: bytes in, Environment out. Load finds the document with a
// Media, which is DVD on a machine and Dir in tests, and says where it was.
// Redacted makes the copy that may stay on disk. Eject is the last thing that
// happens to the medium, after everything else has succeeded: once it is
// gone, nothing brings the password back.
//
// Media are read in user space first (packages udf and iso9660). That needs
// no kernel module, works where hardening forbids them, takes no process and
// about a millisecond, and keeps a hostile image away from the kernel; only
// what these readers do not understand is given to mount(2).
//
// Begin with media.go ([Load]), then dvd.go (the ways to read a device) and
// parse.go. It imports agent/host, agent/secret and agent/bound.
package ovf

// Package oracle compares what becomes of a machine that is given user data:
// Debian's cloud-init carries out a document in one sandbox, azguest the same
// document in another, and a look at both must find the same accounts, files and
// packages.
//
// The documents (documents_test.go) are written from cloud-init's documentation.
// Each is one form of a supported key. Where the two machines differ, the table
// of differences has the lines, and the reason why azguest does it in another
// way; a line that is not in the table fails the test, and so does a line of the
// table that no longer differs.
//
// cloud-init runs without systemd, stage by stage, as its units start it. Its
// data source is NoCloud, and its configuration is Debian's, without modules that
// have no counterpart here (host keys, locale, sources of apt). The packages of
// apt come from a repository that the test builds, because a sandbox has no
// network.
package oracle

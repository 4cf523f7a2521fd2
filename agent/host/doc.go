// Package host is the only package that touches Linux: files below a Root,
// processes through a Runner. Everything above it describes what it wants
// and can be tested against a temporary directory and hosttest.Runner; the
// real machine is named in one place only, agent/cmd/azguest.
package host

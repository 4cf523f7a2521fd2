//go:build race

package peak

// Race reports whether the race detector is built in.
const Race = true

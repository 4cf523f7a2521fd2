//go:build race

package peak

// Race says that the race detector is built in.
const Race = true

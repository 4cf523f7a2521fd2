//go:build race

package event

// pools is how much more is allocated where the race detector has pools forget.
const pools = 2

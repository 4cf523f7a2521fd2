//go:build race

package event

// pools is the factor by which more is allocated with the race detector, with
// which pools drop items.
const pools = 2

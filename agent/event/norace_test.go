//go:build !race

package event

const pools = 1

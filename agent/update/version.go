package update

import (
	"slices"
	"strconv"
	"strings"
)

// numbers parses a dotted version; what follows a "-" or "+" (a development
// build) is ignored. It returns nil if s is not a version.
func numbers(s string) []int {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, "-+"); i >= 0 {
		s = s[:i]
	}
	var out []int
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || part[0] == '+' {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// Valid reports whether s is a version that may name a directory: numbers
// and dots.
func Valid(s string) bool {
	return numbers(s) != nil && len(s) <= 64 && strings.Trim(s, "0123456789.") == ""
}

// Compare compares versions number by number; a missing number counts as 0. A
// string that is not a version comes before all versions.
func Compare(a, b string) int {
	x, y := numbers(a), numbers(b)
	switch {
	case x == nil && y == nil:
		return strings.Compare(a, b)
	case x == nil:
		return -1
	case y == nil:
		return 1
	}
	for len(x) < len(y) {
		x = append(x, 0)
	}
	for len(y) < len(x) {
		y = append(y, 0)
	}
	return slices.Compare(x, y)
}

// hotfix reports whether two versions have the same first three numbers
// (protocol/SPEC.md §14.2).
func hotfix(a, b string) bool {
	x, y := numbers(a), numbers(b)
	for len(x) < 3 {
		x = append(x, 0)
	}
	for len(y) < 3 {
		y = append(y, 0)
	}
	return slices.Equal(x[:3], y[:3])
}

package config

import "strings"

// suggest returns a hint that names the known key closest to an unknown one, ""
// if none is close.
func suggest(key string) string {
	best, dist := "", 1<<30
	low := strings.ToLower(key)
	for _, k := range Keys() {
		if k.Kind == Ignored {
			continue
		}
		if d := distance(low, strings.ToLower(k.Name)); d < dist {
			best, dist = k.Name, d
		}
	}
	switch {
	case dist == 0:
		return "keys are case-sensitive: write " + best
	case dist <= max(2, len(key)/5) && len(key) < 100:
		return "did you mean " + best + "?"
	}
	return ""
}

// distance returns how many letters have to be inserted, deleted, changed or
// swapped with their neighbour to turn a into b.
func distance(a, b string) int {
	if len(a) > 200 || len(b) > 200 {
		return 1 << 20 // not a typing error
	}
	before := make([]int, len(b)+1) // two rows up
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

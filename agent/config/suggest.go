package config

import (
	"strings"

	"github.com/azguest/azguest/agent/cli"
)

// suggest returns a hint that names the known key closest to an unknown one, ""
// if none is close.
func suggest(key string) string {
	var known []string
	for _, k := range Keys() {
		if k.Kind != Ignored {
			known = append(known, k.Name)
		}
	}
	switch near := cli.Nearest(key, known); {
	case near == "":
		return ""
	case strings.EqualFold(near, key):
		return "keys are case-sensitive: write " + near
	default:
		return "did you mean " + near + "?"
	}
}

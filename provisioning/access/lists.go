package access

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// wildcard matches a pattern of sshd_config(5): * and ? are special.
func wildcard(pattern, s string) bool {
	ok, err := path.Match(strings.NewReplacer(`\`, `\\`, "[", `\[`).Replace(pattern), s)
	return err == nil && ok
}

// matchUser finds the entry of AllowUsers or DenyUsers that matches a user who
// comes from an address; sshd's own match_user. A client's name is its
// address, as without UseDNS.
func matchUser(entries []string, user, from string) (entry string, ok bool) {
	for _, e := range entries {
		name, origin, restricted := strings.Cut(e, "@")
		if wildcard(name, user) && (!restricted || matchAddress(origin, from)) {
			return e, true
		}
	}
	return "", false
}

func matchGroup(entries, groups []string) (entry string, ok bool) {
	for _, e := range entries {
		if slices.ContainsFunc(groups, func(g string) bool { return wildcard(e, g) }) {
			return e, true
		}
	}
	return "", false
}

// matchAddress matches a list of addresses, networks and patterns, separated
// by commas; one that begins with ! excludes.
func matchAddress(list, from string) bool {
	addr, err := netip.ParseAddr(from)
	found := false
	for e := range strings.SplitSeq(list, ",") {
		e, not := strings.CutPrefix(e, "!")
		hit := wildcard(strings.ToLower(e), from)
		if n, perr := netip.ParsePrefix(e); perr == nil && err == nil {
			hit = n.Contains(addr)
		}
		if hit && not {
			return false
		}
		found = found || hit
	}
	return found
}

package plan

import (
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/protocol"
)

// version is a dotted number with an optional pre-release suffix.
type version struct {
	nums []int
	pre  int // 0 alpha, 1 beta, 2 rc, 3 none
	preN int
	ok   bool
}

func parseVersion(s string) version {
	v := version{pre: 3, ok: true}
	s = strings.TrimSpace(s)
	for i, word := range []string{"alpha", "beta", "rc"} {
		if at := strings.Index(s, word); at >= 0 {
			v.pre = i
			v.preN, _ = strconv.Atoi(strings.Trim(s[at+len(word):], ".-"))
			s = strings.TrimRight(s[:at], ".-")
		}
	}
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 {
			return version{}
		}
		v.nums = append(v.nums, n)
	}
	return v
}

// Components returns how many numbers a version has, 0 if s is not a version.
func Components(s string) int {
	if v := parseVersion(s); v.ok {
		return len(v.nums)
	}
	return 0
}

// CompareVersions compares two versions; the result is negative, 0 or positive.
// Numbers are padded with zeros (1.0 = 1.0.0), a pre-release comes before its
// release, and a string that is not a version comes before all versions
// (extensions/SPEC.md §2.7).
func CompareVersions(a, b string) int {
	va, vb := parseVersion(a), parseVersion(b)
	if va.ok != vb.ok {
		if va.ok {
			return 1
		}
		return -1
	}
	if !va.ok {
		return strings.Compare(a, b)
	}
	for len(va.nums) < len(vb.nums) {
		va.nums = append(va.nums, 0)
	}
	for len(vb.nums) < len(va.nums) {
		vb.nums = append(vb.nums, 0)
	}
	if c := slices.Compare(va.nums, vb.nums); c != 0 {
		return c
	}
	if va.pre != vb.pre {
		return va.pre - vb.pre
	}
	return va.preN - vb.preN
}

// ChooseVersion returns the package to use for a requested version: the highest
// one that the request is a prefix of, whether public or internal.
func ChooseVersion(request string, m protocol.Manifest) (protocol.PackageVersion, bool) {
	want := parseVersion(request)
	var best protocol.PackageVersion
	found := false
	for _, p := range m.Versions {
		if !IsVersion(p.Version) { // it becomes part of a directory name
			continue
		}
		v := parseVersion(p.Version)
		match := p.Version == request
		if want.ok && v.ok && want.pre == v.pre && want.preN == v.preN && len(v.nums) >= len(want.nums) {
			match = match || slices.Equal(v.nums[:len(want.nums)], want.nums)
		}
		if match && (!found || CompareVersions(p.Version, best.Version) > 0) {
			best, found = p, true
		}
	}
	return best, found
}

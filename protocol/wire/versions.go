package wire

import "slices"

// Version is the protocol version we speak (protocol/SPEC.md §3.4).
const Version = "2012-11-30"

// Versions is the answer to comp=versions.
type Versions struct {
	Preferred string
	Supported []string
}

// Speaks reports whether our version is preferred or supported.
func (v Versions) Speaks() bool {
	return v.Preferred == Version || slices.Contains(v.Supported, Version)
}

// ParseVersions reads the document of protocol/SPEC.md §3.4.
func ParseVersions(b []byte) (Versions, error) {
	root, err := parse("versions", b)
	if err != nil {
		return Versions{}, err
	}
	v := Versions{Preferred: root.below("Preferred").below("Version").text()}
	for _, n := range root.below("Supported").all("Version") {
		v.Supported = append(v.Supported, n.text())
	}
	return v, nil
}

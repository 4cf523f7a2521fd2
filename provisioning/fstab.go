package provisioning

import "strings"

// Lines of /etc/fstab around the mounts of user data (package userdata), so
// that they can be replaced, and removed before an image is made.
const (
	FstabBegin = "# Mounts of this VM's user data, written by azguest:"
	FstabEnd   = "# End of the mounts of this VM's user data."
)

// WithoutFstabBlock returns the text of an fstab without the mounts of user
// data.
func WithoutFstabBlock(text string) string {
	return WithoutBlock(text, FstabBegin, FstabEnd)
}

// WithoutBlock returns a text without the lines from one to another. Without
// the last line, only the first is removed: somebody has edited the file.
func WithoutBlock(text, begin, end string) string {
	lines := strings.SplitAfter(text, "\n")
	at := func(from int, want string) int {
		for i := from; i < len(lines); i++ {
			if strings.TrimSpace(lines[i]) == want {
				return i
			}
		}
		return -1
	}
	for b := at(0, begin); b >= 0; b = at(b, begin) {
		e := at(b, end)
		if e < 0 {
			e = b
		}
		lines = append(lines[:b], lines[e+1:]...)
	}
	return strings.Join(lines, "")
}

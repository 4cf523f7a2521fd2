// Package version knows the version of the program that it is linked into.
//
// Begin with Number, which others compare, and Line, which people read. A
// release has the number that scripts/build has put into it; all other builds
// are development builds, and say so. The package needs no others.
package version

import (
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// base is the version of the next release; scripts/lib.sh reads this line.
// Control planes and certification tests compare the agent's version, so it has
// four plain numbers, like the classic agent's (the fourth is the number of
// commits, or given by the tag), and is above the oldest version that is still
// supported (2.2.53.1).
const base = "3.0.0"

// development is the fourth number of builds whose number of commits is not
// known. It is above all that releases use, so that such a build is never a
// downgrade for a control plane or a package manager.
const development = ".99999"

// Set by scripts/build with -ldflags -X.
var (
	number string // of a release: four numbers
	commit string // abbreviated, followed by "-modified" if the tree was
)

var fourNumbers = regexp.MustCompile(`^[0-9]+(\.[0-9]+){3}$`)

// Number returns the version as four plain numbers.
func Number() string {
	if released() {
		return number
	}
	return base + development
}

// Details says what the program was built from, for example "commit
// 79d7f65a1b2c" or "development build, commit unknown".
func Details() string {
	details := "commit " + Commit()
	if !released() {
		details = "development build, " + details
	}
	return details
}

// Line returns what --version prints for a program.
func Line(program string) string {
	return fmt.Sprintf("%s %s (%s, %s, %s/%s)", program, Number(), Details(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// released reports whether scripts/build knew the version.
func released() bool {
	return fourNumbers.MatchString(number) && !strings.HasSuffix(number, development)
}

// Commit returns the abbreviated commit, followed by "-modified" if the tree had
// other changes: the one that scripts/build has set, or else what the go command
// knows (the revision of a checkout, or the version of a module), or "unknown".
func Commit() string {
	if commit != "" {
		return commit
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "-modified"
		}
	}
	switch v := info.Main.Version; {
	case revision != "":
		return revision + modified
	case v != "" && v != "(devel)":
		return v
	}
	return "unknown"
}

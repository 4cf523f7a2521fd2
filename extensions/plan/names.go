package plan

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Names from the platform become names of directories and systemd units, and
// arguments of /bin/sh. So only characters that published handlers use are
// allowed; nothing relies on quoting.

// nameMax is short enough that <Name>-<version>, with a suffix, is still a
// valid file name.
const nameMax = 150

// IsHandlerName reports whether s can be the name of a handler: Publisher.Type.
func IsHandlerName(s string) bool {
	if s == "" || len(s) > nameMax || !alphanumeric(rune(s[0])) {
		return false
	}
	if strings.IndexFunc(s, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("._-", r) }) >= 0 {
		return false
	}
	// The name has to be recognized when the directory is read.
	name, version, ok := SplitDir(s + "-1.0")
	return ok && name == s && version == "1.0"
}

// IsVersion reports whether s is a version that can also be the last part of a
// directory name. It has no dash, because SplitDir splits at the last one.
func IsVersion(s string) bool {
	if s == "" || len(s) > 64 || s[0] < '0' || s[0] > '9' {
		return false
	}
	if strings.IndexFunc(s, func(r rune) bool { return !alphanumeric(r) && r != '.' }) >= 0 {
		return false
	}
	return parseVersion(s).ok
}

// IsExtensionName reports whether s can be the name of one extension of a
// multi-config handler. It becomes part of file names and the value of an
// environment variable, but is never passed to a shell. Users choose it, so
// letters of all scripts and spaces are allowed.
func IsExtensionName(s string) bool {
	return s != "" && len(s) < 200 && s[0] != '.' && utf8.ValidString(s) &&
		strings.IndexFunc(s, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) }) < 0
}

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// SplitDir splits the name of a handler's directory at the last dash into name
// and version (extensions/SPEC.md §4.2). Package directories of the agents,
// which have the same form, are not accepted.
func SplitDir(dir string) (name, version string, ok bool) {
	i := strings.LastIndexByte(dir, '-')
	if i <= 0 || !parseVersion(dir[i+1:]).ok || strings.HasPrefix(dir, "WALinuxAgent-") || strings.HasPrefix(dir, "azguest-") {
		return "", "", false
	}
	return dir[:i], dir[i+1:], true
}

package plan

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Names from the platform become directories, arguments of /bin/sh and names
// of systemd units. So what is let through is what published handlers have,
// and not what can be made harmless by quoting.

// nameMax keeps <Name>-<version> and what is made of it a file name.
const nameMax = 150

// IsHandlerName reports whether a text can name a handler: Publisher.Type.
func IsHandlerName(s string) bool {
	if s == "" || len(s) > nameMax || !alphanumeric(rune(s[0])) {
		return false
	}
	if strings.IndexFunc(s, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("._-", r) }) >= 0 {
		return false
	}
	// What is put on the disk has to be found there again.
	name, version, ok := SplitDir(s + "-1.0")
	return ok && name == s && version == "1.0"
}

// IsVersion reports whether a text is a version that can also end the name of
// a directory. A dash would end up in the name when the directory is read.
func IsVersion(s string) bool {
	if s == "" || len(s) > 64 || s[0] < '0' || s[0] > '9' {
		return false
	}
	if strings.IndexFunc(s, func(r rune) bool { return !alphanumeric(r) && r != '.' }) >= 0 {
		return false
	}
	return parseVersion(s).ok
}

// IsExtensionName reports whether a text can name one extension of a
// multi-config handler. It is part of file names and the value of a variable,
// nothing of it reaches a shell of ours; people choose it, so letters of all
// scripts and blanks are let through.
func IsExtensionName(s string) bool {
	return s != "" && len(s) < 200 && s[0] != '.' && utf8.ValidString(s) &&
		strings.IndexFunc(s, func(r rune) bool { return r == '/' || r == '\\' || unicode.IsControl(r) }) < 0
}

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// SplitDir takes a directory name apart: everything before the first dash is
// the name, a version follows the last one (extensions/SPEC.md §4.2). Packages
// of the agent itself look the same and are left out.
func SplitDir(dir string) (name, version string, ok bool) {
	i := strings.LastIndexByte(dir, '-')
	if i <= 0 || !parseVersion(dir[i+1:]).ok || strings.HasPrefix(dir, "WALinuxAgent-") || strings.HasPrefix(dir, "azguest-") {
		return "", "", false
	}
	return dir[:i], dir[i+1:], true
}

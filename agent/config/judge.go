package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// oneOf judges a text that has an effect only if it is one of these.
func oneOf(instead string, known ...string) func(string) string {
	return func(text string) string {
		if slices.Contains(known, text) {
			return ""
		}
		return fmt.Sprintf("%q is not one of %s; %s", text, strings.Join(known, ", "), instead)
	}
}

// number judges a text that has an effect only if it is a number.
func number(least, most int64, instead string) func(string) string {
	return func(text string) string {
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil && least <= n && n <= most {
			return ""
		}
		return fmt.Sprintf("%q is not a number from %d to %d; %s", text, least, most, instead)
	}
}

var dotted = regexp.MustCompile(`^\d+(\.\d+)*$`)

func judgeVersion(text string) string {
	if dotted.MatchString(text) {
		return ""
	}
	return fmt.Sprintf("%q is not a version (numbers and dots); the agent is not updated", text)
}

func judgeWindow(text string) string {
	switch w, ok := parseWindow(text); {
	case !ok:
		return fmt.Sprintf("%q is not a window such as 22:00-04:30; the agent is updated at any time", text)
	case w.from == w.to:
		return fmt.Sprintf("the window %q has no length; the agent is not updated", text)
	}
	return ""
}

package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
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
	switch from, to, ok := window(text); {
	case !ok:
		return fmt.Sprintf("%q is not a window such as 22:00-04:30; the agent is updated at any time", text)
	case from == to:
		return fmt.Sprintf("the window %q has no length; the agent is not updated", text)
	}
	return ""
}

// window reads AutoUpdate.Window as package agent/update does: the minutes of the
// day at which it begins and ends. The end of a day is 24:00.
func window(text string) (from, to int, ok bool) {
	minute := func(s string) (int, bool) {
		s = strings.TrimSpace(s)
		if s == "24:00" {
			return 24 * 60, true
		}
		t, err := time.Parse("15:04", s)
		return t.Hour()*60 + t.Minute(), err == nil
	}
	first, last, _ := strings.Cut(text, "-")
	from, ok1 := minute(first)
	to, ok2 := minute(last)
	return from, to, ok1 && ok2
}

package config

import (
	"strings"
	"time"
)

// MayUpdate reports whether the time is in the window for updates
// (AutoUpdate.Window), in the machine's time zone. An empty or invalid window is
// always open; of an invalid one, Load has warned.
func (c *Config) MayUpdate(now time.Time) bool {
	w, ok := parseWindow(c.Update.Window)
	return !ok || w.has(now.Local())
}

// A window is a part of each day, in minutes from its beginning; it may go over
// midnight.
type window struct{ from, to int }

// parseWindow reads a window such as "22:00-04:30". The end of a day is 24:00.
func parseWindow(text string) (w window, ok bool) {
	minute := func(s string) (int, bool) {
		s = strings.TrimSpace(s)
		if s == "24:00" {
			return 24 * 60, true
		}
		t, err := time.Parse("15:04", s)
		return t.Hour()*60 + t.Minute(), err == nil
	}
	from, to, _ := strings.Cut(text, "-")
	var ok1, ok2 bool
	w.from, ok1 = minute(from)
	w.to, ok2 = minute(to)
	return w, ok1 && ok2
}

func (w window) has(t time.Time) bool {
	n := t.Hour()*60 + t.Minute()
	if w.from <= w.to {
		return n >= w.from && n < w.to
	}
	return n >= w.from || n < w.to
}

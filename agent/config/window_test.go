package config

import (
	"testing"
	"time"
)

func TestMayUpdate(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		window, at string
		want       bool
	}{
		{"", "12:00", true},
		{"whenever-you like", "12:00", true},
		{"11:00-13:00", "12:00", true},
		{"11:00-13:00", "11:00", true},
		{"11:00-13:00", "10:59", false},
		{"11:00-13:00", "13:00", false},
		{"22:00-04:30", "23:59", true},
		{"22:00-04:30", "00:00", true},
		{" 22:00 - 04:30 ", "04:29", true},
		{"22:00-04:30", "04:30", false},
		{"22:00-24:00", "23:59", true},
		{"22:00-24:00", "00:00", false},
		{"22:00-24:00", "12:00", false},
		{"00:00-24:00", "12:00", true},
		{"04:00-04:00", "04:00", false},
	} {
		at, err := time.ParseInLocation("2006-01-02 15:04", "2026-11-22 "+tc.at, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		c := Default()
		c.Update.Window = tc.window
		if got := c.MayUpdate(at); got != tc.want {
			t.Errorf("%q at %s: %v, want %v", tc.window, tc.at, got, tc.want)
		}
	}
}

package extensions

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
)

// TestFaultyGoalStates: whatever is wrong with some handlers of a goal state, the
// valid one runs, and processing ends. The same handlers in another goal state
// repeat nothing, except failed enables.
func TestFaultyGoalStates(t *testing.T) {
	t.Parallel()
	set := func(h protocol.Handler, f func(*protocol.Settings)) protocol.Handler {
		for i := range h.Settings {
			f(&h.Settings[i])
		}
		return h
	}
	lower := func(h protocol.Handler) protocol.Handler { h.Name = strings.ToLower(h.Name); return h }
	for name, faulty := range map[string][]protocol.Handler{
		"twice":                        {ext("P.X", "1.0", 0), ext("P.X", "1.0", 0)},
		"twice, other settings":        {ext("P.X", "1.0", 0), ext("P.X", "1.0", 1)},
		"twice, two versions":          {ext("P.X", "1.0", 0), ext("P.X", "2.0", 0)},
		"twice, newer first":           {ext("P.X", "2.0", 0), ext("P.X", "1.0", 0)},
		"twice, other letters":         {ext("P.X", "1.0", 0), lower(ext("P.X", "1.0", 0))},
		"wanted and not":               {ext("P.X", "1.0", 0), gone(ext("P.X", "1.0", 0))},
		"not wanted and wanted":        {gone(ext("P.X", "1.0", 0)), ext("P.X", "1.0", 0)},
		"needs itself":                 {level(ext("P.X", "1.0", 0), 0, "P.X")},
		"needs itself, later":          {level(ext("P.X", "1.0", 0), 3, "P.X")},
		"need each other":              {level(ext("P.X", "1.0", 0), 1, "P.Y"), level(ext("P.Y", "1.0", 0), 1, "P.X")},
		"needs a later one":            {level(ext("P.X", "1.0", 0), 1, "P.Y"), level(ext("P.Y", "1.0", 0), 2)},
		"level negative":               {level(ext("P.X", "1.0", 0), -7), level(ext("P.Y", "1.0", 0), math.MinInt)},
		"level huge":                   {level(ext("P.X", "1.0", 0), math.MaxInt), level(ext("P.Y", "1.0", 0), math.MaxInt-1)},
		"sequence huge":                {ext("P.X", "1.0", math.MaxInt)},
		"no manifest":                  {func() protocol.Handler { h := ext("P.X", "1.0", 0); h.Manifests = nil; return h }()},
		"version huge":                 {ext("P.X", "99999999999999999999.1", 0)},
		"version none":                 {ext("P.X", "", 0)},
		"version elsewhere":            {ext("P.X", "../../../tmp/x", 0)},
		"name long":                    {ext("P."+strings.Repeat("x", 300), "1.0", 0)},
		"name empty":                   {ext("", "1.0", 0), ext("", "", 0)},
		"name of two lines":            {ext("P.X\nP.Y", "1.0", 0)},
		"want unknown":                 {func() protocol.Handler { h := ext("P.X", "1.0", 0); h.Want = "paused"; return h }()},
		"settings a list":              {set(ext("P.X", "1.0", 0), func(s *protocol.Settings) { s.Public = []byte("[1,2]") })},
		"settings no JSON":             {set(ext("P.X", "1.0", 0), func(s *protocol.Settings) { s.Public = []byte("{") })},
		"settings deep":                {set(ext("P.X", "1.0", 0), func(s *protocol.Settings) { s.Public = []byte(strings.Repeat("[", 9000) + strings.Repeat("]", 9000)) })},
		"settings large":               {set(ext("P.X", "1.0", 0), func(s *protocol.Settings) { s.Public = []byte(`"` + strings.Repeat("x", 8<<20) + `"`) })},
		"thumbprint elsewhere":         {set(ext("P.X", "1.0", 0), func(s *protocol.Settings) { s.Protected, s.Thumbprint = secret.New("x"), "../../x" })},
		"instances in other letters":   {multi("P.M", "1.0", "a:0", "A:0")},
		"instance elsewhere":           {multi("P.M", "1.0", "../a:0", "b/c:1", ".:1", "..:1")},
		"instance of 300 letters":      {multi("P.M", "1.0", strings.Repeat("a", 300)+":0", "b:0")},
		"single that has many":         {func() protocol.Handler { h := multi("P.X", "1.0", "a:0", "b:0"); h.MultiConfig = false; return h }()},
		"many that is one":             {func() protocol.Handler { h := ext("P.M", "1.0", 0); h.MultiConfig = true; return h }()},
		"everything depends on nobody": {level(ext("P.X", "1.0", 0), 1, "", "P.None", "../x")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, append(named(simple, "P.Good", "P.X", "P.Y"), pkg{name: "P.X", version: "2.0", script: simple},
				pkg{name: "P.M", version: "1.0", script: simple, manifest: `"supportsMultipleExtensions":true`})...).start()
			all := slices.Concat(faulty, []protocol.Handler{ext("P.Good", "1.0", 3)})
			s := w.offer(all...)
			if !strings.Contains(show(s), "P.Good 1.0 Ready 0 | 3 success 0\n") {
				t.Errorf("the good one suffers: %s", show(s))
			}
			if name == "twice" && strings.Count(show(s), "P.X") != 1 {
				t.Errorf("what is said twice is reported twice: %s", show(s))
			}
			w.clearCalls()
			// Nothing is repeated, except failed enables.
			w.offer(all...)
			for _, c := range w.calls() {
				if strings.Contains(c, "P.Good") || strings.Contains(c, "install") || strings.Contains(c, "update") || strings.Contains(c, "disable") {
					t.Errorf("the same goal state again: %q", w.calls())
					break
				}
			}
			w.restart()
			w.offer(all...)
			if s = w.offer(ext("P.Good", "1.0", 4)); !strings.Contains(show(s), "P.Good 1.0 Ready 0 | 4 success 0\n") {
				t.Errorf("new settings of the good one: %s", show(s))
			}
		})
	}
}

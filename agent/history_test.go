package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/status"
)

func TestChanges(t *testing.T) {
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	ext := func(version string, seq int, change func(*status.Extension)) status.Extension {
		e := status.Extension{Name: "Contoso.App", Version: version, Seq: seq, Actual: status.ActualEnabled, Status: status.StatusSuccess, Finished: start.Add(time.Minute), WhyRan: "new settings"}
		if change != nil {
			change(&e)
		}
		return e
	}
	running := func(e *status.Extension) { e.Phase = "enable" }
	failed := func(e *status.Extension) {
		e.Status, e.Code, e.Requester = status.StatusError, "AZ-EXT-EXIT", "activity 7"
	}
	old := func(e *status.Extension) { e.Finished = start.Add(-time.Hour) }
	type tr = status.Transition
	for name, tc := range map[string]struct {
		steps [][]status.Extension
		want  []tr
	}{
		"first":   {[][]status.Extension{{ext("1.0", 0, running)}, {ext("1.0", 0, nil)}, {ext("1.0", 0, nil)}}, []tr{{What: "Contoso.App", To: "1.0 seq 0 enabled", Why: "new settings"}}},
		"restart": {[][]status.Extension{{ext("1.0", 0, old)}}, nil},
		"again": {
			[][]status.Extension{{ext("1.0", 0, old)}, {ext("1.0", 1, running)}, {ext("1.0", 1, failed)}},
			[]tr{{What: "Contoso.App", From: "1.0 seq 0 enabled", To: "1.0 seq 1 failed", Why: "new settings, activity 7", Code: "AZ-EXT-EXIT"}},
		},
		"gone": {[][]status.Extension{{ext("1.0", 0, old)}, {}}, []tr{{What: "Contoso.App", From: "1.0 seq 0 enabled", To: "gone"}}},
	} {
		var c changes
		var got []tr
		for _, s := range tc.steps {
			got = append(got, c.look(s, start, time.Time{})...)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestChangesAcrossARestart: the history says what an extension was before a
// restart of the agent, even if it has not settled since.
func TestChangesAcrossARestart(t *testing.T) {
	start := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	ext := func(seq int, phase string) status.Extension {
		return status.Extension{Name: "Contoso.App", Version: "1.0", Seq: seq, Phase: phase, Actual: status.ActualEnabled, Status: status.StatusSuccess, Finished: start.Add(time.Minute)}
	}
	told := status.Transition{What: "Contoso.App", To: "1.0 seq 0 enabled"}
	want := []status.Transition{{What: "Contoso.App", From: "1.0 seq 0 enabled", To: "1.0 seq 1 enabled"}}
	for name, tc := range map[string]struct {
		old   status.Snapshot
		steps [][]status.Extension
		want  []status.Transition
	}{
		"settled": {status.Snapshot{Extensions: []status.Extension{ext(0, "")}}, [][]status.Extension{{ext(1, "")}}, want},
		"waiting": {
			status.Snapshot{Extensions: []status.Extension{ext(0, "waiting")}, History: []status.Transition{told}},
			[][]status.Extension{{ext(0, "waiting")}, {ext(1, "enable")}, {ext(1, "")}},
			want,
		},
		"removed and installed again": {
			status.Snapshot{Extensions: []status.Extension{ext(0, "")}},
			[][]status.Extension{{ext(0, "")}, {}, {ext(0, "")}},
			[]status.Transition{{What: "Contoso.App", From: "1.0 seq 0 enabled", To: "gone"}, told},
		},
		"nothing new": {status.Snapshot{Extensions: []status.Extension{ext(1, "")}}, [][]status.Extension{{ext(1, "enable")}, {ext(1, "")}}, nil},
		"not loaded yet, other lines": {
			status.Snapshot{Extensions: []status.Extension{ext(0, "")}, History: []status.Transition{{What: "extensions", To: "held"}}},
			[][]status.Extension{{}, {ext(1, "")}},
			want,
		},
	} {
		var c changes
		c.recall(tc.old)
		var got []status.Transition
		for _, s := range tc.steps {
			got = append(got, c.look(s, start, time.Time{})...)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestHoldOutlivesTheAgent: a hold lasts across a restart of the agent, and not
// longer than requested.
func TestHoldOutlivesTheAgent(t *testing.T) {
	a := testAgent(t, nil)
	if r := a.request(t.Context(), status.Request{Op: status.OpHold, ForS: 3600, Reason: "maintenance"}); !r.OK {
		t.Fatal(r.Error)
	}
	b := New(a.Options)
	b.restoreHold()
	h, on := b.hold.now()
	if left := time.Until(h.Until); !on || h.Reason != "maintenance" || left < 59*time.Minute || left > time.Hour || b.hold.why() == "" {
		t.Errorf("after a restart: %+v %v", h, on)
	}
	if r := b.request(t.Context(), status.Request{Op: status.OpResume}); !r.OK {
		t.Fatal(r.Error)
	}
	c := New(a.Options)
	c.restoreHold()
	if h, on := c.hold.now(); on || c.hold.why() != "" {
		t.Errorf("after its end: %+v", h)
	}
	for _, bad := range []float64{0, -1, 0.5, status.HoldMax.Seconds() + 1, 1e300} {
		if r := a.request(t.Context(), status.Request{Op: status.OpHold, ForS: bad}); r.OK {
			t.Errorf("accepted a hold for %v s", bad)
		}
	}
	c.hold.set(held{Until: time.Now().AddDate(3, 0, 0)}) // the clock was wrong
	if _, on := c.hold.now(); on {
		t.Error("a stored hold for years is in force")
	}
}

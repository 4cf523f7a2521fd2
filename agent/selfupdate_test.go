package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/protocol"
)

// TestFact21ExpectedVersionIsTheRunningOne: the expected version is the running
// one, and is reported only while the platform chooses the version.
func TestFact21ExpectedVersionIsTheRunningOne(t *testing.T) {
	t.Parallel()
	a := &Agent{}
	a.Version = "3.0.0.7"
	a.upd.err = errors.New("asked for 9.9.9.9")
	if got := a.updateStatus(); got != nil {
		t.Errorf("outside RSM mode: %+v", got)
	}
	a.upd.rsm = true
	want := &protocol.UpdateStatus{Expected: "3.0.0.7", Code: 1, Message: "asked for 9.9.9.9"}
	if diff := cmp.Diff(want, a.updateStatus()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	a.upd.err = nil
	if diff := cmp.Diff(&protocol.UpdateStatus{Expected: "3.0.0.7", OK: true}, a.updateStatus()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPAT1UpdateIsReportedAsFailedInTime: a version that can't be had now is not
// reported as failed before the time for it is over, one that is absent is at
// once, and both are until there is something else to say.
func TestPAT1UpdateIsReportedAsFailedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 30 * time.Minute
		later := protocol.Judge(protocol.Later, errors.New("503"))
		absent := protocol.Judge(protocol.Absent, errors.New("404"))
		var x failing
		for i, step := range []struct {
			after   time.Duration
			version string
			err     error // nil: no attempt
			want    error
		}{
			{0, "2.1", later, nil},
			{limit - 1, "2.1", later, nil},
			{0, "2.1", nil, nil},
			{1, "2.1", later, later},
			{time.Hour, "2.1", nil, later},
			{0, "2.1", absent, absent},
			{0, "2.1", later, later}, // it stays a failure
			{0, "2.2", later, nil},
			{0, "2.2", absent, absent},
			{time.Hour, "2.2", nil, absent},
			{0, "", nil, nil},
			{0, "2.2", nil, nil},
			{0, "2.2", later, nil},
		} {
			time.Sleep(step.after)
			if step.err != nil {
				x.note(step.version, step.err, limit)
			}
			if got := x.of(step.version); got != step.want { //nolint:errorlint // the very same
				t.Errorf("step %d: %v, want %v", i, got, step.want)
			}
		}
	})
}

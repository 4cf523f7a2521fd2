package agent

import (
	"errors"
	"testing"

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

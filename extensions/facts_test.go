package extensions

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/protocol"
)

// Facts of protocol/SPEC.md §18 that concern the engine; the others are tested
// in protocol/platform.

// TestFact19MultiConfigInstancesAreReportedOneByOne tests the document that the
// platform gets.
func TestFact19MultiConfigInstancesAreReportedOneByOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pkg{name: "P.M", version: "1.0", script: simple, manifest: multiManifest}, pkg{name: "P.S", version: "1.0", script: simple}).start()
	entries := func(s Snapshot) []string {
		t.Helper()
		doc, err := protocol.Status{Handlers: s.Handlers}.JSON(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			AggregateStatus struct {
				HandlerAggregateStatus []struct {
					HandlerName, HandlerVersion, Status string
					RuntimeSettingsStatus               map[string]json.RawMessage
				}
			}
		}
		if err := json.Unmarshal(doc, &got); err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, h := range got.AggregateStatus.HandlerAggregateStatus {
			name, ok := h.RuntimeSettingsStatus["extensionName"]
			if !ok {
				name = json.RawMessage("no extensionName")
			}
			out = append(out, fmt.Sprintf("%s %s %s: %s, %s", h.HandlerName, h.HandlerVersion, h.Status, name, h.RuntimeSettingsStatus["sequenceNumber"]))
		}
		return out
	}
	want := []string{`P.M 1.0 Ready: "a", 1`, `P.M 1.0 Ready: "b", 2`, `P.S 1.0 Ready: no extensionName, 0`}
	if diff := cmp.Diff(want, entries(w.offer(multi("P.M", "1.0", "a:1", "b:2"), ext("P.S", "1.0", 0)))); diff != "" {
		t.Errorf("enabled (-want +got):\n%s", diff)
	}
	want = []string{`P.M 1.0 Ready: "b", 2`, `P.S 1.0 Ready: no extensionName, 0`}
	if diff := cmp.Diff(want, entries(w.offer(multi("P.M", "1.0", "-a:1", "b:2"), ext("P.S", "1.0", 0)))); diff != "" {
		t.Errorf("one disabled (-want +got):\n%s", diff)
	}
}

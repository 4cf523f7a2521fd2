package protocol_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/protocol"
)

func TestStatusJSON(t *testing.T) {
	t.Parallel()
	s := protocol.Status{
		Agent: protocol.AgentStatus{Version: "3.0.2.1", Update: &protocol.UpdateStatus{Expected: "3.0.2.1", OK: true}},
		Handlers: []protocol.HandlerStatus{
			{
				Name: "Contoso.Tools.Multi", Version: "2.0.0", Status: "Ready", Message: new("Plugin enabled"),
				Extension: &protocol.ExtensionStatus{
					Name: "first", Multi: true, Seq: 1, AppliedTime: "2025-01-01T00:00:01Z", Operation: "Enable", Status: "success",
					Code: json.RawMessage("0"), Message: new("done ü😀 <&> https://st.example/b?sv=1&sig=canary\n"),
					Substatus: []protocol.Substatus{{Name: "StdOut", Status: "success", Code: json.RawMessage(`"7"`), Message: new("hi\xff")}},
				},
			},
			{Name: "Contoso.Single", Version: "1", Status: "NotReady", Code: -1, Extension: &protocol.ExtensionStatus{Name: "Contoso.Single", Seq: 0, Status: "error", Code: json.RawMessage("{bad")}},
			{Name: "Contoso.None", Version: "1", Status: "Ready"},
		},
		GoalState: &protocol.GoalStateStatus{OK: true, Message: "GoalState executed successfully", SeqNo: json.RawMessage(`"7"`), Done: time.Date(2025, 1, 1, 0, 0, 5, 0, time.UTC)},
		OS:        protocol.OSInfo{ComputerName: "vm1", Name: "ubuntu", Version: "24.04"},
		Features:  []protocol.Feature{{Key: "MultipleExtensionsPerHandler", Value: "1.0"}},
	}
	got, err := s.JSON(time.Date(2025, 1, 1, 0, 0, 6, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range got {
		if b >= 0x80 {
			t.Fatalf("byte %d is not ASCII", i)
		}
	}
	var out bytes.Buffer
	if err := json.Indent(&out, got, "", " "); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/status.json"
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), out.String()); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFirstStatusHasNoGoalState(t *testing.T) {
	t.Parallel()
	got, err := protocol.Status{Agent: protocol.AgentStatus{Version: "1"}}.JSON(time.Unix(0, 0))
	want := `{"version":"1.1","timestampUTC":"1970-01-01T00:00:00Z","aggregateStatus":{"guestAgentStatus":{"version":"1","status":"Ready","formattedMessage":{"lang":"en-US","message":"Guest Agent is running"}},"handlerAggregateStatus":[]},"guestOSInfo":{"computerName":"","osName":"","osVersion":"","version":"1"},"supportedFeatures":[]}`
	if err != nil || string(got) != want {
		t.Errorf("JSON() = %s, %v, want %s", got, err, want)
	}
}

func FuzzStatusJSON(f *testing.F) {
	f.Add("a", "ü\xff", `{"a":1}`)
	f.Fuzz(func(t *testing.T, name, msg, code string) {
		s := protocol.Status{Handlers: []protocol.HandlerStatus{{Name: name, Message: &msg, Extension: &protocol.ExtensionStatus{Name: name, Code: json.RawMessage(code), Message: &msg}}}}
		b, err := s.JSON(time.Time{})
		if err != nil || !json.Valid(b) {
			t.Errorf("JSON() = %s, %v", b, err)
		}
	})
}

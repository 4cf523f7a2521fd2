package fabric

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const eventsURL = "http://" + IMDSAddress + "/metadata/scheduledevents?api-version="

// guestEvents is the document as a guest reads it.
type guestEvents struct {
	DocumentIncarnation int
	Events              []map[string]any
}

// imdsCall sends a request as a guest does, and reads a JSON answer.
func imdsCall(t *testing.T, vm *VM, method, url, body string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Metadata", "true")
	resp, err := vm.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if into != nil && resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatalf("%v in %s", err, data)
		}
	}
	return resp.StatusCode
}

func eventsOf(t *testing.T, vm *VM, version string) guestEvents {
	t.Helper()
	var doc guestEvents
	if code := imdsCall(t, vm, http.MethodGet, eventsURL+version, "", &doc); code != http.StatusOK {
		t.Fatalf("scheduled events: %d", code)
	}
	return doc
}

// fabricInBubble is a fabric that is closed before the bubble ends.
func fabricInBubble(t *testing.T) *VM {
	f := New(t)
	return f.CreateVM("vm-01", Linux("azureuser"))
}

func TestEventStartsAtNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vm := fabricInBubble(t)
		if doc := eventsOf(t, vm, "2020-07-01"); len(doc.Events) != 0 {
			t.Fatalf("events of a new machine: %v", doc.Events)
		}
		for _, k := range eventKinds {
			id, err := vm.ScheduleEvent(ScheduledEvent{Type: k.name})
			if err != nil {
				t.Fatal(err)
			}
			doc := eventsOf(t, vm, "2020-07-01")
			e := doc.Events[0]
			want := time.Now().Add(k.notice).UTC().Format(http.TimeFormat)
			if e["EventId"] != id || e["EventType"] != k.name || e["EventStatus"] != "Scheduled" || e["NotBefore"] != want || e["EventSource"] != "Platform" ||
				e["ResourceType"] != "VirtualMachine" || e["Resources"].([]any)[0] != "vm-01" || e["DurationInSeconds"] != float64(k.interrupts) || e["Description"] == "" {
				t.Errorf("%s: %v", k.name, e)
			}
			time.Sleep(k.notice - time.Second)
			if again := eventsOf(t, vm, "2020-07-01"); again.DocumentIncarnation != doc.DocumentIncarnation {
				t.Errorf("%s: incarnation %d without a change", k.name, again.DocumentIncarnation)
			}
			time.Sleep(time.Second)
			started := eventsOf(t, vm, "2020-07-01")
			if e := started.Events[0]; e["EventStatus"] != "Started" || e["NotBefore"] != "" || started.DocumentIncarnation != doc.DocumentIncarnation+1 {
				t.Errorf("%s at NotBefore: %v", k.name, started)
			}
			time.Sleep(eventLasts)
			if done := eventsOf(t, vm, "2020-07-01"); len(done.Events) != 0 || done.DocumentIncarnation != doc.DocumentIncarnation+2 {
				t.Errorf("%s when it is completed: %v", k.name, done)
			}
		}
		if list := vm.ScheduledEvents(); len(list) != len(eventKinds) || list[0].State != EventCompleted || list[0].Started.Sub(list[0].Scheduled) != 15*time.Minute {
			t.Errorf("history: %+v", list)
		}
	})
}

func TestEventVersions(t *testing.T) {
	vm := New(t).CreateVM("vm-01")
	for _, kind := range []string{Reboot, Preempt, Terminate} {
		if _, err := vm.ScheduleEvent(ScheduledEvent{Type: kind}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		version string
		events  int
		fields  string
	}{
		{"2017-08-01", 1, ""},
		{"2017-11-01", 2, ""},
		{"2019-01-01", 3, ""},
		{"2019-04-01", 3, "Description"},
		{"2019-08-01", 3, "Description EventSource"},
		{"2020-07-01", 3, "Description EventSource DurationInSeconds"},
	} {
		doc := eventsOf(t, vm, tc.version)
		if len(doc.Events) != tc.events {
			t.Errorf("%s: %d events", tc.version, len(doc.Events))
		}
		for _, field := range []string{"Description", "EventSource", "DurationInSeconds"} {
			if _, has := doc.Events[0][field]; has != strings.Contains(tc.fields, field) {
				t.Errorf("%s: %s is there: %v", tc.version, field, has)
			}
		}
	}
	for _, version := range []string{"", "latest", "2021-12-13"} {
		if code := imdsCall(t, vm, http.MethodGet, eventsURL+version, "", nil); code != http.StatusBadRequest {
			t.Errorf("version %q: %d", version, code)
		}
	}
}

func TestEventsAreAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vm := fabricInBubble(t)
		first, err := vm.ScheduleEvent(ScheduledEvent{Type: Reboot, Lasts: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		second, err := vm.ScheduleEvent(ScheduledEvent{Type: Freeze, Notice: time.Hour, Duration: 9 * time.Second, Source: FromUser, Description: "text", Resources: []string{"other"}})
		if err != nil {
			t.Fatal(err)
		}
		incarnation := vm.Incarnation()
		post := func(body string) int { return imdsCall(t, vm, http.MethodPost, eventsURL+"2020-07-01", body, nil) }
		start := func(id string) string { return `{"StartRequests":[{"EventId":"` + id + `"}]}` }
		for _, body := range []string{
			"", "{", "[]", "{}", `{"StartRequests":{}}`, `{"StartRequests":[]}`, start(""), start(newGUID()),
			`{"StartRequests":[{"EventId":"` + first + `"},{"EventId":"` + newGUID() + `"}]}`,
		} {
			if code := post(body); code != http.StatusBadRequest {
				t.Errorf("%s: %d", body, code)
			}
		}
		if e := vm.ScheduledEvents()[0]; e.State != EventScheduled {
			t.Fatalf("a refused request started an event: %+v", e)
		}
		for range 2 { // the second time has no effect
			if code := post(start(strings.ToLower(first))); code != http.StatusOK {
				t.Errorf("acknowledgement: %d", code)
			}
		}
		vm.Await(t, EventIs(first, "acknowledged"))
		if e := vm.ScheduledEvents()[0]; e.State != EventStarted || e.Started != e.Acknowledged {
			t.Errorf("%+v", e)
		}
		if vm.Incarnation() != incarnation+1 {
			t.Error("the restart did not announce a goal state")
		}
		time.Sleep(time.Minute)
		if code := post(start(first)); code != http.StatusBadRequest {
			t.Errorf("acknowledgement of a completed event: %d", code)
		}
		if err := vm.CancelEvent(first); err == nil {
			t.Error("a completed event was cancelled")
		}
		if e := eventsOf(t, vm, "2020-07-01").Events; len(e) != 1 || e[0]["EventSource"] != "User" || e[0]["Description"] != "text" || e[0]["DurationInSeconds"] != 9.0 || e[0]["Resources"].([]any)[0] != "other" {
			t.Errorf("%v", e)
		}
		if err := vm.CancelEvent(second); err != nil {
			t.Error(err)
		}
		if doc := eventsOf(t, vm, "2020-07-01"); len(doc.Events) != 0 {
			t.Errorf("a cancelled event is shown: %v", doc)
		}
		var seen []string
		for _, e := range vm.f.Journal(Query{Kind: Maintenance}) {
			seen = append(seen, fmt.Sprint(e.Detail["change"], " ", map[any]string{first: "1", second: "2"}[e.Detail["id"]]))
		}
		if got, want := strings.Join(seen, ", "), "scheduled 1, scheduled 2, acknowledged 1, started 1, completed 1, cancelled 2"; got != want {
			t.Errorf("journal has %s, want %s", got, want)
		}
	})
}

func TestEventsOfClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vm := fabricInBubble(t)
		c := Remote{URL: "http://" + ManagementHost, HTTP: vm.f.Client()}
		post := func(action string) string {
			t.Helper()
			_, header, err := c.Do(t.Context(), http.MethodPost, vm.resourceID()+"/"+action+"?"+apiVersion, nil)
			if err != nil {
				t.Fatal(err)
			}
			return header.Get("Azure-AsyncOperation")
		}
		state := func(operation string) string {
			t.Helper()
			data, _, err := Remote{HTTP: c.HTTP}.Do(t.Context(), http.MethodGet, operation, nil)
			if err != nil {
				t.Fatal(err)
			}
			var op struct{ Status string }
			if err := json.Unmarshal(data, &op); err != nil {
				t.Fatal(err)
			}
			return op.Status
		}
		if s := state(post("restart")); s != stateSucceeded {
			t.Errorf("a restart that nobody watches is %s", s)
		}
		eventsOf(t, vm, "2020-07-01") // from now on the guest watches
		for action, kind := range map[string]string{"restart": Reboot, "redeploy": Redeploy, "performMaintenance": Redeploy} {
			op := post(action)
			e := eventsOf(t, vm, "2020-07-01").Events[0]
			if e["EventType"] != kind || e["EventSource"] != "User" || state(op) != "InProgress" {
				t.Errorf("%s: %v %s", action, e, state(op))
			}
			container := vm.ContainerID()
			imdsCall(t, vm, http.MethodPost, eventsURL+"2020-07-01", `{"StartRequests":[{"EventId":"`+e["EventId"].(string)+`"}]}`, nil)
			if moved := vm.ContainerID() != container; moved != (kind == Redeploy) {
				t.Errorf("%s: moved to another host: %v", action, moved)
			}
			time.Sleep(eventLasts)
			if s := state(op); s != stateSucceeded {
				t.Errorf("%s is %s after its event", action, s)
			}
		}
		op := post("redeploy")
		if err := vm.CancelEvent(Redeploy); err != nil {
			t.Error(err)
		}
		if s := state(op); s != stateFailed {
			t.Errorf("a cancelled operation is %s", s)
		}
		post("simulateEviction")
		vm.Await(t, EventIs(Preempt, EventScheduled))
		time.Sleep(30 * time.Second)
		if e := eventsOf(t, vm, "2020-07-01").Events[0]; e["EventType"] != Preempt || e["EventStatus"] != "Started" {
			t.Errorf("eviction: %v", e)
		}
		time.Sleep(unusedAfter)
		if s := state(post("restart")); s != stateSucceeded {
			t.Errorf("after a day without a request, a restart is %s", s)
		}
	})
}

func TestDataOfAMachine(t *testing.T) {
	vm := New(t).CreateVM("vm-01")
	compute := func() map[string]any {
		t.Helper()
		var doc map[string]any
		if code := imdsCall(t, vm, http.MethodGet, "http://"+IMDSAddress+"/metadata/instance/compute?api-version=2021-12-13", "", &doc); code != http.StatusOK {
			t.Fatal(code)
		}
		return doc
	}
	if _, has := compute()["vendorData"]; has {
		t.Error("there are vendor data of a machine without any")
	}
	vm.SetUserData([]byte("user"))
	vm.SetVendorData([]byte("vendor"))
	vm.SetTags(map[string]string{"env": "prod", "team": "a"})
	if c := compute(); c["userData"] != "dXNlcg==" || c["vendorData"] != "dmVuZG9y" || c["tags"] != "env:prod;team:a" {
		t.Errorf("%v", c)
	}
	patch := func(body string) error {
		c := Remote{URL: "http://" + ManagementHost, HTTP: vm.f.Client()}
		_, _, err := c.Do(t.Context(), http.MethodPatch, vm.resourceID()+"?"+apiVersion, []byte(body))
		return err
	}
	for _, body := range []string{
		`{"properties":{"userData":"%"}}`, `{"tags":{"a/b":"c"}}`,
		`{"properties":{"scheduledEventsProfile":{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"PT16M"}}}}`,
	} {
		if patch(body) == nil {
			t.Errorf("accepted: %s", body)
		}
	}
	if err := patch(`{"tags":{"env":"test"},"properties":{"userData":"bmV3","scheduledEventsProfile":{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"PT15M"}}}}`); err != nil {
		t.Fatal(err)
	}
	if c := compute(); c["userData"] != "bmV3" || c["tags"] != "env:test" {
		t.Errorf("%v", c)
	}
	if _, err := vm.ScheduleEvent(ScheduledEvent{Type: Terminate}); err != nil {
		t.Fatal(err)
	}
	if e := vm.ScheduledEvents()[0]; e.NotBefore.Sub(e.Scheduled) != 15*time.Minute {
		t.Errorf("notice of a deletion: %v", e.NotBefore.Sub(e.Scheduled))
	}
}

// TestEventsAreBounded: what has ended is forgotten after a while, also if an
// older event has not ended.
func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		vm := fabricInBubble(t)
		first, err := vm.ScheduleEvent(ScheduledEvent{Type: Freeze, Notice: 1000 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 * keptEvents {
			if _, err := vm.ScheduleEvent(ScheduledEvent{Type: Reboot, Notice: -1, Lasts: time.Nanosecond}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if list := vm.ScheduledEvents(); len(list) != keptEvents || list[0].ID != first {
			t.Errorf("%d events, the first is %+v", len(list), list[0])
		}
	})
}

func TestPatchTags(t *testing.T) {
	t.Parallel()
	vm := New(t).CreateVM("vm-01", Linux("azureuser"))
	for _, tc := range []struct{ patch, want string }{
		{`{"Env":"prod","x":"1"}`, "map[Env:prod x:1]"},
		{`{"ENV":"test"}`, "map[Env:test x:1]"},
		{`{"X":null,"nothing":null}`, "map[Env:test]"},
		{`{"a":"1","A":"2"}`, "map[A:1 Env:test]"},
	} {
		if err := vm.patchTags(strings.NewReader(tc.patch)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(vm.tags); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.patch, got, tc.want)
		}
	}
}

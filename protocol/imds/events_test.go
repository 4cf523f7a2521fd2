package imds

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/protocol/internal/web"
	"github.com/azguest/azguest/test/peak"
)

const eventsDocument = `{"DocumentIncarnation":2,"Events":[{"EventId":"C7061BAC-AFDC-4513-B24B-AA5F13A16123","EventStatus":"Scheduled","EventType":"Freeze","ResourceType":"VirtualMachine",
"Resources":["WestNO_0","WestNO_1"],"NotBefore":"Mon, 11 Apr 2022 22:26:58 GMT","Description":"Virtual machine is being paused.","EventSource":"Platform","DurationInSeconds":5}]}`

func TestEventsAreRead(t *testing.T) {
	t.Parallel()
	got, err := ParseEvents([]byte(eventsDocument))
	want := ScheduledEvents{Incarnation: 2, Events: []ScheduledEvent{{
		ID: "C7061BAC-AFDC-4513-B24B-AA5F13A16123", Type: EventFreeze, Status: EventScheduled, Resources: []string{"WestNO_0", "WestNO_1"},
		NotBefore: time.Date(2022, 4, 11, 22, 26, 58, 0, time.UTC), Description: "Virtual machine is being paused.", Source: "Platform", Duration: 5 * time.Second,
	}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if e := got.Events[0]; !e.Concerns("westno_1") || e.Concerns("WestNO") || e.Concerns("") {
		t.Error("it concerns the wrong machines")
	}
}

// TestEventsOfAnyKind: a part of a document that cannot be used does not hide the
// rest, and nothing of it reaches a file name or a terminal unchecked.
func TestEventsOfAnyKind(t *testing.T) {
	t.Parallel()
	const good = `{"EventId":"a-1","EventType":"Reboot","EventStatus":"Started","Resources":["vm"],"NotBefore":""}`
	for doc, want := range map[string]struct {
		events  int
		refused bool
		fails   bool
	}{
		`{"DocumentIncarnation":1,"Events":[]}`:                                                                              {},
		`{"Events":[` + good + `]}`:                                                                                          {events: 1},
		`{"DocumentIncarnation":"7","Events":[` + good + `]}`:                                                                {events: 1},
		`{"Events":[` + good + `,` + good + `]}`:                                                                             {events: 1, refused: true},
		`{"Events":[1,"x",null,[],{},` + good + `]}`:                                                                         {events: 1, refused: true},
		`{"Events":[{"EventId":"../../x","EventType":"Reboot","EventStatus":"Scheduled"},` + good + `]}`:                     {events: 1, refused: true},
		`{"Events":[{"EventId":"b","EventType":"Re boot","EventStatus":"Scheduled"},` + good + `]}`:                          {events: 1, refused: true},
		`{"Events":[{"EventId":"b","EventType":"Reboot","EventStatus":"Done"},` + good + `]}`:                                {events: 1, refused: true},
		`{"Events":[{"EventId":7,"EventType":"Reboot","EventStatus":"Started"}]}`:                                            {refused: true},
		`{"Events":[{"EventId":"` + strings.Repeat("a", 65) + `","EventType":"Reboot","EventStatus":"Started"}]}`:            {refused: true},
		`{"Events":[{"EventId":"b","EventType":"Later","EventStatus":"Scheduled","Resources":"vm","DurationInSeconds":{}}]}`: {events: 1},
		`{"Events":[` + strings.Repeat(`{},`, 150) + good + `]}`:                                                             {events: 1, refused: true},
		`{"Events":{}}`: {fails: true}, `{"Events":null}`: {fails: true}, `{}`: {fails: true}, `[]`: {fails: true}, ``: {fails: true}, `<html>`: {fails: true},
		`{"error":"busy"}`: {fails: true}, `{"Events":[` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `]}`: {fails: true},
		`{"Events":["` + strings.Repeat("x", 1<<20) + `"]}`: {fails: true},
	} {
		got, err := ParseEvents([]byte(doc))
		if (err != nil) != want.fails || len(got.Events) != want.events || (got.Refused != nil) != want.refused {
			t.Errorf("%.120s: %d events, refused %v, error %v", doc, len(got.Events), got.Refused, err)
		}
	}
	many, err := ParseEvents([]byte(`{"Events":[` + strings.Repeat(`{"EventId":"b","EventType":"Reboot","EventStatus":"Done"},`, 1000) + good + `]}`))
	if err != nil || len(many.Unusable) != 1000 || many.Unusable[0] != "b" || len(many.Refused.Error()) > 2000 {
		t.Errorf("%d ids, %v, %v", len(many.Unusable), many.Refused, err)
	}
	got, err := ParseEvents([]byte(`{"Events":[{"EventId":"b","EventType":"Reboot","EventStatus":"Scheduled","NotBefore":"soon","Description":"a\u001b[2J\nb\u0000` + strings.Repeat("ü", 1000) + `","DurationInSeconds":99999999999}]}`))
	if err != nil || len(got.Events) != 1 {
		t.Fatal(got, err)
	}
	e := got.Events[0]
	if strings.ContainsAny(e.Description, "\x1b\n\x00") || len(e.Description) > maxEventText || !e.NotBefore.IsZero() || e.Duration != maxDuration*time.Second {
		t.Errorf("%+v", e)
	}
}

func TestEventTimes(t *testing.T) {
	t.Parallel()
	want := time.Date(2016, 9, 19, 18, 29, 47, 0, time.UTC)
	for text, ok := range map[string]bool{
		"Mon, 19 Sep 2016 18:29:47 GMT": true, "2016-09-19T18:29:47Z": true, "2016-09-19T18:29:47": true, "2016-09-19T20:29:47+02:00": true,
		"": false, "19.9.2016": false, "now": false,
	} {
		if got := eventTime(text); got.Equal(want) != ok || !ok && !got.IsZero() {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestEventsAreAcknowledged shows the requests, with the version that the service
// knows.
func TestEventsAreAcknowledged(t *testing.T) {
	t.Parallel()
	var seen []string
	c := New(web.New(answers(func(r *http.Request) (*http.Response, error) {
		body := ""
		if r.Body != nil {
			b, _ := io.ReadAll(r.Body)
			body = string(b)
		}
		v := r.URL.Query().Get("api-version")
		seen = append(seen, r.Method+" "+r.URL.Path+" "+v+" "+r.Header.Get("Metadata")+" "+body)
		if v > "2019-08-01" || strings.Contains(body, "unknown") {
			return answer(400, "no"), nil
		}
		if strings.Contains(body, "page") {
			return answer(200, "<html>Sign in</html>"), nil
		}
		return answer(200, eventsDocument), nil
	}), "ua", nil), time.Second)
	for range 2 {
		if doc, err := c.ScheduledEvents(t.Context()); err != nil || len(doc.Events) != 1 {
			t.Fatal(doc, err)
		}
	}
	if err := c.StartEvent(t.Context(), "C7061BAC-AFDC-4513-B24B-AA5F13A16123"); err != nil {
		t.Fatal(err)
	}
	if err := c.StartEvent(t.Context(), "unknown"); !RefusedAcknowledgement(err) {
		t.Errorf("unknown: %v", err)
	}
	if err := c.StartEvent(t.Context(), "page"); err == nil || RefusedAcknowledgement(err) {
		t.Errorf("a proxy has answered: %v", err)
	}
	if err := c.StartEvent(t.Context(), `"}]}`); err == nil {
		t.Error("an id that is none was sent")
	}
	const path = "/metadata/scheduledevents "
	want := []string{
		"GET " + path + "2020-07-01 true ", "GET " + path + "2019-08-01 true ", "GET " + path + "2019-08-01 true ",
		"POST " + path + `2019-08-01 true {"StartRequests":[{"EventId":"C7061BAC-AFDC-4513-B24B-AA5F13A16123"}]}`,
		"POST " + path + `2019-08-01 true {"StartRequests":[{"EventId":"unknown"}]}`,
		"POST " + path + `2019-08-01 true {"StartRequests":[{"EventId":"page"}]}`,
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte(eventsDocument))
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) { _, _ = ParseEvents(b) }))
}

func TestEventTime(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 12, 1, 2, 3, 4, 0, time.UTC)
	for text, ok := range map[string]bool{
		"Tue, 01 Dec 2026 02:03:04 GMT": true, "Tue, 01 Dec 2026 02:03:04 UTC": true, "Tue, 1 Dec 2026 02:03:04 UTC": true,
		"Tue, 01 Dec 2026 03:03:04 +0100": true, "2026-12-01T02:03:04Z": true, "2026-12-01T03:03:04.000+01:00": true, "2026-12-01T02:03:04": true,
		"": false, "Tue, 01 Dec 2026 02:03:04 PST": false, "Tue, 01 Dec 2026 02:03:04": false, "12/01/2026 02:03:04": false, "1796090584": false,
		"0001-01-01T00:00:00Z": false,
	} {
		if got := eventTime(text); got.Equal(want) != ok || !ok && !got.IsZero() {
			t.Errorf("%q: %v", text, got)
		}
	}
}

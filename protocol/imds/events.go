package imds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/web"
)

// Scheduled events tell in advance what the platform is going to do to virtual
// machines (protocol/SPEC.md §13.4).

// Types of scheduled events.
const (
	EventFreeze    = "Freeze"
	EventReboot    = "Reboot"
	EventRedeploy  = "Redeploy"
	EventPreempt   = "Preempt"
	EventTerminate = "Terminate"
)

// States of a scheduled event. One that has ended is not in the document any
// more.
const (
	EventScheduled = "Scheduled"
	EventStarted   = "Started"
)

// A ScheduledEvent is one event of the document.
type ScheduledEvent struct {
	ID        string
	Type      string // EventFreeze …, or one that this agent does not know
	Status    string // EventScheduled, EventStarted
	Resources []string
	// NotBefore is zero if the event has started, or if the time cannot be read.
	NotBefore   time.Time
	Description string
	Source      string        // Platform, User; "" before version 2019-08-01
	Duration    time.Duration // of the interruption; < 0: not known
}

// Concerns reports whether the event is about the machine of this name.
func (e *ScheduledEvent) Concerns(name string) bool {
	return name != "" && slices.ContainsFunc(e.Resources, func(r string) bool { return strings.EqualFold(r, name) })
}

// ScheduledEvents is the document. Refused says what is wrong with events that
// were left out; Unusable has the ids of those of them that have one: they are in
// the document, so they are not over.
type ScheduledEvents struct {
	Incarnation int64
	Events      []ScheduledEvent
	Unusable    []string
	Refused     error
}

// eventVersions are tried in turn as long as the service answers 400; the one
// that was accepted is used from then on.
var eventVersions = [...]string{"2020-07-01", "2019-08-01", "2019-01-01", "2017-11-01", "2017-08-01"}

// firstEvents is how long the first answer may take: the service switches events
// on for this machine then, which takes up to two minutes.
const (
	firstEvents = 130 * time.Second
	laterEvents = 10 * time.Second
)

// ScheduledEvents asks once.
func (c *Client) ScheduledEvents(ctx context.Context) (ScheduledEvents, error) {
	timeout := firstEvents
	if c.eventsKnown.Load() {
		timeout = laterEvents
	}
	body, err := c.events(ctx, web.Request{Timeout: timeout, Limit: eventLimits.Bytes})
	if err != nil {
		return ScheduledEvents{}, fmt.Errorf("ask for scheduled events: %w", err)
	}
	doc, err := ParseEvents(body)
	if err != nil {
		return ScheduledEvents{}, err
	}
	c.eventsKnown.Store(true)
	return doc, nil
}

// StartEvent acknowledges an event: the platform need not wait for its time.
// That holds for all of its resources.
func (c *Client) StartEvent(ctx context.Context, id string) error {
	if !eventID(id) {
		return fmt.Errorf("acknowledge event: %s is not the id of an event", bound.Quote(id))
	}
	type start struct{ EventId string } //nolint:revive,staticcheck // the name in the document
	body, err := json.Marshal(struct{ StartRequests []start }{[]start{{id}}})
	if err != nil {
		return fmt.Errorf("acknowledge event: %w", err)
	}
	answer, err := c.events(ctx, web.Request{Method: http.MethodPost, Body: body, Timeout: laterEvents, Limit: eventLimits.Bytes})
	if err == nil && web.IsPage(answer) {
		// The platform has not heard of it. What it does answer is not documented.
		err = &protocol.DocumentError{Doc: "answer to an acknowledgement", Err: errors.New("it is a page")}
	}
	if err != nil {
		return fmt.Errorf("acknowledge event %s: %w", id, err)
	}
	return nil
}

// events makes a request with the newest version that the service has accepted.
func (c *Client) events(ctx context.Context, r web.Request) ([]byte, error) {
	r.Op, r.Header = "scheduledevents", http.Header{"Metadata": {"true"}}
	if r.Method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	from := int(c.eventsVersion.Load())
	for i := from; ; i++ {
		r.URL = "http://" + Address + "/metadata/scheduledevents?api-version=" + eventVersions[i]
		resp, err := c.web.Once(ctx, r)
		if se, ok := errors.AsType[*web.StatusError](err); ok && se.Status == http.StatusBadRequest && r.Method != http.MethodPost && i+1 < len(eventVersions) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if i != from {
			c.eventsVersion.Store(int32(i)) //nolint:gosec // an index of a short array
		}
		return resp.Body, nil
	}
}

// RefusedAcknowledgement reports whether the service has said that it will never
// accept this acknowledgement.
func RefusedAcknowledgement(err error) bool {
	se, ok := errors.AsType[*web.StatusError](err)
	return ok && (se.Status == http.StatusBadRequest || se.Status == http.StatusNotFound || se.Status == http.StatusMethodNotAllowed)
}

// ParseEvents reads the document. An event whose id or type cannot be used is
// left out; the others count.
func ParseEvents(b []byte) (ScheduledEvents, error) {
	if err := eventLimits.JSON(b); err != nil {
		return ScheduledEvents{}, &protocol.DocumentError{Doc: "scheduled events", Err: err}
	}
	var doc struct {
		DocumentIncarnation json.RawMessage
		Events              *[]json.RawMessage
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Events == nil {
		return ScheduledEvents{}, &protocol.DocumentError{Doc: "scheduled events", Err: errors.New("not an object with a list of events")}
	}
	out := ScheduledEvents{Incarnation: number(doc.DocumentIncarnation, 0)}
	var bad []error
	known := map[string]bool{} // ids
	left := 0                  // of the events that are left out
	for i, raw := range *doc.Events {
		e, err := parseEvent(raw)
		id := strings.ToLower(e.ID)
		if err == nil && known[id] {
			err = fmt.Errorf("two events have the id %s", e.ID)
		}
		if err == nil {
			known[id] = true
			out.Events = append(out.Events, e)
			continue
		}
		if e.ID != "" {
			out.Unusable = append(out.Unusable, e.ID)
		}
		if left++; left <= maxBadEvents {
			bad = append(bad, fmt.Errorf("event %d: %w", i, err))
		}
	}
	if left > maxBadEvents {
		bad = append(bad, fmt.Errorf("and %d more", left-maxBadEvents))
	}
	out.Refused = errors.Join(bad...)
	return out, nil
}

// parseEvent reads one event. What it returns with an error has the id at most.
func parseEvent(raw []byte) (ScheduledEvent, error) {
	var d struct {
		EventId, EventType, ResourceType, EventStatus, NotBefore, Description, EventSource string //nolint:revive,staticcheck // the names in the document

		Resources         []string
		DurationInSeconds json.RawMessage
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); !ok {
			return ScheduledEvent{}, errors.New("not an object")
		}
	}
	switch {
	case !eventID(d.EventId):
		return ScheduledEvent{}, fmt.Errorf("EventId %s is not an id", bound.Quote(d.EventId))
	case !word(d.EventType):
		return ScheduledEvent{ID: d.EventId}, fmt.Errorf("EventType %s of %s is not a word", bound.Quote(d.EventType), d.EventId)
	case d.EventStatus != EventScheduled && d.EventStatus != EventStarted:
		return ScheduledEvent{ID: d.EventId}, fmt.Errorf("EventStatus %s of %s is not known", bound.Quote(d.EventStatus), d.EventId)
	case len(d.Resources) > maxResources:
		return ScheduledEvent{ID: d.EventId}, fmt.Errorf("%s has more than %d resources", d.EventId, maxResources)
	}
	e := ScheduledEvent{
		ID: d.EventId, Type: d.EventType, Status: d.EventStatus,
		Description: printable(d.Description), Source: printable(d.EventSource),
		Duration: time.Duration(min(max(-1, number(d.DurationInSeconds, -1)), maxDuration)) * time.Second,
	}
	for _, r := range d.Resources {
		e.Resources = append(e.Resources, printable(r))
	}
	if e.Status == EventScheduled {
		e.NotBefore = eventTime(d.NotBefore)
	}
	return e, nil
}

// eventTime reads the time of an event: RFC 1123 as documented, or ISO 8601 as
// the first versions had it. Other ways to write UTC are the same; without a zone
// it is UTC.
func eventTime(text string) time.Time {
	if t, err := http.ParseTime(text); err == nil {
		return t.UTC()
	}
	for _, layout := range []string{"Mon, 2 Jan 2006 15:04:05 UTC", time.RFC1123Z, time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// number reads an integer that may be written as a string.
func number(raw json.RawMessage, otherwise int64) int64 {
	n, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 64)
	if err != nil {
		return otherwise
	}
	return n
}

// eventID reports whether a text can be the id of an event. It becomes part of
// a file name.
func eventID(s string) bool {
	return len(s) >= 1 && len(s) <= maxEventID && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") == "" && s[0] != '-'
}

func word(s string) bool {
	return len(s) >= 1 && len(s) <= maxEventID && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// printable cuts a text and replaces characters that are not printable, so that
// it can stand in an environment variable and on a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	return strings.ToValidUTF8(s[:min(len(s), maxEventText)], "")
}

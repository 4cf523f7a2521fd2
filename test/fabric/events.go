package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The types of scheduled events (protocol/SPEC.md §13.4).
const (
	Freeze    = "Freeze"
	Reboot    = "Reboot"
	Redeploy  = "Redeploy"
	Preempt   = "Preempt"
	Terminate = "Terminate"
)

// The states of a scheduled event. The first two are the EventStatus of the
// document; an event in one of the others is not in it any more.
const (
	EventScheduled = "Scheduled"
	EventStarted   = "Started"
	EventCompleted = "Completed"
	EventCancelled = "Cancelled"
)

// The sources of a scheduled event.
const (
	FromPlatform = "Platform"
	FromUser     = "User"
)

// An eventKind is what the platform's documentation says about a type of event.
type eventKind struct {
	name        string
	notice      time.Duration // least time before NotBefore
	interrupts  int           // DurationInSeconds; -1: unknown
	since       string        // first api-version that has it
	description string
}

var eventKinds = []eventKind{
	{Freeze, 15 * time.Minute, 5, "2017-08-01", "Virtual machine is being paused because of a memory-preserving Live Migration operation."},
	{Reboot, 15 * time.Minute, -1, "2017-08-01", "Virtual machine is going to be restarted as requested by authorized user."},
	{Redeploy, 10 * time.Minute, -1, "2017-08-01", "Virtual machine is going to be redeployed as requested by authorized user."},
	{Preempt, 30 * time.Second, -1, "2017-11-01", "The Spot Virtual Machine is being evicted."},
	{Terminate, 5 * time.Minute, -1, "2019-01-01", "Virtual machine is going to be deleted as requested by authorized user."},
}

// EventTypes returns the types of scheduled events.
func EventTypes() []string {
	var names []string
	for _, k := range eventKinds {
		names = append(names, k.name)
	}
	return names
}

// eventLasts is the default time between the start of an event and its
// disappearance. On the platform it is up to ten minutes.
const eventLasts = 10 * time.Second

// A ScheduledEvent is maintenance that the platform announces to the guest.
type ScheduledEvent struct {
	Type string // one of EventTypes
	// Notice is the time until NotBefore; 0 is the type's minimum. With a
	// negative one the event has started when the guest first sees it, as after
	// a failure of the host.
	Notice time.Duration
	// Duration is the expected interruption, in whole seconds; 0 is the type's
	// default, a negative one is unknown.
	Duration time.Duration
	// Lasts is the time from the start until the event is gone; default 10 s.
	Lasts       time.Duration
	Source      string   // FromPlatform (default) or FromUser
	Description string   // default: one that the platform uses
	Resources   []string // names of the affected machines; default: this one
}

// An Event is a scheduled event with what became of it.
type Event struct {
	ID           string    `json:"id"`
	Type         string    `json:"type"`
	State        string    `json:"state"`
	Resources    []string  `json:"resources"`
	Description  string    `json:"description"`
	Source       string    `json:"source"`
	Seconds      int       `json:"durationInSeconds"` // -1: unknown
	Scheduled    time.Time `json:"scheduled"`
	NotBefore    time.Time `json:"notBefore"`
	Acknowledged time.Time `json:"acknowledged,omitzero"`
	Started      time.Time `json:"started,omitzero"`
	Ended        time.Time `json:"ended,omitzero"` // completed or cancelled
}

// A scheduledEvent is an Event on its way.
type scheduledEvent struct {
	Event
	kind  eventKind
	lasts time.Duration
	op    *operation // of the client that caused the event; may be nil
}

// visible reports whether the event is in the document of the guest.
func (e *scheduledEvent) visible() bool {
	return e.State == EventScheduled || e.State == EventStarted
}

// keptEvents is how many events a VM remembers after they have ended.
const keptEvents = 200

// events are the scheduled events of a VM. The fabric's mutex guards them.
type events struct {
	list        []*scheduledEvent
	incarnation int       // DocumentIncarnation
	asked       time.Time // last request of the guest
}

// unusedAfter is the time without a request after which the platform stops to
// announce events.
const unusedAfter = 24 * time.Hour

// watched reports whether the guest uses scheduled events.
func (e *events) watched() bool {
	return !e.asked.IsZero() && time.Since(e.asked) < unusedAfter
}

// ScheduleEvent announces maintenance to the guest and returns the id of the
// event. The event starts when the guest acknowledges it, or at NotBefore.
func (v *VM) ScheduleEvent(x ScheduledEvent) (id string, err error) {
	v.f.mu.Lock()
	e, err := v.schedule(x, nil)
	v.f.mu.Unlock()
	v.f.journal.wake()
	if err != nil {
		return "", err
	}
	return e.ID, nil
}

// CancelEvent takes an event back that has not started.
func (v *VM) CancelEvent(id string) error {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	e, err := v.eventIn(EventScheduled, id)
	if err != nil {
		return fmt.Errorf("cancel event: %w", err)
	}
	v.enter(e, EventCancelled, time.Now())
	if e.op != nil {
		e.op.finish(refuse(http.StatusConflict, "OperationPreempted", "The scheduled event %s of the operation was cancelled.", e.ID))
	}
	return nil
}

// EndEvent completes an event that has started, before its time.
func (v *VM) EndEvent(id string) error {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	e, err := v.eventIn(EventStarted, id)
	if err != nil {
		return fmt.Errorf("end event: %w", err)
	}
	v.enter(e, EventCompleted, time.Now())
	return nil
}

// eventIn returns an event that is in this state.
func (v *VM) eventIn(state, id string) (*scheduledEvent, error) {
	v.advanceEvents()
	e := v.eventNamed(id)
	switch {
	case e == nil:
		return nil, fmt.Errorf("%s has no event %q", v.name, id)
	case e.State != state:
		return nil, fmt.Errorf("event %s is %s, not %s", e.ID, e.State, state)
	}
	return e, nil
}

// ScheduledEvents returns the events of the VM, also those that have ended,
// oldest first.
func (v *VM) ScheduledEvents() []Event {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	v.advanceEvents()
	list := []Event{}
	for _, e := range v.events.list {
		list = append(list, e.Event)
	}
	return list
}

// schedule adds an event. The operation of the client that caused it, if there
// is one, ends with the event.
func (v *VM) schedule(x ScheduledEvent, op *operation) (*scheduledEvent, error) {
	v.advanceEvents()
	if err := OneOf("type of event", x.Type, EventTypes()...); err != nil {
		return nil, err
	}
	source := or(x.Source, FromPlatform)
	if err := OneOf("source of event", source, FromPlatform, FromUser); err != nil {
		return nil, err
	}
	kind := eventKinds[slices.IndexFunc(eventKinds, func(k eventKind) bool { return k.name == x.Type })]
	if kind.name == Terminate && v.terminateNotice > 0 {
		kind.notice = v.terminateNotice
	}
	now := time.Now()
	notice := x.Notice
	if notice == 0 {
		notice = kind.notice
	}
	e := &scheduledEvent{
		kind: kind, lasts: x.Lasts, op: op,
		Event: Event{
			ID: strings.ToUpper(newGUID()), Type: x.Type, State: EventScheduled, Resources: slices.Clone(x.Resources), Source: source,
			Description: or(x.Description, kind.description), Seconds: int(x.Duration / time.Second), Scheduled: now, NotBefore: now.Add(max(0, notice)),
		},
	}
	switch {
	case x.Duration == 0:
		e.Seconds = kind.interrupts
	case x.Duration < 0:
		e.Seconds = -1
	}
	if e.lasts <= 0 {
		e.lasts = eventLasts
	}
	if len(e.Resources) == 0 {
		e.Resources = []string{v.name}
	}
	v.events.list = append(v.events.list, e)
	if i := slices.IndexFunc(v.events.list, func(e *scheduledEvent) bool { return !e.visible() }); i >= 0 && len(v.events.list) > keptEvents {
		v.events.list = slices.Delete(v.events.list, i, i+1)
	}
	v.enter(e, EventScheduled, now)
	if notice < 0 {
		v.enter(e, EventStarted, now)
	}
	return e, nil
}

// enter puts an event into a state: the document changes, and the start has its
// effect on the platform's side of the machine.
func (v *VM) enter(e *scheduledEvent, state string, at time.Time) {
	e.State = state
	v.events.incarnation++
	switch state {
	case EventStarted:
		e.Started = at
		v.startEvent(e)
	case EventCompleted, EventCancelled:
		e.Ended = at
	}
	v.noteEvent(e, strings.ToLower(state), at)
	if state == EventCompleted && e.op != nil {
		e.op.finish(nil)
	}
}

// startEvent does what the event announced. The guest is not under the fabric's
// control: nothing is paused, restarted or stopped.
func (v *VM) startEvent(e *scheduledEvent) {
	if !slices.ContainsFunc(e.Resources, func(name string) bool { return strings.EqualFold(name, v.name) }) {
		return
	}
	switch e.Type {
	case Reboot:
		v.announce(false)
	case Redeploy:
		v.newContainer()
		v.announce(false)
	case Preempt, Terminate:
		v.cfg.Stopped = true
	}
}

func (v *VM) noteEvent(e *scheduledEvent, what string, at time.Time) {
	v.f.journal.add(Entry{VM: v.name, Kind: Maintenance, Detail: map[string]any{
		"change": what, "id": e.ID, "type": e.Type, "at": at.UTC().Format(time.RFC3339Nano), "notBefore": e.NotBefore.UTC().Format(time.RFC3339Nano),
	}})
}

// advanceEvents starts and completes the events whose time has come.
func (v *VM) advanceEvents() {
	now := time.Now()
	for _, e := range v.events.list {
		if e.State == EventScheduled && !now.Before(e.NotBefore) {
			v.enter(e, EventStarted, e.NotBefore)
		}
		if end := e.Started.Add(e.lasts); e.State == EventStarted && !now.Before(end) {
			v.enter(e, EventCompleted, end)
		}
	}
}

// eventNamed returns the event with an id, or else the newest of a type.
func (v *VM) eventNamed(name string) *scheduledEvent {
	for _, e := range slices.Backward(v.events.list) {
		if strings.EqualFold(e.ID, name) || strings.EqualFold(e.Type, name) {
			return e
		}
	}
	return nil
}

// EventIs waits for a state of a scheduled event: Scheduled, Acknowledged,
// Started, Completed or Cancelled. An event that has come further has been in
// the states before. The name is an id, or a type for the newest event of it.
func EventIs(name, state string) Condition {
	return Condition{"event=" + name + ":" + state, func(v *VM) (bool, string) {
		v.advanceEvents()
		e := v.eventNamed(name)
		if e == nil {
			return false, "event " + name + " does not exist"
		}
		met := strings.EqualFold(e.State, state)
		switch strings.ToLower(state) {
		case "scheduled":
			met = true
		case "acknowledged":
			met = !e.Acknowledged.IsZero()
		case "started":
			met = !e.Started.IsZero()
		}
		now := "event " + e.ID + " is " + e.State
		if e.Acknowledged.IsZero() {
			now += " and not acknowledged"
		}
		return met, now
	}}
}

// eventVersions are the api-versions of scheduled events. The service has
// versions of its own.
var eventVersions = []string{"2017-08-01", "2017-11-01", "2019-01-01", "2019-04-01", "2019-08-01", "2020-07-01"}

// scheduledEvents serves /metadata/scheduledevents.
func (f *Fabric) scheduledEvents(r *request) *answer {
	version := r.URL.Query().Get("api-version")
	if !slices.Contains(eventVersions, version) {
		a := replyJSON(http.StatusBadRequest, map[string]any{
			"error":           "Bad request. api-version was not specified in the request or is not supported. For more information refer to aka.ms/azureimds",
			"newest-versions": []string{"2020-07-01", "2019-08-01", "2019-04-01"},
		})
		return a.note("apiVersion", version)
	}
	if r.vm == nil {
		return imdsError(http.StatusNotFound, "Not found")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v := r.vm
	v.events.asked = time.Now()
	switch r.Method {
	case http.MethodGet:
		return replyJSON(http.StatusOK, v.eventDocument(version))
	case http.MethodPost:
		return v.startRequests(r.body)
	}
	return imdsError(http.StatusMethodNotAllowed, "Method not allowed")
}

func (v *VM) eventDocument(version string) object {
	list := []any{}
	for _, e := range v.events.list {
		if !e.visible() || version < e.kind.since {
			continue
		}
		notBefore := ""
		if e.State == EventScheduled {
			notBefore = e.NotBefore.UTC().Format(http.TimeFormat)
		}
		o := object{
			"EventId": e.ID, "EventStatus": e.State, "EventType": e.Type, "ResourceType": "VirtualMachine", "Resources": e.Resources, "NotBefore": notBefore,
		}
		if version >= "2019-04-01" {
			o["Description"] = e.Description
		}
		if version >= "2019-08-01" {
			o["EventSource"] = e.Source
		}
		if version >= "2020-07-01" {
			o["DurationInSeconds"] = e.Seconds
		}
		list = append(list, o)
	}
	return object{"DocumentIncarnation": v.events.incarnation, "Events": list}
}

// startRequests acknowledges events: all that a request names, or none.
func (v *VM) startRequests(body []byte) *answer {
	var asked struct {
		StartRequests []struct{ EventID string }
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return imdsError(http.StatusBadRequest, "Bad request. The payload is malformed").problem("start requests: %v", err)
	}
	if len(asked.StartRequests) == 0 {
		return imdsError(http.StatusBadRequest, "Bad request. The payload is malformed").problem("start requests: there are none")
	}
	var known []*scheduledEvent
	for _, s := range asked.StartRequests {
		i := slices.IndexFunc(v.events.list, func(e *scheduledEvent) bool { return e.visible() && strings.EqualFold(e.ID, s.EventID) })
		if i < 0 {
			return imdsError(http.StatusBadRequest, "Bad request. There is no event with this EventId").problem("start request for event %q, which is not in the document", s.EventID)
		}
		known = append(known, v.events.list[i])
	}
	for _, e := range known {
		now := time.Now()
		if e.Acknowledged.IsZero() {
			e.Acknowledged = now
			v.noteEvent(e, "acknowledged", now)
		}
		if e.State == EventScheduled {
			v.enter(e, EventStarted, now)
		}
	}
	return reply(http.StatusOK, "application/json; charset=utf-8", nil)
}

// maxUserData is the platform's limit for user data, before they are encoded.
const maxUserData = 64 << 10

// SetUserData replaces the user data of the instance metadata service.
func (v *VM) SetUserData(data []byte) {
	v.f.mu.Lock()
	v.setup.UserData = slices.Clone(data)
	v.f.mu.Unlock()
	v.f.journal.wake()
}

// SetVendorData replaces the vendor data of the instance metadata service; with
// none the document has no such field. They are an extension of the protocol: no
// Azure service has them (protocol/SPEC.md §13.5).
func (v *VM) SetVendorData(data []byte) {
	v.f.mu.Lock()
	v.setup.VendorData = slices.Clone(data)
	v.f.mu.Unlock()
	v.f.journal.wake()
}

// SetTags replaces the tags of the resource, which the instance metadata service
// shows.
func (v *VM) SetTags(tags map[string]string) {
	v.f.mu.Lock()
	v.tags = map[string]string{}
	maps.Copy(v.tags, tags)
	v.f.mu.Unlock()
	v.f.journal.wake()
}

// CheckTag returns an error if the control plane refuses a tag.
func CheckTag(name, value string) error {
	switch {
	case name == "" || len(name) > 512:
		return errors.New("the name of a tag has 1 to 512 characters")
	case strings.ContainsAny(name, `<>%&\?/`):
		return fmt.Errorf("the name of tag %q has a character that is not allowed: < > %% & \\ ? /", name)
	case len(value) > 256:
		return fmt.Errorf("the value of tag %q has more than 256 characters", name)
	}
	return nil
}

package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// tldFile is the file format of the classic agent's events directory
// (protocol/SPEC.md §11.3). This agent writes it, too, so that either agent can
// send what the other has left.
type tldFile struct {
	EventID    int        `json:"eventId"`
	ProviderID string     `json:"providerId"`
	Parameters []tldParam `json:"parameters"`
	FileType   string     `json:"file_type"`
}

type tldParam struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

const eventTime = "2006-01-02T15:04:05.000000Z"

// encodeTLD returns the content of the file for an event.
func encodeTLD(e Event) ([]byte, error) {
	f := tldFile{}
	f.ProviderID, f.EventID = e.Kind.Provider()
	add := func(name string, v any) { f.Parameters = append(f.Parameters, tldParam{name, v}) }
	switch e.Kind {
	case Metric:
		add("Category", e.Category)
		add("Counter", e.Counter)
		add("Instance", e.Instance)
		add("Value", e.Value)
	case Log:
		add("EventName", e.Name+"-"+e.Version)
		add("CapabilityUsed", e.Level)
		add("Context1", e.Message)
		add("Context2", e.Timestamp)
		add("Context3", e.OperationID)
	case Operation:
		add("Name", e.Name)
		add("Version", e.Version)
		add("Operation", e.Op)
		add("OperationSuccess", e.OK)
		add("Message", e.Message)
		add("Duration", e.Duration.Milliseconds())
	}
	add("OpcodeName", e.Time.UTC().Format(eventTime))
	add("EventTid", e.TID)
	add("EventPid", e.PID)
	add("TaskName", e.Task)
	return json.Marshal(f)
}

// decodeTLD parses an event file. own is false for files of handlers, which may
// set only the parameters of an operation (protocol/SPEC.md §11.3).
func decodeTLD(b []byte, own bool, now time.Time) (Event, error) {
	var f tldFile
	if err := json.Unmarshal(b, &f); err != nil {
		return Event{}, errors.New("not an event file")
	}
	e := Event{Kind: Operation, Time: now}
	if own {
		switch {
		case f.EventID == 4:
			e.Kind = Metric
		case f.EventID == 7 && strings.EqualFold(f.ProviderID, logProvider):
			e.Kind = Log
		}
	}
	for _, p := range f.Parameters {
		e.operation(p)
		if own {
			e.others(p)
		}
	}
	if e.Kind == Operation && e.Name == "" && e.Message == "" {
		return Event{}, errors.New("event file without a name")
	}
	return e, nil
}

// operation sets the field of an operation that a parameter is for.
func (e *Event) operation(p tldParam) {
	text, number := values(p.Value)
	switch p.Name {
	case "Name":
		e.Name = text
	case "Version":
		e.Version = text
	case "Operation":
		e.Op = text
	case "OperationSuccess":
		e.OK = strings.EqualFold(text, "true")
	case "Message":
		e.Message = text
	case "Duration":
		e.Duration = time.Duration(min(max(number, 0), 1e12)) * time.Millisecond
	}
}

// others sets the fields that only files of an agent may set: metrics, log
// lines, and which process wrote the event when.
func (e *Event) others(p tldParam) {
	text, number := values(p.Value)
	switch p.Name {
	case "Category":
		e.Category = text
	case "Counter":
		e.Counter = text
	case "Instance":
		e.Instance = text
	case "Value":
		e.Value = number
	case "EventName":
		e.Name, e.Version = text, ""
		if i := strings.LastIndexByte(text, '-'); i >= 0 {
			e.Name, e.Version = text[:i], text[i+1:]
		}
	case "CapabilityUsed":
		e.Level = text
	case "Context1":
		e.Message = text
	case "Context2":
		e.Timestamp = text
	case "Context3":
		e.OperationID = text
	case "OpcodeName":
		if t, err := time.Parse(eventTime, text); err == nil {
			e.Time = t
		}
	case "EventTid":
		e.TID = text
	case "EventPid":
		e.PID = text
	case "TaskName":
		e.Task = text
	}
}

// values returns the value of a parameter of any type as text and as a number.
func values(v any) (string, float64) {
	switch v := v.(type) {
	case string:
		var n float64
		_, _ = fmt.Sscan(v, &n) // 0 if it is not a number
		return v, n
	case bool:
		return fmt.Sprint(v), 0
	case float64:
		return fmt.Sprint(v), v
	}
	return "", 0
}

// Package event is the agent's telemetry: one Event type, one Sink that accepts
// events without ever blocking or failing, and a bounded Spool on disk from
// which the telemetry job sends. Begin with Event and Sink; spool.go keeps the
// files, legacy.go and pipeline.go read the formats of the classic agent and of
// handlers. Of this module, it imports only the floor (DESIGN.md, The shape).
package event

import "time"

// Kind selects the provider and event id on the wire (protocol/SPEC.md §11.2).
type Kind string

const (
	// Operation is something the agent did: provider 69B669B9…, id 1.
	Operation Kind = "operation"
	// Metric is a counter: provider 69B669B9…, id 4.
	Metric Kind = "metric"
	// Log is a line of the extension telemetry pipeline: provider FFF0196F…, id 7.
	Log Kind = "log"
)

// An Event is one thing that happened. Only the fields of its Kind are used.
// Text must be free of secrets; the sender redacts SAS signatures once more.
type Event struct {
	Kind Kind      `json:"kind"`
	Time time.Time `json:"time"`

	Name     string        `json:"name,omitempty"`    // who: "WALinuxAgent" or a handler
	Version  string        `json:"version,omitempty"` // its version
	Op       string        `json:"op,omitempty"`      // Install, Enable, Provision, …
	OK       bool          `json:"ok,omitempty"`
	Message  string        `json:"message,omitempty"`
	Duration time.Duration `json:"duration,omitempty"`

	Category string  `json:"category,omitempty"` // Metric
	Counter  string  `json:"counter,omitempty"`
	Instance string  `json:"instance,omitempty"`
	Value    float64 `json:"value,omitempty"`

	Level       string `json:"level,omitempty"` // Log
	Task        string `json:"task,omitempty"`
	Timestamp   string `json:"timestamp,omitempty"` // as the extension wrote it
	OperationID string `json:"operationId,omitempty"`
	PID         string `json:"pid,omitempty"`
	TID         string `json:"tid,omitempty"`
}

// A Sink accepts events. Emit never blocks and never fails; a sink that has to
// drop events counts them.
type Sink interface{ Emit(Event) }

// Discard is the sink used when telemetry is off: nothing is kept.
type Discard struct{}

// Emit implements Sink.
func (Discard) Emit(Event) {}

// Provider returns the provider and the event id of a kind on the wire
// (protocol/SPEC.md §11.2).
func (k Kind) Provider() (provider string, id int) {
	switch k {
	case Metric:
		return agentProvider, 4
	case Log:
		return logProvider, 7
	case Operation:
	}
	return agentProvider, 1
}

const (
	agentProvider = "69B669B9-4AF8-4C50-BDC4-6006FA76E975"
	logProvider   = "FFF0196F-EE4C-4EAF-9AA5-776F622DEB4F"
)

package protocol

import (
	"encoding/json"
	"time"
)

// HealthState is the state of a health report.
type HealthState string

const (
	Ready    HealthState = "Ready"
	NotReady HealthState = "NotReady"
)

// Health is a provisioning health report (protocol/SPEC.md §10.1).
type Health struct {
	State HealthState
	// SubStatus is empty for Ready, else Provisioning or ProvisioningFailed.
	SubStatus   string
	Description string
}

// Status is the aggregate status document before it is JSON
// (protocol/SPEC.md §9.2, extensions/SPEC.md §15).
type Status struct {
	Agent    AgentStatus
	Handlers []HandlerStatus
	// GoalState is nil until the first goal state was processed.
	GoalState *GoalStateStatus
	OS        OSInfo
	Features  []Feature
}

// AgentStatus is guestAgentStatus.
type AgentStatus struct {
	Version string
	Message string
	Update  *UpdateStatus
}

// UpdateStatus is only reported in RSM update mode.
type UpdateStatus struct {
	Expected string
	OK       bool
	Code     int
	Message  string
}

// HandlerStatus is one row of handlerAggregateStatus.
type HandlerStatus struct {
	Name, Version string
	Status        string // Ready, NotReady, Installing, Unresponsive, or a heartbeat's
	Code          int
	Message       *string // nil: no formattedMessage
	Extension     *ExtensionStatus
}

// ExtensionStatus is runtimeSettingsStatus of a row.
type ExtensionStatus struct {
	Name  string // what the status calls itself
	Multi bool   // report extensionName
	Seq   int

	AppliedTime string // configurationAppliedTime as the handler wrote it
	Operation   string
	Status      string          // transitioning, warning, error, success
	Code        json.RawMessage // passed through: a number or a string
	Message     *string
	Lang        string
	Substatus   []Substatus
}

// Substatus is one item of the list a handler wrote.
type Substatus struct {
	Name    string
	Status  string
	Code    json.RawMessage
	Message *string
	Lang    string
}

// GoalStateStatus is goalStateAggregateStatus.
type GoalStateStatus struct {
	OK      bool
	Code    int
	Message string
	SeqNo   json.RawMessage
	Done    time.Time
}

// OSInfo is guestOSInfo.
type OSInfo struct{ ComputerName, Name, Version string }

// Feature is one entry of supportedFeatures.
type Feature struct{ Key, Value string }

// A Receipt says what became of a status document.
type Receipt struct {
	Via      string // "host" or "direct"
	Bytes    int
	Sent     time.Time // when it was sent
	Accepted bool      // the other side confirmed it
	// HTTPStatus is what the other side answered; 0 if it did not.
	HTTPStatus int
}

package fabric

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// statusBlob is a status document as the platform reads it (protocol/SPEC.md §9.2).
type statusBlob struct {
	raw []byte

	Version   any    `json:"version"`
	Timestamp string `json:"timestampUTC"`
	Aggregate struct {
		Agent struct {
			Version string           `json:"version"`
			Status  string           `json:"status"`
			Message formattedMessage `json:"formattedMessage"`
			Update  json.RawMessage  `json:"updateStatus"`
		} `json:"guestAgentStatus"`
		Handlers  []handlerRow `json:"handlerAggregateStatus"`
		Artifacts *struct {
			GoalState *struct {
				Message   formattedMessage `json:"formattedMessage"`
				Timestamp string           `json:"timestampUTC"`
				SeqNo     any              `json:"inSvdSeqNo"`
				Status    string           `json:"status"`
				Code      int              `json:"code"`
			} `json:"goalStateAggregateStatus"`
		} `json:"vmArtifactsAggregateStatus"`
	} `json:"aggregateStatus"`
	OS struct {
		Computer string `json:"computerName"`
		Name     string `json:"osName"`
		Version  string `json:"osVersion"`
		Agent    string `json:"version"`
	} `json:"guestOSInfo"`
	Features []struct{ Key, Value string } `json:"supportedFeatures"`
}

type formattedMessage struct {
	Lang    string `json:"lang"`
	Message string `json:"message"`
}

type handlerRow struct {
	Name     string           `json:"handlerName"`
	Version  string           `json:"handlerVersion"`
	Status   string           `json:"status"`
	Code     looseInt         `json:"code"`
	Message  formattedMessage `json:"formattedMessage"`
	Settings *struct {
		Sequence  *looseInt `json:"sequenceNumber"`
		Extension string    `json:"extensionName"`
		Status    struct {
			Status extensionStatus `json:"status"`
		} `json:"settingsStatus"`
	} `json:"runtimeSettingsStatus"`
}

type extensionStatus struct {
	Name      string            `json:"name"`
	Operation string            `json:"operation"`
	Status    string            `json:"status"`
	Code      looseInt          `json:"code"`
	Message   formattedMessage  `json:"formattedMessage"`
	Applied   string            `json:"configurationAppliedTime"`
	Substatus []extensionStatus `json:"substatus"`
}

// looseInt is a number that handlers may write as a string.
type looseInt int

func (n *looseInt) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err != nil {
		if string(b) == "null" || string(b) == `""` {
			return nil
		}
		return fmt.Errorf("read number: %w", err)
	}
	*n = looseInt(f)
	return nil
}

// parseStatus reads a status blob; page blobs are padded with NULs or blanks.
func parseStatus(data []byte) (*statusBlob, error) {
	data = bytes.TrimRight(data, "\x00 \r\n\t")
	s := &statusBlob{raw: slices.Clone(data)}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	return s, nil
}

// problems lists the rules that the document violates.
func (s *statusBlob) problems() []string {
	var p []string
	add := func(format string, args ...any) { p = append(p, "status: "+fmt.Sprintf(format, args...)) }
	moment := func(where, text string) {
		if _, err := time.Parse("2006-01-02T15:04:05Z", text); err != nil {
			add("%s %q is not YYYY-MM-DDTHH:MM:SSZ", where, text)
		}
	}
	if s.Version != "1.1" {
		add("version %v, want the string 1.1", s.Version)
	}
	moment("timestampUTC", s.Timestamp)
	if s.Aggregate.Agent.Version == "" {
		add("no version of the guest agent")
	}
	if s.Aggregate.Agent.Status != "Ready" {
		add("guest agent status %q, want Ready", s.Aggregate.Agent.Status)
	}
	if s.OS.Computer == "" || s.OS.Name == "" {
		add("guestOSInfo without computerName or osName")
	}
	for _, h := range s.Aggregate.Handlers {
		if h.Name == "" || h.Version == "" {
			add("handler without name or version")
		}
		if !slices.Contains([]string{"Ready", "NotReady", "Installing", "Unresponsive", "ready", "notready"}, h.Status) {
			add("handler %s has status %q", h.Name, h.Status)
		}
		if h.Settings == nil {
			continue
		}
		if h.Settings.Sequence == nil {
			add("handler %s has runtimeSettingsStatus without sequenceNumber", h.Name)
		}
		for _, x := range append([]extensionStatus{h.Settings.Status.Status}, h.Settings.Status.Status.Substatus...) {
			if !slices.Contains([]string{"transitioning", "warning", "error", "success"}, x.Status) {
				add("handler %s has extension status %q", h.Name, x.Status)
			}
		}
	}
	if a := s.Aggregate.Artifacts; a != nil && a.GoalState != nil {
		moment("timestampUTC of goalStateAggregateStatus", a.GoalState.Timestamp)
	}
	if sas := findSAS(s.raw); sas != "" {
		add("shared access signature in a message: %s", sas)
	}
	return p
}

// findSAS looks for a SAS signature that should have been redacted.
func findSAS(raw []byte) string {
	i := bytes.Index(raw, []byte("sig="))
	if i < 0 {
		return ""
	}
	return string(raw[max(0, i-20):i]) + "sig=…"
}

// row returns the row of an extension: by handler, and for a multi-config
// handler also by name.
func (s *statusBlob) row(handler, extension string, multi bool) *handlerRow {
	for i := range s.Aggregate.Handlers {
		h := &s.Aggregate.Handlers[i]
		if !strings.EqualFold(h.Name, handler) {
			continue
		}
		if !multi || h.Settings != nil && strings.EqualFold(h.Settings.Extension, extension) {
			return h
		}
	}
	return nil
}

// bareRow returns a multi-config handler's row without an instance, which
// reports a failure of the handler itself.
func (s *statusBlob) bareRow(handler string) *handlerRow {
	for i := range s.Aggregate.Handlers {
		if h := &s.Aggregate.Handlers[i]; strings.EqualFold(h.Name, handler) && (h.Settings == nil || h.Settings.Extension == "") {
			return h
		}
	}
	return nil
}

// goalOrdinal returns the ordinal of the VM's goal state that the document
// reports as processed last; 0 if it reports none, or an unknown one.
func (v *VM) goalOrdinal(s *statusBlob) int {
	if s.Aggregate.Artifacts == nil || s.Aggregate.Artifacts.GoalState == nil {
		return 0
	}
	// A Fabric goal state is reported as a string, FastTrack as a number.
	switch seq := s.Aggregate.Artifacts.GoalState.SeqNo.(type) {
	case string:
		return max(v.seen["f"+seq], 0)
	case float64:
		return v.seen["s"+strconv.Itoa(int(seq))]
	}
	return 0
}

// statusArrived records a write to the VM's status blob. Page blobs are written
// in steps, so text that does not parse is not an error yet.
func (v *VM) statusArrived(a *answer, data []byte) {
	s, err := parseStatus(data)
	if err != nil {
		if len(bytes.Trim(data, "\x00")) > 0 {
			a.note("statusError", err.Error())
		}
		return
	}
	problems := s.problems()
	f := v.f
	f.mu.Lock()
	v.status = s
	v.statuses++
	v.lastStatus = time.Now()
	detail := map[string]any{"goalState": v.goalOrdinal(s), "handlers": len(s.Aggregate.Handlers)}
	v.finishOperations()
	f.advanceDeployments()
	f.mu.Unlock()
	f.journal.add(Entry{VM: v.name, Kind: Status, Body: string(s.raw), Code: http.StatusCreated, Problems: problems, Detail: detail})
}

package machine

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// A Row is one row of the last status document that the platform received: the
// status of a handler, and of one of its extensions.
type Row struct {
	Handler, Version string
	HandlerStatus    string // Ready, NotReady and so on
	HandlerCode      string
	HandlerMessage   string

	HasStatus                                   bool   // the fields below are set
	Extension                                   string // its name, if the handler has several
	Seq, Operation, Status, Code, StatusMessage string
	Substatus                                   []string // name: status: message
}

// Word returns the extension's status, or the handler's if it has none.
func (r Row) Word() string {
	if r.HasStatus {
		return r.Status
	}
	return r.HandlerStatus
}

// Message returns the extension's message, or the handler's if it has no
// status.
func (r Row) Message() string {
	if r.HasStatus {
		return r.StatusMessage
	}
	return r.HandlerMessage
}

// Key returns the key of the row in Rows: the handler, and the extension if it
// has a name of its own.
func (r Row) Key() string {
	if r.Extension != "" {
		return r.Handler + "." + r.Extension
	}
	return r.Handler
}

// Rows returns the rows of the last status document by Key; none before the
// first document.
func (m *Machine) Rows() (map[string]Row, error) {
	out := map[string]Row{}
	doc, n := m.VM.StatusDocument()
	if n == 0 {
		return out, nil
	}
	type text struct{ Message string }
	var d struct {
		AggregateStatus struct {
			HandlerAggregateStatus []struct {
				HandlerName, HandlerVersion, Status string
				Code                                json.RawMessage
				FormattedMessage                    text
				RuntimeSettingsStatus               *struct {
					SequenceNumber json.RawMessage
					ExtensionName  string
					SettingsStatus struct {
						Status struct {
							Operation, Status string
							Code              json.RawMessage
							FormattedMessage  text
							Substatus         []struct {
								Name, Status     string
								FormattedMessage text
							}
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		return nil, fmt.Errorf("status document: %w: %s", err, doc)
	}
	// Numbers may be quoted.
	number := func(raw json.RawMessage) string { return strings.Trim(string(raw), `"`) }
	for _, h := range d.AggregateStatus.HandlerAggregateStatus {
		r := Row{Handler: h.HandlerName, Version: h.HandlerVersion, HandlerStatus: h.Status, HandlerCode: number(h.Code), HandlerMessage: h.FormattedMessage.Message}
		if s := h.RuntimeSettingsStatus; s != nil {
			st := s.SettingsStatus.Status
			r.HasStatus, r.Extension, r.Seq = true, s.ExtensionName, number(s.SequenceNumber)
			r.Operation, r.Status, r.Code, r.StatusMessage = st.Operation, st.Status, number(st.Code), st.FormattedMessage.Message
			for _, sub := range st.Substatus {
				r.Substatus = append(r.Substatus, sub.Name+": "+sub.Status+": "+sub.FormattedMessage.Message)
			}
		}
		out[r.Key()] = r
	}
	return out, nil
}

// Status is the part of the agent's status file that tests use.
type Status struct {
	Written time.Time `json:"written_at"`
	Agent   struct {
		Version    string
		PID        int
		Goroutines int
		Update     struct {
			Code       string
			Requested  string
			LastResult string `json:"last_result"`
		}
	}
	Provisioning struct {
		State, By, Waiting, Error, Media, Code string
	}
	Firewall struct {
		Verified time.Time `json:"verified_at"`
	}
	Problems   []struct{ Code string }
	Extensions []struct {
		Name, Config, Version                 string
		Actual, Phase, Status, Ready, Message string
	}
}

// StatusFile is the file that `agentctl status` reads.
const StatusFile = "/run/azguest/status.json"

// ReadStatus reads the status file.
func (m *Machine) ReadStatus() (Status, error) {
	b, err := m.ReadFile(StatusFile)
	if err != nil {
		return Status{}, err
	}
	return ParseStatus(b)
}

// ParseStatus reads the text of a status file, or of `agentctl status --output
// json`.
func ParseStatus(text []byte) (s Status, err error) {
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("status file: %w", err)
	}
	return s, nil
}

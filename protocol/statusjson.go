package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/azguest/azguest/agent/secret"
)

// stamp is the only time format of the status document (protocol/SPEC.md §9.3).
const stamp = "2006-01-02T15:04:05Z"

// The document in its wire format; the order of the fields is that of
// protocol/SPEC.md §9.2.
type (
	statusDoc struct {
		Version   string       `json:"version"`
		Timestamp string       `json:"timestampUTC"`
		Aggregate aggregateDoc `json:"aggregateStatus"`
		OS        osDoc        `json:"guestOSInfo"`
		Features  []featureDoc `json:"supportedFeatures"`
	}
	aggregateDoc struct {
		Agent    agentDoc      `json:"guestAgentStatus"`
		Handlers []handlerDoc  `json:"handlerAggregateStatus"`
		VM       *artifactsDoc `json:"vmArtifactsAggregateStatus,omitempty"`
	}
	messageDoc struct {
		Lang    string  `json:"lang"`
		Message *string `json:"message"`
	}
	agentDoc struct {
		Version string     `json:"version"`
		Status  string     `json:"status"`
		Message messageDoc `json:"formattedMessage"`
		Update  *updateDoc `json:"updateStatus,omitempty"`
	}
	updateDoc struct {
		Expected string     `json:"expectedVersion"`
		Status   string     `json:"status"`
		Code     int        `json:"code"`
		Message  messageDoc `json:"formattedMessage"`
	}
	handlerDoc struct {
		Version  string       `json:"handlerVersion"`
		Name     string       `json:"handlerName"`
		Status   string       `json:"status"`
		Code     int          `json:"code"`
		Exact    bool         `json:"useExactVersion"`
		Message  *messageDoc  `json:"formattedMessage,omitempty"`
		Settings *settingsDoc `json:"runtimeSettingsStatus,omitempty"`
	}
	settingsDoc struct {
		Status struct {
			Status    extensionDoc    `json:"status"`
			Version   json.RawMessage `json:"version"`
			Timestamp string          `json:"timestampUTC"`
		} `json:"settingsStatus"`
		Seq  int    `json:"sequenceNumber"`
		Name string `json:"extensionName,omitempty"`
	}
	extensionDoc struct {
		Name      string          `json:"name"`
		Applied   *string         `json:"configurationAppliedTime"`
		Operation *string         `json:"operation"`
		Status    string          `json:"status"`
		Code      json.RawMessage `json:"code"`
		Message   messageDoc      `json:"formattedMessage"`
		Sub       []substatusDoc  `json:"substatus,omitempty"`
	}
	substatusDoc struct {
		Name    string          `json:"name"`
		Status  string          `json:"status"`
		Code    json.RawMessage `json:"code"`
		Message messageDoc      `json:"formattedMessage"`
	}
	artifactsDoc struct {
		GoalState struct {
			Message   messageDoc      `json:"formattedMessage"`
			Timestamp string          `json:"timestampUTC"`
			SeqNo     json.RawMessage `json:"inSvdSeqNo"`
			Status    string          `json:"status"`
			Code      int             `json:"code"`
		} `json:"goalStateAggregateStatus"`
	}
	osDoc struct {
		Computer string `json:"computerName"`
		Name     string `json:"osName"`
		Version  string `json:"osVersion"`
		Agent    string `json:"version"`
	}
	featureDoc struct{ Key, Value string }
)

// message cleans a text for the document: signatures of storage addresses are
// removed (protocol/SPEC.md §9.4), and invalid UTF-8 is replaced.
func message(p *string) messageDoc {
	m := messageDoc{Lang: "en-US"}
	if p != nil {
		s := strings.ToValidUTF8(secret.Redact(*p), "\ufffd")
		m.Message = &s
	}
	return m
}

// code passes on what the handler wrote if it is a number or a string.
func code(raw json.RawMessage) json.RawMessage {
	b := bytes.TrimSpace(raw)
	if len(b) == 0 || !json.Valid(b) || b[0] == '{' || b[0] == '[' {
		return json.RawMessage("0")
	}
	if b[0] == '"' { // a text, which may contain a signed address
		b = []byte(secret.Redact(string(b)))
	}
	return b
}

// JSON builds the status document as reported at now. It is ASCII only, so
// that characters and bytes are the same thing to every reader. It can't
// fail for any Status: what can't be expressed is replaced, because the
// status must always go out.
func (s Status) JSON(now time.Time) ([]byte, error) {
	at := now.UTC().Format(stamp)
	text := s.Agent.Message
	if text == "" {
		text = "Guest Agent is running"
	}
	doc := statusDoc{Version: "1.1", Timestamp: at, Features: []featureDoc{}}
	doc.OS = osDoc{s.OS.ComputerName, s.OS.Name, s.OS.Version, s.Agent.Version}
	doc.Aggregate.Agent = agentDoc{Version: s.Agent.Version, Status: "Ready", Message: message(&text)}
	if u := s.Agent.Update; u != nil {
		d := &updateDoc{Expected: u.Expected, Status: "Error", Code: u.Code, Message: message(&u.Message)}
		if u.OK {
			d.Status = "Success"
		}
		doc.Aggregate.Agent.Update = d
	}
	doc.Aggregate.Handlers = []handlerDoc{}
	for _, h := range s.Handlers {
		doc.Aggregate.Handlers = append(doc.Aggregate.Handlers, h.doc(at))
	}
	if g := s.GoalState; g != nil {
		d := &artifactsDoc{}
		d.GoalState.Message = message(&g.Message)
		d.GoalState.Timestamp = g.Done.UTC().Format(stamp)
		d.GoalState.SeqNo = seqNo(g.SeqNo)
		d.GoalState.Status, d.GoalState.Code = "Failed", g.Code
		if g.OK {
			d.GoalState.Status = "Success"
		}
		doc.Aggregate.VM = d
	}
	for _, f := range s.Features {
		doc.Features = append(doc.Features, featureDoc(f))
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("build status: %w", err)
	}
	return ascii(bytes.TrimSpace(buf.Bytes())), nil
}

func (h HandlerStatus) doc(at string) handlerDoc {
	d := handlerDoc{Version: h.Version, Name: h.Name, Status: h.Status, Code: h.Code, Exact: true}
	if h.Message != nil {
		m := message(h.Message)
		d.Message = &m
	}
	e := h.Extension
	if e == nil {
		return d
	}
	set := &settingsDoc{Seq: e.Seq}
	set.Status.Version, set.Status.Timestamp = json.RawMessage("1.0"), at
	if e.Multi {
		set.Name = e.Name
	}
	set.Status.Status = extensionDoc{
		Name: e.Name, Applied: optional(e.AppliedTime), Operation: optional(secret.Redact(e.Operation)), Status: e.Status,
		Code: code(e.Code), Message: message(e.Message),
	}
	for _, b := range e.Substatus {
		set.Status.Status.Sub = append(set.Status.Status.Sub, substatusDoc{Name: secret.Redact(b.Name), Status: b.Status, Code: code(b.Code), Message: message(b.Message)})
	}
	d.Settings = set
	return d
}

// optional is null for "", as WALinuxAgent writes it.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// seqNo is the sequence number of the goal state: a string for Fabric, a
// number for FastTrack; without one the null GUID, as WALinuxAgent reports it.
func seqNo(raw json.RawMessage) json.RawMessage {
	if b := bytes.TrimSpace(raw); len(b) > 0 && json.Valid(b) {
		return b
	}
	return json.RawMessage(`"00000000-0000-0000-0000-000000000000"`)
}

// ascii replaces every non-ASCII character by its \u escape.
func ascii(b []byte) []byte {
	extra := 0
	for _, c := range b {
		if c >= utf8.RuneSelf {
			extra += 5
		}
	}
	if extra == 0 {
		return b
	}
	out := make([]byte, 0, len(b)+extra)
	for i := 0; i < len(b); {
		if b[i] < utf8.RuneSelf {
			out = append(out, b[i])
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		i += n
		if r > 0xffff {
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
			continue
		}
		out = fmt.Appendf(out, `\u%04x`, r)
	}
	return out
}

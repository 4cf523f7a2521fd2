package wire

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/azguest/azguest/protocol"
)

// maxDescription, in bytes before escaping, stays below the 4096 bytes that
// the server accepts (protocol/SPEC.md §10.1).
const maxDescription = 3686

// Health builds the report of protocol/SPEC.md §10.1.
func Health(g *GoalState, h protocol.Health) []byte {
	var sb strings.Builder
	sb.WriteString(`<?xml version="1.0" encoding="utf-8"?>` + "\n")
	sb.WriteString(`<Health xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema">`)
	sb.WriteString(`<GoalStateIncarnation>` + esc(g.Incarnation) + `</GoalStateIncarnation><Container><ContainerId>` + esc(g.ContainerID))
	sb.WriteString(`</ContainerId><RoleInstanceList><Role><InstanceId>` + esc(g.InstanceID) + `</InstanceId><Health><State>` + esc(string(h.State)) + `</State>`)
	if h.SubStatus != "" {
		sb.WriteString(`<Details><SubStatus>` + esc(h.SubStatus) + `</SubStatus><Description>` + description(h.Description) + `</Description></Details>`)
	}
	sb.WriteString(`</Health></Role></RoleInstanceList></Container></Health>`)
	return []byte(sb.String())
}

// ProvisioningHealth builds the report of protocol/SPEC.md §10.2.
func ProvisioningHealth(h protocol.Health) ([]byte, error) {
	type details struct {
		SubStatus   string `json:"subStatus"`
		Description string `json:"description"`
	}
	doc := struct {
		State   string   `json:"state"`
		Details *details `json:"details,omitempty"`
	}{State: string(h.State)}
	if h.SubStatus != "" {
		doc.Details = &details{h.SubStatus, cut(strings.ToValidUTF8(h.Description, "?"), maxDescription)}
	}
	return json.Marshal(doc)
}

// description is cut twice: the text, as WALinuxAgent does, and again until
// its escaped form has at most 4096 bytes, so that the server never cuts
// inside an escape.
func description(s string) string {
	s = cut(strings.ToValidUTF8(s, "?"), maxDescription)
	for {
		e := esc(s)
		if len(e) <= 4096 {
			return e
		}
		s = cut(s, len(s)-max(1, (len(e)-4096)/6))
	}
}

// cut shortens to at most n bytes, at the start of a rune.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Observation is one line of a HealthService report (protocol/SPEC.md §10.4).
type Observation struct {
	Name        string
	Healthy     bool
	Description string
	Value       string
}

// HealthService builds the report; no more than ten observations are taken.
func HealthService(source string, obs []Observation) ([]byte, error) {
	type observation struct {
		ObservationName string
		IsHealthy       bool
		Description     string
		Value           string
	}
	doc := struct {
		API          string `json:"Api"`
		Version      string
		Source       string
		Observations []observation
	}{API: "reporttargethealth", Version: "1.0", Source: source, Observations: []observation{}}
	for _, o := range obs[:min(len(obs), 10)] {
		doc.Observations = append(doc.Observations, observation{cut(o.Name, 64), o.Healthy, cut(o.Description, 128), cut(o.Value, 128)})
	}
	return json.Marshal(doc)
}

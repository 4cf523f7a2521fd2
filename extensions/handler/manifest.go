package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/azguest/azguest/agent/host/cgroup"
	"github.com/azguest/azguest/extensions/plan"
)

// A Manifest is the HandlerManifest.json of a package: element 0 of its
// array (extensions/SPEC.md §3.1). It is read again before every command,
// because handlers and users may edit it in place.
type Manifest struct {
	Commands map[plan.Op]string
	// Heartbeat means that the handler updates heartbeat.log regularly.
	Heartbeat         bool
	ContinueOnFailure bool
	Multi             bool
	// NoInstallOnUpdate means that updateMode is set, but not to
	// UpdateWithInstall.
	NoInstallOnUpdate bool
	// CPUPercent is the CPU limit of the handler's slice, in percent of one
	// core; 0 means no limit.
	CPUPercent int
	Services   []cgroup.UnitLimit // systemd units that may do the handler's work
	Publisher  string             // this and the next two are from signingInfo
	Type       string
	Version    string
	// Odd has the keys whose values should be booleans but are not.
	Odd []string
}

// MaxManifest is the maximum size of a manifest in bytes.
const MaxManifest = 1 << 20

var errManifest = errors.New("malformed manifest file")

// Bom is the UTF-8 byte order mark, which some publishers' tools write.
var Bom = []byte("\xef\xbb\xbf")

// ParseManifest parses a manifest. Booleans may be strings, and the version a
// number or a string. Unknown keys are ignored.
func ParseManifest(data []byte) (Manifest, error) {
	data = lenientJSON(data)
	if err := manifestLimits.JSON(data); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", errManifest, err)
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", errManifest, err)
	}
	if len(list) == 0 {
		return Manifest{}, fmt.Errorf("%w: the array is empty", errManifest)
	}
	hm, err := object(list[0]["handlerManifest"])
	if err != nil || hm == nil {
		return Manifest{}, fmt.Errorf("%w: no handlerManifest", errManifest)
	}
	m := Manifest{Commands: map[plan.Op]string{}}
	for op, key := range map[plan.Op]string{
		plan.Install: "installCommand", plan.Enable: "enableCommand", plan.Disable: "disableCommand",
		plan.Update: "updateCommand", plan.Uninstall: "uninstallCommand",
	} {
		if s, ok := Text(hm[key]); ok {
			m.Commands[op] = s
		}
	}
	m.Heartbeat = m.boolish(hm, "reportHeartbeat")
	m.ContinueOnFailure = m.boolish(hm, "continueOnUpdateFailure")
	m.Multi = m.boolish(hm, "supportsMultipleExtensions")
	if mode, ok := Text(hm["updateMode"]); ok {
		m.NoInstallOnUpdate = !strings.EqualFold(mode, "UpdateWithInstall")
	}
	if m.limits(list[0]["resourceLimits"]); list[0]["resourceLimits"] == nil {
		m.limits(hm["resourceLimits"]) // some publishers have them here
	}
	if s, err := object(list[0]["signingInfo"]); err == nil && s != nil {
		m.signing(s)
	} else if s, err := object(hm["signingInfo"]); err == nil {
		m.signing(s)
	}
	return m, nil
}

func (m *Manifest) signing(s map[string]json.RawMessage) {
	m.Publisher, _ = Text(s["publisher"])
	m.Type, _ = Text(s["type"])
	m.Version, _ = Text(s["version"])
}

// boolish returns a value that is a boolean, or a string equal to "true" in any
// case. Everything else is false; an unexpected value is noted in m.Odd.
func (m *Manifest) boolish(o map[string]json.RawMessage, key string) bool {
	raw := bytes.TrimSpace(o[key])
	switch {
	case len(raw) == 0 || string(raw) == "null" || string(raw) == "false":
		return false
	case string(raw) == "true":
		return true
	}
	if s, ok := Text(raw); ok {
		if strings.EqualFold(s, "true") {
			return true
		}
		if strings.EqualFold(s, "false") {
			return false
		}
	}
	m.Odd = append(m.Odd, key)
	return false
}

func (m *Manifest) limits(raw json.RawMessage) {
	o, err := object(raw)
	if err != nil || o == nil {
		return
	}
	m.CPUPercent = percent(o["cpuQuotaPercentage"])
	var services []map[string]json.RawMessage
	if json.Unmarshal(o["services"], &services) == nil {
		for _, s := range services {
			if name, ok := Text(s["name"]); ok && name != "" {
				m.Services = append(m.Services, cgroup.UnitLimit{Name: name, CPUPercent: percent(s["cpuQuotaPercentage"])})
			}
		}
	}
}

// percent parses a CPU limit in percent of one core; 0 if it is not valid.
func percent(raw json.RawMessage) int {
	var x float64
	if json.Unmarshal(raw, &x) != nil || x < 1 || x >= 1e6 {
		return 0
	}
	return int(x)
}

// object parses a JSON object. It keeps the case of the keys, which
// encoding/json ignores for structs. The result is nil for null and no data.
func object(raw json.RawMessage) (map[string]json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var o map[string]json.RawMessage
	err := json.Unmarshal(raw, &o)
	return o, err
}

// maxText is how much of one JSON string is decoded, in bytes of the file. It is
// more than any string of a status that is reported without shortening, and
// more than what is left of a shortened one.
const maxText = 4 * bigTotal

// Text decodes a JSON string, of a very long one only the first maxText bytes.
// It returns false if raw is not a string.
func Text(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", false
	}
	if len(raw) > maxText {
		raw = append(bytes.Clone(raw[:wholeEscapes(raw, maxText)]), '"')
	}
	var s string
	return s, json.Unmarshal(raw, &s) == nil
}

// wholeEscapes returns the largest index up to limit at which a JSON string can
// be cut without splitting an escape, a surrogate pair or a multi-byte
// character.
func wholeEscapes(raw []byte, limit int) int {
	cut := 1
	for i := 1; i < limit; {
		switch {
		case raw[i] != '\\':
			i++
		case raw[i+1] != 'u':
			i += 2
		case isPair(raw[i:]):
			i += 12
		default:
			i += 6
		}
		// Invalid UTF-8 may have no start of a character near the limit.
		if i <= limit && (utf8.RuneStart(raw[i]) || i < limit-utf8.UTFMax) {
			cut = i
		}
	}
	return cut
}

// isPair reports whether an escape and the next one are a surrogate pair.
func isPair(raw []byte) bool {
	return raw[2]|0x20 == 'd' && strings.ContainsRune("89abAB", rune(raw[3])) && raw[6] == '\\' && raw[7] == 'u'
}

// maxEscaped is by how many bytes escapes of the form \u00XX may lengthen a
// document. Further control characters become spaces: real text has few, and
// six bytes for each of several millions would need too much memory.
const maxEscaped = 1 << 20

// lenientJSON converts the JSON of handlers to what encoding/json accepts: it
// removes a byte order mark and trailing NULs, and escapes control characters
// in strings, which Python and shell handlers write as they are. The result is
// at most twice as long, plus maxEscaped bytes.
func lenientJSON(data []byte) []byte {
	data = bytes.TrimRight(bytes.TrimPrefix(data, Bom), "\x00 \t\r\n")
	controls := 0
	for _, c := range data {
		if c < 0x20 {
			controls++
		}
	}
	if controls == 0 {
		return data
	}
	out := make([]byte, 0, len(data)+controls+min(5*controls, maxEscaped))
	left := maxEscaped
	inString, escaped := false, false
	for _, c := range data {
		switch {
		case inString && c < 0x20:
			if escaped { // the backslash before it does not start an escape: double it
				out = append(out, '\\')
			}
			escaped = false
			const hex = "0123456789abcdef"
			switch {
			case c == '\n':
				out = append(out, `\n`...)
			case c == '\r':
				out = append(out, `\r`...)
			case c == '\t':
				out = append(out, `\t`...)
			case left > 0:
				out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
				left -= 5
			default:
				out = append(out, ' ')
			}
			continue
		case escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		}
		out = append(out, c)
	}
	return out
}

// SignedAs returns why signingInfo does not match this handler and version, or
// "" if it does.
func (m Manifest) SignedAs(name, version string) string {
	switch {
	case m.Publisher == "" && m.Type == "" && m.Version == "":
		return "HandlerManifest.json has no signingInfo"
	case !strings.EqualFold(m.Publisher+"."+m.Type, name):
		return fmt.Sprintf("signed as %s.%s, but offered as %s", m.Publisher, m.Type, name)
	case !strings.EqualFold(m.Version, version):
		return fmt.Sprintf("signed as version %s, but offered as %s", m.Version, version)
	}
	return ""
}

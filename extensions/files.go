package extensions

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/protocol"
)

// Names in a handler's base directory (extensions/SPEC.md §4.1).
const (
	manifestName    = "HandlerManifest.json"
	environmentName = "HandlerEnvironment.json"
	heartbeatName   = "heartbeat.log"
)

// handlerEnvironment is HandlerEnvironment.json to the byte: CustomScript's
// shim does not parse it but cuts the text after `"logFolder": "` up to the
// next `",`, so the blanks and the order are part of the contract
// (extensions/SPEC.md §5.1).
func handlerEnvironment(name, logDir, base string) []byte {
	var b bytes.Buffer
	str := func(s string) {
		q, _ := json.Marshal(s) // a string always encodes
		b.Write(q)
	}
	b.WriteString(`[{"name": `)
	str(name)
	b.WriteString(`, "version": 1.0, "handlerEnvironment": {"logFolder": `)
	str(logDir)
	for _, kv := range [][2]string{
		{"configFolder", base + "/config"},
		{"statusFolder", base + "/status"},
		{"heartbeatFile", base + "/" + heartbeatName},
		{"eventsFolder", logDir + "/events"},
		{"eventsFolder_preview", logDir + "/events"},
	} {
		b.WriteString(`, "` + kv[0] + `": `)
		str(kv[1])
	}
	b.WriteString("}}]")
	return b.Bytes()
}

// settingsDocument is <seq>.settings. All three keys are always there, null
// when absent; public settings keep their names, numbers and order, but go on
// one line: the platform may send them on many, other agents never wrote more
// than one, and shell handlers take it apart by lines. No settings at all is a file
// of no bytes (extensions/SPEC.md §6.2).
func settingsDocument(s *protocol.Settings) []byte {
	if s == nil {
		return nil
	}
	str := func(v string, set bool) []byte {
		if !set {
			return []byte("null")
		}
		q, _ := json.Marshal(v) // a string always encodes
		return q
	}
	var b bytes.Buffer
	b.WriteString(`{"runtimeSettings": [{"handlerSettings": {"protectedSettingsCertThumbprint": `)
	b.Write(str(s.Thumbprint, s.Thumbprint != ""))
	b.WriteString(`, "protectedSettings": `)
	b.Write(str(s.Protected.Reveal(), !s.Protected.Empty()))
	b.WriteString(`, "publicSettings": `)
	b.Write(publicSettings(s.Public))
	b.WriteString("}}]}")
	return b.Bytes()
}

// publicSettings are the public settings as a handler gets them, in whatever
// wrapping they came: the WireServer has an object over many lines, vmSettings
// a string that holds one.
func publicSettings(raw []byte) []byte {
	raw = bytes.TrimSpace(raw)
	if inner, ok := text(raw); ok {
		raw = bytes.TrimSpace([]byte(inner))
	}
	if len(raw) == 0 || !json.Valid(raw) {
		return []byte("null")
	}
	return oneLine(raw)
}

// settingsName is the name of a settings or status file.
func settingsName(ext string, seq int, suffix string) string {
	if ext != "" {
		return ext + "." + strconv.Itoa(seq) + suffix
	}
	return strconv.Itoa(seq) + suffix
}

// handlerStatusFile is config/HandlerStatus as the old agent writes it.
func handlerStatusFile(name, version string, r Report, multi bool) []byte {
	doc := struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		Status  string `json:"status"`
		Code    int    `json:"code"`
		Message string `json:"message"`
		Multi   bool   `json:"supports_multi_config"`
		Ext     any    `json:"extension_status"`
	}{name, version, r.Status, r.Code, r.Message, multi, nil}
	b, _ := json.Marshal(doc) // plain strings and numbers
	return b
}

// parseHandlerStatus reads config/HandlerStatus.
func parseHandlerStatus(data []byte) (Report, bool) {
	data = lenientJSON(data)
	if heartbeatLimits.JSON(data) != nil {
		return Report{}, false
	}
	o, err := object(data)
	if err != nil || o == nil {
		return Report{}, false
	}
	var r Report
	r.Status, _ = text(o["status"])
	r.Message, _ = text(o["message"])
	r.Message = cutMark(r.Message, bigSubMessage)
	_ = json.Unmarshal(o["code"], &r.Code) // a missing code is 0
	return r, r.Status != "" && len(r.Status) <= maxBeatStatus
}

// errorStatus is a status file the agent writes in a handler's place.
func errorStatus(name, operation string, code int, message string, now time.Time) []byte {
	doc := []any{map[string]any{
		"version":      1.0,
		"timestampUTC": now.UTC().Format("2006-01-02T15:04:05Z"),
		"status": map[string]any{
			"name": name, "operation": operation, "status": "error", "code": code,
			"formattedMessage": map[string]string{"lang": "en-US", "message": message},
		},
	}}
	b, _ := json.Marshal(doc) // maps of strings and numbers
	return b
}

// dropSettings removes settings that handlers would take for newer ones:
// numbers above seq and names that are none (extensions/SPEC.md §6.4). Only
// files of this extension are looked at.
func dropSettings(configDir, ext string, seq int) error {
	base, folder := filepath.Split(configDir)
	d, err := openFolder(base, folder)
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.ReadDir()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".settings")
		if !ok {
			continue
		}
		if ext != "" {
			if stem, ok = strings.CutPrefix(stem, ext+"."); !ok {
				continue
			}
		}
		n, err := strconv.Atoi(stem)
		switch {
		case err == nil && n <= seq:
			continue
		case err != nil && ext != "": // another extension, "a.b" beside "a"
			continue
		case err != nil && strings.Contains(stem, "."): // multi-config, left by other agents
			continue
		}
		errs = append(errs, d.RemoveAll(e.Name()))
	}
	return errors.Join(errs...)
}

// forgetExtension deletes what belongs to one multi-config extension that was
// deleted. Its mrseq goes too: Run Command relies on it, and a run command
// created anew under the same name would not run (extensions/SPEC.md §11.3).
func forgetExtension(base, ext string) error {
	var errs []error
	for folder, suffix := range map[string]string{"config": ".settings", "status": ".status"} {
		errs = append(errs, inFolder(base, folder, func(d *host.Dir) error {
			entries, err := d.ReadDir()
			errs := []error{err}
			for _, e := range entries {
				mid, ok := strings.CutPrefix(e.Name(), ext+".")
				if !ok {
					continue
				}
				if mid, ok = strings.CutSuffix(mid, suffix); !ok {
					continue
				}
				if _, err := strconv.Atoi(mid); err == nil {
					errs = append(errs, d.RemoveAll(e.Name()))
				}
			}
			if folder == "config" {
				errs = append(errs, d.RemoveAll(ext+".HandlerState"))
			}
			return errors.Join(errs...)
		}))
	}
	return errors.Join(append(errs, top.RemoveAll(base+"/"+ext+".mrseq"))...)
}

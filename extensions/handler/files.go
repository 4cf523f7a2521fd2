package handler

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/protocol"
)

// Names in a handler's base directory (extensions/SPEC.md §4.1).
const (
	ManifestName    = "HandlerManifest.json"
	EnvironmentName = "HandlerEnvironment.json"
	HeartbeatName   = "heartbeat.log"
)

// EnvironmentFile returns the content of HandlerEnvironment.json. Spaces and
// order of keys are part of the contract, because CustomScript's shim does not
// parse it: it takes the text between `"logFolder": "` and the next `",`
// (extensions/SPEC.md §5.1).
func EnvironmentFile(name, logDir, base string) []byte {
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
		{"heartbeatFile", base + "/" + HeartbeatName},
		{"eventsFolder", logDir + "/events"},
		{"eventsFolder_preview", logDir + "/events"},
	} {
		b.WriteString(`, "` + kv[0] + `": `)
		str(kv[1])
	}
	b.WriteString("}}]")
	return b.Bytes()
}

// SettingsFile returns the content of <seq>.settings. All three keys are always
// there, null when absent. Public settings keep their names, numbers and order,
// but are written on one line, as other agents do: the platform may send
// several lines, and shell handlers parse the file by lines. Without settings
// the file is empty (extensions/SPEC.md §6.2).
func SettingsFile(s *protocol.Settings) []byte {
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
	b.Write(PublicSettings(s.Public))
	b.WriteString("}}]}")
	return b.Bytes()
}

// PublicSettings returns the public settings as a handler gets them: one JSON
// document on one line, null if raw is empty or invalid. raw is an object, maybe
// on several lines (WireServer), or a string that contains one (vmSettings).
func PublicSettings(raw []byte) []byte {
	raw = bytes.TrimSpace(raw)
	if inner, ok := Text(raw); ok {
		raw = bytes.TrimSpace([]byte(inner))
	}
	if len(raw) == 0 || !json.Valid(raw) {
		return []byte("null")
	}
	return oneLine(raw)
}

// FileName returns the name of a settings or status file: [<ext>.]<seq><suffix>.
func FileName(ext string, seq int, suffix string) string {
	if ext != "" {
		return ext + "." + strconv.Itoa(seq) + suffix
	}
	return strconv.Itoa(seq) + suffix
}

// StatusRecord returns the content of config/HandlerStatus as WALinuxAgent
// writes it.
func StatusRecord(name, version string, r Report, multi bool) []byte {
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

// ParseStatusRecord parses config/HandlerStatus. It returns false if there is
// no valid status.
func ParseStatusRecord(data []byte) (Report, bool) {
	data = lenientJSON(data)
	if heartbeatLimits.JSON(data) != nil {
		return Report{}, false
	}
	o, err := object(data)
	if err != nil || o == nil {
		return Report{}, false
	}
	var r Report
	r.Status, _ = Text(o["status"])
	r.Message, _ = Text(o["message"])
	r.Message = cutMark(r.Message, bigSubMessage)
	_ = json.Unmarshal(o["code"], &r.Code) // a missing code is 0
	return r, r.Status != "" && len(r.Status) <= maxBeatStatus
}

// ErrorStatusFile returns the content of a status file with an error, which the
// agent writes on behalf of a handler.
func ErrorStatusFile(name, operation string, code int, message string, now time.Time) []byte {
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

// DropSettings removes settings files that handlers would take for newer ones:
// those with a number above seq, or without a number (extensions/SPEC.md §6.4).
// Only files of this extension are removed.
func DropSettings(configDir, ext string, seq int) error {
	base, name := filepath.Split(configDir)
	d, err := folder.Open(base, name)
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
		case err != nil && strings.Contains(stem, "."): // of multi-config, left by other agents
			continue
		}
		errs = append(errs, d.RemoveAll(e.Name()))
	}
	return errors.Join(errs...)
}

// ForgetExtension removes the files of one multi-config extension that was
// deleted. This includes its mrseq: with it, a run command that is created
// again under the same name would not run (extensions/SPEC.md §11.3).
func ForgetExtension(base, ext string) error {
	var errs []error
	for kind, suffix := range map[string]string{"config": ".settings", "status": ".status"} {
		errs = append(errs, folder.In(base, kind, func(d *host.Dir) error {
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
			if kind == "config" {
				errs = append(errs, d.RemoveAll(ext+".HandlerState"))
			}
			return errors.Join(errs...)
		}))
	}
	return errors.Join(append(errs, folder.Root.RemoveAll(base+"/"+ext+".mrseq"))...)
}

// Limits of the status files that are copied in a version change. They are
// copied as root, from a folder that a service account may be able to fill with
// sparse files.
const (
	maxPastNames = 20_000 // names that are read
	MaxPastFiles = 500
	maxPastBytes = 32 << 20
)

// PastFiles returns the names of files of a folder, within the limits above:
// those of first that exist, then the newest. Having more is no error: a version
// change must not fail because of leftovers of the old version. If the folder is
// a link, the error is host.ErrUnsafe.
func PastFiles(base, name string, first []string) ([]string, error) {
	var wanted, found []fs.FileInfo
	err := folder.In(base, name, func(d *host.Dir) error {
		look := func(into *[]fs.FileInfo, n string) {
			if fi, err := d.Lstat(n); err == nil && fi.Mode().IsRegular() && fi.Size() <= MaxStatusFile {
				*into = append(*into, fi)
			}
		}
		for _, n := range first {
			look(&wanted, n)
		}
		names, _, err := d.Names(maxPastNames)
		for _, n := range names {
			if !slices.Contains(first, n) {
				look(&found, n)
			}
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	slices.SortFunc(found, func(a, b fs.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), strings.Compare(a.Name(), b.Name()))
	})
	var out []string
	left := int64(maxPastBytes)
	for i, fi := range append(wanted, found...) {
		if left -= fi.Size(); i >= len(wanted) && (left < 0 || len(out) >= MaxPastFiles) {
			break
		}
		out = append(out, fi.Name())
	}
	return out, err
}

package hostga

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/settings"
)

// minVMSettings is the first plugin whose vmSettings can be used.
const minVMSettings = "1.0.8.133"

// VMSettings is the document of protocol/SPEC.md §7.3.
type VMSettings struct {
	protocol.Desired
	Plugin string // version of the HostGAPlugin
	ETag   string
	Source protocol.Source // "" when the document does not say
	SeqNo  json.RawMessage // inSvdSeqNo, to be reported back
}

// integer and boolean take a value in the type it should have or as text, and
// are zero for anything else: the writer of the document is not
// consistent (protocol/SPEC.md §7.3).
type (
	integer struct {
		set bool
		n   int64
	}
	boolean struct{ set, v bool }
)

func (w *integer) UnmarshalJSON(b []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(b), `" `), 10, 64)
	w.n, w.set = n, err == nil
	return nil
}

func (t *boolean) UnmarshalJSON(b []byte) error {
	s := strings.Trim(string(b), `" `)
	t.set = s != "null" && s != ""
	t.v = strings.EqualFold(s, "true")
	return nil
}

// lenient decodes what fits and leaves the rest zero; only text that is no
// JSON is an error.
func lenient(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("not JSON at byte %d", se.Offset)
	}
	return err
}

// ParseVMSettings reads the document. What is wrong with one handler marks
// that handler Invalid, where WALinuxAgent rejects everything.
func ParseVMSettings(b []byte) (*VMSettings, error) {
	b = bytes.TrimRight(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")), " \r\n\t\x00")
	var doc struct {
		HostGAPluginVersion             string
		ActivityID, CorrelationID       string
		InSvdSeqNo                      json.RawMessage
		ExtensionsLastModifiedTickCount integer
		ExtensionGoalStatesSource       string
		OnHold                          boolean
		StatusUploadBlob                struct{ StatusBlobType, Value string }
		RequiredFeatures                []json.RawMessage
		GAFamilies                      []json.RawMessage
		ExtensionGoalStates             json.RawMessage
	}
	if len(b) == 0 || b[0] != '{' {
		return nil, &protocol.DocumentError{Doc: "vmSettings", Err: errors.New("not a JSON object")}
	}
	if err := limits.JSON(b); err != nil {
		return nil, &protocol.DocumentError{Doc: "vmSettings", Err: err}
	}
	if err := lenient(b, &doc); err != nil {
		return nil, &protocol.DocumentError{Doc: "vmSettings", Err: err}
	}
	vm := &VMSettings{Plugin: doc.HostGAPluginVersion, Source: protocol.Source(doc.ExtensionGoalStatesSource)}
	vm.CreatedTicks, vm.ActivityID, vm.CorrelationID = doc.ExtensionsLastModifiedTickCount.n, doc.ActivityID, doc.CorrelationID
	vm.OnHold = doc.OnHold.v
	// The platform varies the case, and taking Fabric for FastTrack would
	// execute what must not be executed.
	for _, known := range []protocol.Source{protocol.Fabric, protocol.FastTrack} {
		if strings.EqualFold(strings.TrimSpace(doc.ExtensionGoalStatesSource), string(known)) {
			vm.Source = known
		}
	}
	if s := bytes.TrimSpace(doc.InSvdSeqNo); len(s) > 0 && string(s) != "null" && s[0] != '{' && s[0] != '[' {
		vm.SeqNo = bytes.Clone(s)
	}
	if doc.StatusUploadBlob.Value != "" {
		vm.StatusBlob = protocol.StatusBlob{
			URL:  secret.NewURL(doc.StatusUploadBlob.Value),
			Page: strings.EqualFold(doc.StatusUploadBlob.StatusBlobType, "PageBlob"),
		}
	}
	for _, raw := range doc.RequiredFeatures {
		var f struct{ Name string }
		if lenient(raw, &f) == nil && f.Name != "" {
			vm.RequiredFeatures = append(vm.RequiredFeatures, f.Name)
		}
	}
	for _, raw := range doc.GAFamilies {
		if f, ok := family(raw); ok {
			vm.Families = append(vm.Families, f)
		}
	}
	// What a goal state does not name is deleted, so nothing may be lost here.
	var states []json.RawMessage
	if len(doc.ExtensionGoalStates) > 0 {
		if err := json.Unmarshal(doc.ExtensionGoalStates, &states); err != nil {
			// The rest of the document can be used; which handlers are meant is unknown.
			vm.Handlers = append(vm.Handlers, protocol.Handler{Want: protocol.WantEnabled, Invalid: "extensionGoalStates is not an array"})
		}
	}
	if len(states) > protocol.MaxHandlers {
		return nil, &protocol.DocumentError{Doc: "vmSettings", Err: &bound.Error{What: "extensionGoalStates", Max: protocol.MaxHandlers}}
	}
	for _, raw := range states {
		vm.Handlers = append(vm.Handlers, handler(raw))
	}
	return vm, nil
}

func family(raw json.RawMessage) (protocol.AgentFamily, bool) {
	var f struct {
		Name, Version, FromVersion                  string
		IsVersionFromRSM, IsVMEnabledForRSMUpgrades boolean
		URIs                                        []string
	}
	if lenient(raw, &f) != nil || f.Name == "" {
		return protocol.AgentFamily{}, false
	}
	out := protocol.AgentFamily{
		Name: f.Name, Version: f.Version, FromVersion: f.FromVersion,
		VersionByRSM: f.IsVersionFromRSM.ptr(), RSMEnabled: f.IsVMEnabledForRSMUpgrades.ptr(),
	}
	for _, u := range f.URIs {
		if strings.TrimSpace(u) != "" {
			out.ManifestURIs = append(out.ManifestURIs, secret.NewURL(u))
		}
	}
	return out, true
}

func (t boolean) ptr() *bool {
	if !t.set {
		return nil
	}
	return &t.v
}

type entry struct {
	settings.Handler
	SeqNo                         integer
	ExtensionName, ExtensionState string
}

type dependency struct {
	Name               string
	DependencyLevel    integer
	DependsOnExtension []struct{ Handler, Extension string }
}

// level is at least 0: negative levels are for handlers to be removed.
func (d dependency) level() int { return int(max(0, d.DependencyLevel.n)) }

type extension struct {
	Name, Version, State, EncodedSignature string
	Location, FailoverLocation             string
	AdditionalLocations                    []string
	SettingsSeqNo                          integer
	IsMultiConfig                          boolean
	Settings                               []entry
	DependsOn                              []dependency
}

// handler reads one entry of extensionGoalStates.
func handler(raw json.RawMessage) protocol.Handler {
	var e extension
	err := json.Unmarshal(raw, &e)
	if e.Name == "" {
		return protocol.Handler{Want: protocol.WantEnabled, Invalid: "received empty name"}
	}
	h := protocol.Handler{Name: e.Name, Version: e.Version, Signature: e.EncodedSignature, MultiConfig: e.IsMultiConfig.v}
	for _, u := range append([]string{e.Location, e.FailoverLocation}, e.AdditionalLocations...) {
		if strings.TrimSpace(u) != "" {
			h.Manifests = append(h.Manifests, secret.NewURL(u))
		}
	}
	var ok bool
	if h.Want, ok = settings.Want(e.State); !ok {
		h.Invalid = "unknown state " + bound.Quote(e.State)
		return h
	}
	if te, isType := errors.AsType[*json.UnmarshalTypeError](err); isType {
		h.Invalid = fmt.Sprintf("%s has JSON type %s", te.Field, bound.Clip(te.Value))
		return h
	}
	if e.Version == "" {
		h.Invalid = "received empty version"
		return h
	}
	if h.MultiConfig {
		err = multi(&h, &e)
	} else {
		err = single(&h, &e)
	}
	if err != nil {
		h.Settings, h.Invalid = nil, err.Error()
	}
	return h
}

func single(h *protocol.Handler, e *extension) error {
	if len(e.Settings) > 1 {
		return fmt.Errorf("%d settings for a single-config extension", len(e.Settings))
	}
	if len(e.DependsOn) > 1 {
		return fmt.Errorf("%d dependsOn for a single-config extension", len(e.DependsOn))
	}
	var d dependency
	if len(e.DependsOn) == 1 {
		d = e.DependsOn[0]
		h.Level = d.level()
	}
	if len(e.Settings) == 0 {
		h.After = after(d)
		return nil
	}
	if !e.SettingsSeqNo.set || e.SettingsSeqNo.n < 0 {
		return errors.New("settings have no settingsSeqNo")
	}
	s := protocol.Settings{Name: h.Name, Seq: int(e.SettingsSeqNo.n), Want: protocol.WantEnabled}
	if err := fill(&s, &e.Settings[0], d); err != nil {
		return err
	}
	h.Settings = []protocol.Settings{s}
	return nil
}

func multi(h *protocol.Handler, e *extension) error {
	if len(e.Settings) > protocol.MaxExtensions {
		return &bound.Error{What: "extensions of one handler", Max: protocol.MaxExtensions}
	}
	on := map[string]dependency{} // the last one counts
	for _, d := range e.DependsOn {
		on[d.Name] = d
	}
	names := map[string]bool{}
	for i := range e.Settings {
		m := &e.Settings[i]
		if m.ExtensionName == "" {
			return fmt.Errorf("settings entry %d has no extensionName", i)
		}
		if !m.SeqNo.set || m.SeqNo.n < 0 {
			return fmt.Errorf("%s has no seqNo", bound.Clip(m.ExtensionName))
		}
		if names[m.ExtensionName] {
			return fmt.Errorf("duplicate extension %s", bound.Clip(m.ExtensionName))
		}
		names[m.ExtensionName] = true
		s := protocol.Settings{Name: m.ExtensionName, Seq: int(m.SeqNo.n), Want: settings.InstanceWant(m.ExtensionState)}
		if err := fill(&s, m, on[m.ExtensionName]); err != nil {
			return err
		}
		h.Settings = append(h.Settings, s)
	}
	for _, d := range e.DependsOn {
		if !names[d.Name] {
			return fmt.Errorf("dependsOn names the unknown extension %s", bound.Quote(d.Name))
		}
	}
	return nil
}

func fill(s *protocol.Settings, e *entry, d dependency) error {
	if err := e.Into(s); err != nil {
		return err
	}
	if s.Protected.Set() && s.Thumbprint == "" {
		return fmt.Errorf("%s has protected settings without a certificate thumbprint", bound.Clip(s.Name))
	}
	s.Level, s.After = d.level(), after(d)
	return nil
}

func after(d dependency) []protocol.Dependency {
	var out []protocol.Dependency
	for _, x := range d.DependsOnExtension {
		out = append(out, protocol.Dependency{Handler: x.Handler, Extension: x.Extension})
	}
	return out
}

// Older compares dotted versions; missing parts are 0, and text that is no
// version is older than everything.
func Older(v, than string) bool {
	a, b := strings.Split(v, "."), strings.Split(than, ".")
	for i := range max(len(a), len(b)) {
		x, y := part(a, i), part(b, i)
		if x != y {
			return x < y
		}
	}
	return false
}

func part(s []string, i int) int {
	if i >= len(s) {
		return 0
	}
	n, err := strconv.Atoi(s[i])
	if err != nil {
		return -1
	}
	return n
}

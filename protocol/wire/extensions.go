package wire

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/secret"
	"github.com/azguest/azguest/protocol"
	"github.com/azguest/azguest/protocol/internal/settings"
)

// Extensions is ExtensionsConfig (protocol/SPEC.md §6). OnHold is not part of
// the document: it is in the blob at ArtifactsProfile.
type Extensions struct {
	protocol.Desired
	ArtifactsProfile secret.URL
}

// ParseExtensions reads ExtensionsConfig. A mistake in the part of one
// handler marks that handler Invalid and nothing else (protocol/SPEC.md §6.2).
func ParseExtensions(b []byte) (*Extensions, error) {
	root, err := parse("extensionsConfig", b)
	if err != nil {
		return nil, err
	}
	meta := root.below("InVMGoalStateMetaData")
	x := &Extensions{ArtifactsProfile: secret.NewURL(root.below("InVMArtifactsProfileBlob").text())}
	x.ActivityID, x.CorrelationID = meta.attr("activityId"), meta.attr("correlationId")
	// Unparsable is the same as missing: older than everything.
	x.CreatedTicks, _ = strconv.ParseInt(meta.attr("createdOnTicks"), 10, 64)
	for _, f := range root.below("RequiredFeatures").all("RequiredFeature") {
		if name := f.below("Name").text(); name != "" {
			x.RequiredFeatures = append(x.RequiredFeatures, name)
		}
	}
	if s := root.below("StatusUploadBlob"); s.text() != "" {
		x.StatusBlob = protocol.StatusBlob{URL: secret.NewURL(s.text()), Page: strings.EqualFold(s.attr("statusBlobType"), "PageBlob")}
	}
	for _, f := range root.below("GAFamilies").all("GAFamily") {
		x.Families = append(x.Families, family(f))
	}
	plugins, all := root.below("Plugins"), root.below("PluginSettings").all("Plugin")
	list := plugins.all("Plugin")
	if len(list) > protocol.MaxHandlers {
		return nil, &protocol.DocumentError{Doc: "extensionsConfig", Err: &bound.Error{What: "plugins", Max: protocol.MaxHandlers}}
	}
	if !plugins.ok() && len(all) > 0 {
		// An incomplete document must not remove every handler. What a goal
		// state does not name is deleted, unless it has an invalid entry
		// without a name, which may stand for any handler.
		x.Handlers = append(x.Handlers, protocol.Handler{Want: protocol.WantEnabled, Invalid: "PluginSettings without Plugins"})
	}
	sets := map[string]*pluginSet{}
	for _, s := range all {
		name := strings.ToLower(s.attr("name"))
		if sets[name] == nil {
			sets[name] = &pluginSet{}
		}
		sets[name].in = append(sets[name].in, s)
	}
	for _, p := range list {
		x.Handlers = append(x.Handlers, handler(p, sets))
	}
	return x, nil
}

// A pluginSet is what PluginSettings has for one name. It is parsed once, even
// if Plugins names it several times, so that all share the same texts.
type pluginSet struct {
	in   []node
	done bool
	as   protocol.Handler // with the fields that the settings determine
	err  error
}

func family(f node) protocol.AgentFamily {
	out := protocol.AgentFamily{
		Name: f.child("Name").text(), Version: f.child("Version").text(), FromVersion: f.child("FromVersion").text(),
		VersionByRSM: tristate(f.child("IsVersionFromRSM")), RSMEnabled: tristate(f.child("IsVMEnabledForRSMUpgrades")),
	}
	for _, u := range f.child("Uris").all("Uri") {
		if u.text() != "" {
			out.ManifestURIs = append(out.ManifestURIs, secret.NewURL(u.text()))
		}
	}
	return out
}

// tristate: absent is nil, else whether the text is "true" in any case.
func tristate(n node) *bool {
	if !n.ok() {
		return nil
	}
	v := strings.EqualFold(n.text(), "true")
	return &v
}

func handler(p node, sets map[string]*pluginSet) protocol.Handler {
	h := protocol.Handler{Name: p.attr("name"), Version: p.attr("version"), Signature: p.attr("encodedSignature")}
	add := func(u string) {
		if u != "" {
			h.Manifests = append(h.Manifests, secret.NewURL(u))
		}
	}
	add(p.attr("location"))
	add(p.attr("failoverlocation"))
	for _, l := range p.below("additionalLocations").all("additionalLocation") {
		add(l.text())
	}
	state := p.attr("state")
	var ok bool
	if h.Want, ok = settings.Want(state); !ok {
		h.Invalid = "unknown state " + bound.Quote(state)
		if state == "" {
			h.Invalid = "received empty state"
		}
	}
	switch {
	case h.Name == "":
		h.Invalid = "received empty name"
	case h.Version == "":
		h.Invalid = "received empty version"
	}
	if h.Invalid != "" {
		return h
	}
	set := sets[strings.ToLower(h.Name)]
	if set == nil {
		return h
	}
	const shown = 3
	var others []string
	for _, s := range set.in {
		if v := s.attr("version"); v != h.Version && len(others) < shown {
			others = append(others, bound.Clip(v))
		}
	}
	switch {
	case len(others) > 0:
		h.Invalid = fmt.Sprintf("Extension PluginSettings Version Mismatch! Expected %s but found %s", bound.Clip(h.Version), strings.Join(others, ", "))
	case len(set.in) > 1:
		h.Invalid = fmt.Sprintf("found %d PluginSettings for one plugin", len(set.in))
	default:
		if !set.done {
			set.as.Name, set.done = h.Name, true
			set.err = pluginSettings(&set.as, set.in[0])
		}
		if set.err != nil {
			h.Invalid = set.err.Error()
			break
		}
		h.MultiConfig, h.Settings, h.Level, h.After = set.as.MultiConfig, set.as.Settings, set.as.Level, set.as.After
		if len(h.Settings) == 1 && !h.MultiConfig {
			h.Settings = slices.Clone(h.Settings)
			h.Settings[0].Name = h.Name // the case of which may differ
		}
	}
	return h
}

// pluginSettings fills in the settings of one handler.
func pluginSettings(h *protocol.Handler, p node) error {
	single, multi := p.all("RuntimeSettings"), p.all("ExtensionRuntimeSettings")
	depends := p.all("DependsOn")
	switch {
	case len(single) > 0 && len(multi) > 0:
		return fmt.Errorf("both RuntimeSettings and ExtensionRuntimeSettings")
	case len(single) > 1:
		return fmt.Errorf("%d RuntimeSettings", len(single))
	case len(multi) == 0:
		if len(depends) > 1 {
			return fmt.Errorf("%d DependsOn for a single-config extension", len(depends))
		}
		var d node
		if len(depends) == 1 {
			d = depends[0]
		}
		h.Level = level(d)
		if len(single) == 0 {
			h.After = after(d)
			return nil
		}
		s, err := one(single[0], h.Name)
		if err != nil {
			return err
		}
		s.Level, s.After = level(d), after(d)
		s.Want = protocol.WantEnabled
		h.Settings = []protocol.Settings{s}
		return nil
	}
	h.MultiConfig = true
	if len(multi) > protocol.MaxExtensions {
		return &bound.Error{What: "extensions of one handler", Max: protocol.MaxExtensions}
	}
	on := map[string]node{} // the last one counts
	for _, d := range depends {
		on[d.attr("name")] = d
	}
	seen := map[string]bool{}
	for _, m := range multi {
		name := m.attr("name")
		if name == "" {
			return fmt.Errorf("ExtensionRuntimeSettings without name")
		}
		if seen[name] {
			return fmt.Errorf("duplicate extension %s", bound.Clip(name))
		}
		seen[name] = true
		s, err := one(m, name)
		if err != nil {
			return err
		}
		s.Want = settings.InstanceWant(m.attr("state"))
		s.Level, s.After = level(on[name]), after(on[name])
		h.Settings = append(h.Settings, s)
	}
	if on[""].ok() {
		return fmt.Errorf("DependsOn without name for a multi-config extension")
	}
	return nil
}

// one reads a RuntimeSettings element. Text that is no JSON leaves the
// settings null, but the extension and its sequence number exist, so that
// its status can be reported (protocol/SPEC.md §6.3).
func one(n node, name string) (protocol.Settings, error) {
	s := protocol.Settings{Name: name}
	seq, err := strconv.Atoi(n.attr("seqNo"))
	if err != nil || seq < 0 {
		return s, fmt.Errorf("%s has invalid seqNo %s", bound.Clip(name), bound.Quote(n.attr("seqNo")))
	}
	s.Seq = seq
	text := []byte(n.text())
	if len(text) == 0 {
		return s, fmt.Errorf("%s has empty settings", bound.Clip(name))
	}
	if !json.Valid(text) {
		return s, nil
	}
	return s, settings.Runtime(text, &s)
}

// level is 0 for text that can't be parsed, and never negative: negative
// levels are for handlers to be removed.
func level(d node) int {
	n, err := strconv.Atoi(d.attr("dependencyLevel"))
	if err != nil {
		return 0
	}
	return max(0, n)
}

func after(d node) []protocol.Dependency {
	var out []protocol.Dependency
	for _, e := range d.all("DependsOnExtension") {
		out = append(out, protocol.Dependency{Handler: e.attr("handler"), Extension: e.attr("extension")})
	}
	return out
}

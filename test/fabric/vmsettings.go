package fabric

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode"
)

const defaultHostGAVersion = "1.0.8.175"

func (v *VM) vmSettings(r *request) *answer {
	f := v.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if v.cfg.NoVMSettings {
		return pluginError(http.StatusNotFound, "ResourceNotFound", "There is no "+r.URL.Path+".")
	}
	var a *answer
	if r.Header.Get("If-None-Match") == v.etag {
		a = reply(http.StatusNotModified, "", nil)
	} else {
		body, err := v.vmSettingsJSON(v.current)
		if err != nil {
			return pluginError(http.StatusInternalServerError, "InternalError", err.Error())
		}
		a = reply(http.StatusOK, "application/json; charset=utf-8", body)
	}
	a.header.Set("ETag", v.etag)
	return a.note("source", v.current.source)
}

type object = map[string]any

// vmSettingsJSON renders a goal state as the HostGAPlugin does; see
// protocol/SPEC.md §7.3 for where it differs from the XML.
func (v *VM) vmSettingsJSON(gs *goalState) ([]byte, error) {
	families := []object{}
	for _, family := range gs.families(v.f) {
		o := object{"name": family.Name, "uris": family.URIs}
		set := func(name, value string) {
			if value != "" {
				o[name] = value
			}
		}
		set("version", family.Version)
		set("fromVersion", family.FromVersion)
		if family.IsVersionFromRSM != nil {
			o["isVersionFromRSM"] = *family.IsVersionFromRSM
		}
		if family.IsVMEnabledForRSMUpgrades != nil {
			o["isVMEnabledForRSMUpgrades"] = *family.IsVMEnabledForRSMUpgrades
		}
		families = append(families, o)
	}
	goals := []object{}
	for _, h := range gs.handlers {
		goals = append(goals, handlerJSON(h))
	}
	doc := object{
		"hostGAPluginVersion":             or(gs.cfg.HostGAVersion, defaultHostGAVersion),
		"vmSettingsSchemaVersion":         "0.0",
		"activityId":                      gs.activity,
		"correlationId":                   gs.correlation,
		"inSvdSeqNo":                      gs.svdSeq,
		"certificatesRevision":            0,
		"extensionsLastModifiedTickCount": gs.ticks,
		"extensionGoalStatesSource":       gs.source,
		"onHold":                          gs.cfg.OnHold,
		"inVMMetadata": object{
			"subscriptionId": v.f.opts.Subscription, "resourceGroupName": v.f.opts.ResourceGroup, "vmName": v.name,
			"location": v.f.opts.Location, "vmId": v.id, "vmSize": v.size, "osType": "Linux",
			"vmImage": object{"publisher": "azguest", "offer": "fabric", "sku": "linux", "version": "1.0.0"},
		},
		"gaFamilies":          families,
		"extensionGoalStates": goals,
	}
	if !gs.cfg.NoStatusBlob {
		doc["statusUploadBlob"] = object{"statusBlobType": or(gs.cfg.StatusBlob, "BlockBlob"), "value": v.StatusURL()}
	}
	if len(gs.cfg.RequiredFeatures) > 0 {
		features := []object{}
		for _, name := range gs.cfg.RequiredFeatures {
			features = append(features, object{"name": name})
		}
		doc["requiredFeatures"] = features
	}
	var out any = doc
	if gs.cfg.MixedCaseKeys {
		b, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber()
		if err := d.Decode(&out); err != nil {
			return nil, err
		}
		n := 0
		out = mixCase(out, &n)
	}
	return json.MarshalIndent(out, "", "  ")
}

func handlerJSON(h handlerGoal) object {
	o := object{
		"name": h.name, "version": h.version, "location": h.location,
		// The platform itself spells this key in two ways; MixedCaseKeys varies
		// all keys.
		"failoverlocation": h.failover, "additionalLocations": h.additional,
		"state": h.state, "autoUpgrade": h.autoUpgrade, "runAsStartupTask": false, "isJson": true, "useExactVersion": true,
		"settingsSeqNo": 0, "isMultiConfig": h.multi,
	}
	if h.signature != "" {
		o["encodedSignature"] = h.signature
	}
	settings := []object{}
	for _, i := range h.instances {
		s := object{}
		if i.public != nil {
			s["publicSettings"] = string(i.public)
		}
		if i.protected != "" {
			s["protectedSettings"], s["protectedSettingsCertThumbprint"] = i.protected, i.thumbprint
		}
		switch {
		case h.multi:
			s["seqNo"], s["extensionName"], s["extensionState"] = i.seq, i.name, i.state
			settings = append(settings, s)
		case i.settings:
			o["settingsSeqNo"] = i.seq
			settings = append(settings, s)
		}
	}
	if len(settings) > 0 {
		o["settings"] = settings
	}
	if h.sequenced() {
		depends := []object{}
		for _, i := range h.instances {
			if i.level == 0 {
				continue
			}
			d := object{"dependencyLevel": i.level}
			on := []object{}
			for _, a := range i.after {
				on = append(on, object{"handler": a[0], "extension": a[1]})
			}
			if len(on) > 0 {
				d["dependsOnExtension"] = on
			}
			if h.multi {
				d["name"] = i.name
			}
			depends = append(depends, d)
		}
		o["dependsOn"] = depends
	}
	return o
}

// mixCase changes the case of keys in turn: unchanged, capitalized, lower case.
func mixCase(v any, n *int) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range sortedKeys(v) {
			*n++
			name := key
			switch *n % 3 {
			case 0:
				r := []rune(key)
				r[0] = unicode.ToUpper(r[0])
				name = string(r)
			case 1:
				name = strings.ToLower(key)
			}
			out[name] = mixCase(v[key], n)
		}
		return out
	case []any:
		for i := range v {
			v[i] = mixCase(v[i], n)
		}
	}
	return v
}

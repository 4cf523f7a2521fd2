package fabric

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

func (v *VM) extensionRoute(r *request, name string, run bool, query url.Values) (*answer, *apiError) {
	var e *extension
	for _, x := range v.extensions {
		if strings.EqualFold(x.name, name) && x.run == run {
			e = x
		}
	}
	missing := func() *apiError {
		kind := "extensions"
		if run {
			kind = "runCommands"
		}
		return refuse(http.StatusNotFound, "ResourceNotFound",
			"The Resource 'Microsoft.Compute/virtualMachines/%s/%s/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
			v.name, kind, name, v.f.opts.ResourceGroup)
	}
	switch r.Method {
	case http.MethodGet:
		if e == nil || e.transient() {
			return nil, missing()
		}
		return replyJSON(http.StatusOK, e.resource(query)), nil
	case http.MethodPut, http.MethodPatch:
		if e == nil && r.Method == http.MethodPatch {
			return nil, missing()
		}
		return v.put(r, e, name, run)
	case http.MethodDelete:
		if e == nil {
			return reply(http.StatusNoContent, "", nil), nil
		}
		return v.remove(r, e)
	}
	return nil, notAllowed(r)
}

// allowed returns the error with which extension operations are rejected in the
// VM's current state.
func (v *VM) allowed() *apiError {
	if v.cfg.NoAgent || v.noExtensions {
		return refuse(http.StatusConflict, "OperationNotAllowed", "This operation cannot be performed when extension operations are disallowed. To allow, please ensure VM Agent is installed on the VM and the osProfile.allowExtensionOperations property is true.")
	}
	if v.cfg.Stopped {
		return refuse(http.StatusConflict, "OperationNotAllowed", "Cannot modify extensions in the VM when the VM is not running.")
	}
	return nil
}

// put creates or updates an extension or a run command.
func (v *VM) put(r *request, old *extension, name string, run bool) (*answer, *apiError) {
	var body resourceBody
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	if err := misspelt(r, "ResourceDefinition", nil, resourceMembers...); err != nil {
		return nil, err
	}
	if err := v.allowed(); err != nil {
		return nil, err
	}
	e, err := v.accept(body, old, name, run, r.Method == http.MethodPatch)
	if err != nil {
		return nil, err
	}
	v.install(e, old)
	code := http.StatusOK
	if old == nil {
		code = http.StatusCreated
	}
	a := replyJSON(code, e.resource(url.Values{}))
	v.f.pollHeaders(r, a, e.op, false)
	return a, nil
}

// accept checks a request and builds the extension from it.
func (v *VM) accept(body resourceBody, old *extension, name string, run, patch bool) (*extension, *apiError) {
	if err := body.normalize(run); err != nil {
		return nil, err
	}
	if patch {
		body.complete(old, run)
	}
	body.Location = regionName(or(body.Location, v.f.opts.Location))
	if old != nil {
		name = old.name // the first spelling is kept, here and in the guest
		if body.Location != old.body.Location {
			return nil, refuse(http.StatusConflict, "InvalidResourceLocation",
				"The resource '%s/%s' already exists in location '%s' in resource group '%s'. A resource with the same name cannot be created in location '%s'. Please select a new resource name.",
				v.name, name, old.body.Location, v.f.opts.ResourceGroup, body.Location)
		}
	}
	e := &extension{vm: v, name: name, run: run, body: body}
	if run {
		return v.acceptRunCommand(e)
	}
	e.publisher, e.kind, e.requested = e.text("publisher"), e.text("type"), e.text("typeHandlerVersion")
	for _, required := range []string{"publisher", "type", "typeHandlerVersion"} {
		if e.text(required) == "" {
			return nil, refuse(http.StatusBadRequest, "InvalidParameter", "Required parameter '%s' is missing (null).", required)
		}
	}
	var err *apiError
	if e.settings, err = settingsObject(body.Properties["settings"], "settings"); err != nil {
		return nil, err
	}
	if e.protected, err = settingsObject(body.Properties["protectedSettings"], "protectedSettings"); err != nil {
		return nil, err
	}
	delete(body.Properties, "protectedSettings") // never returned
	if e.settings != nil {
		body.Properties["settings"] = e.settings
	}
	if raw, ok := body.Properties["provisionAfterExtensions"]; ok {
		if json.Unmarshal(raw, &e.after) != nil {
			return nil, refuse(http.StatusBadRequest, "InvalidParameter", "The value of parameter provisionAfterExtensions is invalid.")
		}
	}
	if err := v.resolve(e, old); err != nil {
		return nil, err
	}
	return e, nil
}

// Properties of an extension and of a managed run command, in their usual case.
var (
	extensionProperties = []string{
		"publisher", "type", "typeHandlerVersion", "autoUpgradeMinorVersion", "enableAutomaticUpgrade", "forceUpdateTag",
		"settings", "protectedSettings", "protectedSettingsFromKeyVault", "suppressFailures", "provisionAfterExtensions", "instanceView", "provisioningState",
	}
	runProperties = []string{
		"source", "parameters", "protectedParameters", "asyncExecution", "runAsUser", "runAsPassword", "timeoutInSeconds", "outputBlobUri", "errorBlobUri",
		"scriptUriManagedIdentity", "outputBlobManagedIdentity", "errorBlobManagedIdentity", "treatFailureAsDeploymentFailure", "instanceView", "provisioningState",
	}
)

// normalize gives property names their usual case, since ARM ignores case, and
// drops nulls and read-only properties. Properties that do not exist are refused,
// as by ARM: what is meant as a secret would be returned under the wrong name.
func (b *resourceBody) normalize(run bool) *apiError {
	kind, known := "VirtualMachineExtension", extensionProperties
	if run {
		kind, known = "VirtualMachineRunCommand", runProperties
	}
	out := map[string]json.RawMessage{}
	for _, key := range slices.Sorted(maps.Keys(b.Properties)) {
		i := slices.IndexFunc(known, func(k string) bool { return strings.EqualFold(k, key) })
		switch {
		case i < 0:
			text := fmt.Sprintf("Could not find member '%[1]s' on object of type '%[2]s'. Path 'properties.%[1]s'.", key, kind)
			if near := nearest(key, known); near != "" {
				text += " Did you mean '" + near + "'?"
			}
			return refuse(http.StatusBadRequest, "InvalidRequestContent", "The request content was invalid and could not be deserialized: '%s'.", text)
		case string(b.Properties[key]) == "null" || known[i] == "instanceView" || known[i] == "provisioningState":
		default:
			out[known[i]] = b.Properties[key]
		}
	}
	b.Properties = out
	return nil
}

// complete turns a PATCH into the whole resource: properties that it does not
// name keep their values.
func (b *resourceBody) complete(old *extension, run bool) {
	merged := maps.Clone(old.body.Properties)
	if old.protected != nil && !run {
		merged["protectedSettings"] = old.protected
	}
	maps.Copy(merged, b.Properties)
	b.Properties = merged
	b.Location = or(b.Location, old.body.Location)
	if b.Tags == nil {
		b.Tags = old.body.Tags
	}
}

func (e *extension) text(name string) string {
	var s string
	_ = json.Unmarshal(e.body.Properties[name], &s) // anything but a string counts as absent
	return s
}

// settingsObject accepts an object, or a string that holds one.
func settingsObject(raw json.RawMessage, name string) (json.RawMessage, *apiError) {
	if raw == nil {
		return nil, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		if strings.TrimSpace(text) == "" {
			return nil, nil
		}
		raw = json.RawMessage(text)
	}
	// There are handlers whose protected settings are a list.
	var o map[string]json.RawMessage
	var list []json.RawMessage
	if json.Unmarshal(raw, &o) != nil && (name != "protectedSettings" || json.Unmarshal(raw, &list) != nil) {
		return nil, refuse(http.StatusBadRequest, "InvalidParameter", "The value of parameter %s is invalid.", name)
	}
	return raw, nil
}

// resolve looks up the handler and its version, and rejects what CRP rejects.
func (v *VM) resolve(e, old *extension) *apiError {
	if old != nil && !strings.EqualFold(old.handler(), e.handler()) {
		return refuse(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property 'publisher' or 'type' of VM extension '%s' is not allowed.", e.name)
	}
	h := v.f.packages[strings.ToLower(e.handler())]
	if h == nil {
		return refuse(http.StatusNotFound, "ArtifactNotFound", "The VM extension with publisher '%s' and type '%s' could not be found.", e.publisher, e.kind)
	}
	parts, ok := parseVersion(e.requested)
	if !ok || len(parts) > 2 {
		return refuse(http.StatusBadRequest, "InvalidParameter", "The value of parameter typeHandlerVersion is invalid.")
	}
	version, ok := h.choose(e.requested, e.autoUpgrade())
	if !ok {
		return refuse(http.StatusNotFound, "ArtifactVersionNotFound", "The VM extension with publisher '%s', type '%s' and version '%s' could not be found.", e.publisher, e.kind, e.requested)
	}
	e.publisher, e.kind = splitHandler(h.name)
	e.version, e.multi = version, h.versions[version].multi
	for _, other := range v.extensions {
		if other == old || other.deleting || !strings.EqualFold(other.handler(), e.handler()) {
			continue
		}
		if !e.multi {
			return refuse(http.StatusBadRequest, "BadRequest", "Multiple VMExtensions per handler not supported for OS type 'Linux'. VMExtension '%s' with handler '%s' already added or specified in input.", other.name, e.handler())
		}
		other.version = version // all extensions of a handler have the same version
	}
	return nil
}

// install stores an accepted extension and announces it.
func (v *VM) install(e, old *extension) {
	e.state = stateCreating
	changed := true
	if old != nil {
		e.state = stateUpdating
		changed = !sameSettings(e, old) || old.state == stateFailed
		if old.pending() && old.op != nil {
			old.op.finish(&apiError{Code: "OperationPreempted", Message: "The operation has been preempted by a more recent operation."})
		}
		e.sealed, e.sealedThumbprint, e.sealedFor = old.sealed, old.sealedThumbprint, old.sealedFor
		if changed {
			e.sealedFor = nil
		}
		v.extensions[slices.Index(v.extensions, old)] = e
	} else {
		v.extensions = append(v.extensions, e)
	}
	e.nextSeq(changed)
	e.op = v.f.newOperation(v, nil)
	e.since = time.Now()
	v.announce(v.cfg.FastTrack)
	e.ordinal = v.current.ordinal
}

func (v *VM) remove(r *request, e *extension) (*answer, *apiError) {
	if err := v.allowed(); err != nil {
		return nil, err
	}
	if e.pending() && e.op != nil {
		e.op.finish(&apiError{Code: "OperationPreempted", Message: "The operation has been preempted by a more recent operation."})
	}
	e.deleting, e.state, e.failure, e.since = true, stateDeleting, nil, time.Now()
	e.op = v.f.newOperation(v, nil)
	// A disabled instance of a multi-config handler gets a new sequence number
	// so that the guest sees the change.
	if e.multi {
		e.nextSeq(true)
	}
	v.announce(v.cfg.FastTrack)
	e.ordinal = v.current.ordinal
	a := reply(http.StatusAccepted, "", nil)
	v.f.pollHeaders(r, a, e.op, true)
	return a, nil
}

func (v *VM) resourceID() string {
	return v.f.groupID() + "/providers/Microsoft.Compute/virtualMachines/" + v.name
}

// resource is the extension as ARM returns it.
func (e *extension) resource(query url.Values) object {
	properties := object{}
	for key, raw := range e.body.Properties {
		properties[key] = raw
	}
	if !e.run {
		properties["publisher"], properties["type"], properties["typeHandlerVersion"] = e.publisher, e.kind, e.requested
		if _, ok := properties["autoUpgradeMinorVersion"]; !ok {
			properties["autoUpgradeMinorVersion"] = false
		}
	}
	properties["provisioningState"] = e.state
	if strings.EqualFold(query.Get("$expand"), "instanceView") {
		properties["instanceView"] = e.instanceView()
	}
	o := object{
		"id": e.vm.resourceID() + "/" + e.resourceType() + "/" + e.name, "name": e.name,
		"type": "Microsoft.Compute/virtualMachines/" + e.resourceType(), "location": e.body.Location, "properties": properties,
	}
	if len(e.body.Tags) > 0 {
		o["tags"] = e.body.Tags
	}
	return o
}

// instanceView is built from the guest's last status document
// (extensions/SPEC.md §17.5).
func (e *extension) instanceView() object {
	if e.run {
		return e.runView()
	}
	view := object{"name": e.name}
	if e.vm.status == nil {
		return view
	}
	row := e.vm.status.row(e.handler(), e.name, e.multi)
	if row == nil {
		return view
	}
	view["type"], view["typeHandlerVersion"] = row.Name, row.Version
	at := e.vm.lastStatus.UTC().Format(armTime)
	if row.Settings == nil {
		s := statusView("success", 0, row.Message.Message)
		if !strings.EqualFold(row.Status, "Ready") {
			s = statusView("error", int(row.Code), row.Message.Message)
		}
		s["time"] = at
		view["statuses"] = []any{s}
		return view
	}
	x := row.Settings.Status.Status
	s := statusView(x.Status, int(x.Code), x.Message.Message)
	s["time"] = at
	view["statuses"] = []any{s}
	if len(x.Substatus) > 0 {
		subs := []any{}
		for _, sub := range x.Substatus {
			level, display := levelOf(sub.Status)
			subs = append(subs, object{"code": "ComponentStatus/" + sub.Name + "/" + componentState(sub.Status), "level": level, "displayStatus": display, "message": sub.Message.Message})
		}
		view["substatuses"] = subs
	}
	return view
}

func componentState(status string) string {
	switch status {
	case "success":
		return "succeeded"
	case "error":
		return "failed"
	}
	return status
}

func levelOf(status string) (level, display string) {
	switch status {
	case "success":
		return "Info", "Provisioning succeeded"
	case "error":
		return "Error", "Provisioning failed"
	case "warning":
		return "Warning", "Provisioning warning"
	}
	return "Info", "Transitioning"
}

func statusView(status string, code int, message string) object {
	level, display := levelOf(status)
	text := "ProvisioningState/" + componentState(status)
	if status == "error" {
		b, _ := json.Marshal(code) // an int always encodes
		text += "/" + string(b)
	}
	return object{"code": text, "level": level, "displayStatus": display, "message": message}
}

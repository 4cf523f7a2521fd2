package fabric

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// silentAfter is the age of the last status after which the platform calls the
// agent unresponsive.
const silentAfter = 10 * time.Minute

// resource is the VM as ARM returns it.
func (v *VM) resource(query url.Values) object {
	p := v.setup
	linux := object{
		"disablePasswordAuthentication": p.passwordsDisabled(), "provisionVMAgent": !v.cfg.NoAgent, "enableVMAgentPlatformUpdates": false,
		"patchSettings": object{"patchMode": "ImageDefault", "assessmentMode": "ImageDefault"},
	}
	if len(p.SSHKeys) > 0 {
		keys := []any{}
		for _, k := range p.SSHKeys {
			keys = append(keys, object{"path": "/home/" + p.User + "/.ssh/authorized_keys", "keyData": k})
		}
		linux["ssh"] = object{"publicKeys": keys}
	}
	properties := object{
		"vmId": v.id, "hardwareProfile": object{"vmSize": v.size}, "provisioningState": v.provisioningState(),
		"osProfile": object{
			"computerName": p.HostName, "adminUsername": p.User, "linuxConfiguration": linux,
			"secrets": []any{}, "allowExtensionOperations": !v.cfg.NoAgent && !v.noExtensions,
		},
		"storageProfile": object{
			"imageReference": object{"publisher": "azguest", "offer": "fabric", "sku": "linux", "version": "latest", "exactVersion": "1.0.0"},
			"osDisk": object{
				"osType": "Linux", "name": v.diskName(), "createOption": "FromImage", "caching": "ReadWrite", "deleteOption": "Detach", "diskSizeGB": diskGB,
				"managedDisk": object{"id": v.diskID(), "storageAccountType": "Premium_LRS"},
			},
			"dataDisks": []any{}, "diskControllerType": "SCSI",
		},
		"networkProfile": object{"networkInterfaces": []any{object{"id": v.nicID(), "properties": object{"primary": true}}}},
		"timeCreated":    v.created.UTC().Format(armTime),
	}
	if v.terminateNotice > 0 {
		properties["scheduledEventsProfile"] = object{"terminateNotificationProfile": object{
			"enable": true, "notBeforeTimeout": fmt.Sprintf("PT%dM", int(v.terminateNotice.Minutes())),
		}}
	}
	if v.budget != "" {
		properties["extensionsTimeBudget"] = v.budget
	}
	switch strings.ToLower(query.Get("$expand")) {
	case "instanceview":
		properties["instanceView"] = v.instanceView()
	case "userdata":
		if len(p.UserData) > 0 {
			properties["userData"] = base64.StdEncoding.EncodeToString(p.UserData)
		}
	}
	o := object{
		"id": v.resourceID(), "name": v.name, "type": "Microsoft.Compute/virtualMachines",
		"location": v.f.opts.Location, "properties": properties,
	}
	if len(v.tags) > 0 {
		o["tags"] = v.tags
	}
	resources := []any{}
	for _, e := range v.extensions {
		if !e.run && !e.transient() {
			resources = append(resources, e.resource(url.Values{}))
		}
	}
	if len(resources) > 0 {
		o["resources"] = resources
	}
	return o
}

func (v *VM) provisioningState() string {
	state := stateSucceeded
	for _, e := range v.extensions {
		switch {
		case e.pending():
			return stateUpdating
		case e.state == stateFailed:
			state = stateFailed
		}
	}
	return state
}

func (v *VM) patch(r *request) (*answer, *apiError) {
	var body struct {
		Tags       map[string]string `json:"tags"`
		Properties struct {
			Budget *string `json:"extensionsTimeBudget"`
			OS     struct {
				Allow *bool `json:"allowExtensionOperations"`
			} `json:"osProfile"`
			UserData *string        `json:"userData"`
			Events   *eventsProfile `json:"scheduledEventsProfile"`
		} `json:"properties"`
	}
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	for _, o := range []struct {
		kind  string
		path  []string
		known []string
	}{
		{"ResourceDefinition", nil, resourceMembers},
		{"VirtualMachine", []string{"properties"}, []string{"extensionsTimeBudget", "osProfile", "hardwareProfile", "storageProfile", "networkProfile", "securityProfile", "diagnosticsProfile", "userData", "scheduledEventsProfile"}},
		{"OSProfile", []string{"properties", "osProfile"}, []string{"allowExtensionOperations", "adminUsername", "adminPassword", "computerName", "customData", "linuxConfiguration", "windowsConfiguration", "secrets"}},
	} {
		if err := misspelt(r, o.kind, o.path, o.known...); err != nil {
			return nil, err
		}
	}
	if b := body.Properties.Budget; b != nil {
		if d, ok := parsePeriod(*b); !ok || d < 15*time.Minute || d > 2*time.Hour {
			return nil, refuse(http.StatusBadRequest, "InvalidParameter", "The value of parameter extensionsTimeBudget is invalid.")
		}
		v.budget = *b
	}
	if allow := body.Properties.OS.Allow; allow != nil {
		if *allow && v.cfg.NoAgent {
			return nil, refuse(http.StatusBadRequest, "InvalidParameter", "allowExtensionOperations cannot be set to true when provisionVMAgent is false.")
		}
		v.noExtensions = !*allow
	}
	if err := v.patchData(body.Properties.UserData, body.Properties.Events, body.Tags); err != nil {
		return nil, err
	}
	o := v.f.newOperation(v, nil)
	o.finish(nil)
	a := replyJSON(http.StatusOK, v.resource(url.Values{}))
	v.f.pollHeaders(r, a, o, false)
	return a, nil
}

// An eventsProfile says how long before its deletion a machine is told.
type eventsProfile struct {
	Terminate struct {
		Enable    bool   `json:"enable"`
		NotBefore string `json:"notBeforeTimeout"`
	} `json:"terminateNotificationProfile"`
}

// patchData changes the user data, the notice of a deletion and the tags; what is
// nil stays.
func (v *VM) patchData(userData *string, profile *eventsProfile, tags map[string]string) *apiError {
	invalid := func(parameter string) *apiError {
		return refuse(http.StatusBadRequest, "InvalidParameter", "The value of parameter %s is invalid.", parameter)
	}
	data, err := base64.StdEncoding.DecodeString(*cmp.Or(userData, new(string)))
	if err != nil || len(data) > maxUserData {
		return invalid("userData")
	}
	var notice time.Duration
	if profile != nil && profile.Terminate.Enable {
		d, ok := parsePeriod(or(profile.Terminate.NotBefore, "PT5M"))
		if !ok || d < 5*time.Minute || d > 15*time.Minute {
			return invalid("terminateNotificationProfile.notBeforeTimeout")
		}
		notice = d
	}
	for name, value := range tags {
		if err := CheckTag(name, value); err != nil {
			return refuse(http.StatusBadRequest, "InvalidTagName", "%v.", err)
		}
	}
	if userData != nil {
		v.setup.UserData = data
	}
	if profile != nil {
		v.terminateNotice = notice
	}
	if tags != nil {
		v.tags = tags
	}
	return nil
}

// powerActions are the actions that power handles.
var powerActions = []string{"reapply", "restart", "start", "deallocate", "poweroff", "redeploy", "performmaintenance"}

// power handles the actions that concern the goal state. It starts and stops
// nothing: the guest is not under the fabric's control. If the guest watches
// scheduled events, those that interrupt it are announced first, and the
// operation ends with the event.
func (v *VM) power(r *request, action string) (*answer, *apiError) {
	if kind := map[string]string{"restart": Reboot, "redeploy": Redeploy, "performmaintenance": Redeploy}[action]; kind != "" && v.events.watched() {
		o := v.f.newOperation(v, nil)
		if _, err := v.schedule(ScheduledEvent{Type: kind, Source: FromUser}, o); err != nil {
			return nil, refuse(http.StatusInternalServerError, "InternalExecutionError", "%v", err)
		}
		a := reply(http.StatusAccepted, "", nil)
		v.f.pollHeaders(r, a, o, true)
		return a, nil
	}
	switch action {
	case "reapply":
		v.announce(v.cfg.FastTrack)
	case "restart":
		v.announce(false)
	case "redeploy", "performmaintenance":
		v.newContainer()
		v.announce(false)
	case "start":
		v.cfg.Stopped = false
		v.newContainer()
		v.announce(false)
	default:
		v.cfg.Stopped = true
	}
	o := v.f.newOperation(v, nil)
	o.finish(nil)
	a := reply(http.StatusAccepted, "", nil)
	v.f.pollHeaders(r, a, o, true)
	return a, nil
}

// simulateEviction announces the eviction of a Spot VM. The platform refuses it
// for other machines; here every one can be evicted.
func (v *VM) simulateEviction() (*answer, *apiError) {
	if _, err := v.schedule(ScheduledEvent{Type: Preempt}, nil); err != nil {
		return nil, refuse(http.StatusInternalServerError, "InternalExecutionError", "%v", err)
	}
	return reply(http.StatusNoContent, "", nil), nil
}

// instanceView is the VM's instance view, with what the agent reported about
// itself.
func (v *VM) instanceView() object {
	agentStatus := func(code, level, display, message string, at time.Time) object {
		return object{"code": code, "level": level, "displayStatus": display, "message": message, "time": at.UTC().Format(armTime)}
	}
	agent := object{"vmAgentVersion": "Unknown"}
	view := object{"hyperVGeneration": "V2", "vmAgent": agent, "disks": []any{}}
	extensions := []any{}
	switch s := v.status; {
	case s == nil:
		message := "VM status blob is found but not yet populated."
		agent["statuses"] = []any{agentStatus("ProvisioningState/Unavailable", "Warning", "Not Ready", message, time.Now())}
	case time.Since(v.lastStatus) > silentAfter:
		agent["statuses"] = []any{agentStatus("ProvisioningState/Unavailable", "Warning", "Not Ready", "VM Agent is unresponsive.", time.Now())}
	default:
		agent["vmAgentVersion"] = s.Aggregate.Agent.Version
		agent["statuses"] = []any{agentStatus("ProvisioningState/succeeded", "Info", or(s.Aggregate.Agent.Status, "Ready"), s.Aggregate.Agent.Message.Message, v.lastStatus)}
		handlers := []any{}
		seen := map[string]bool{}
		for _, h := range s.Aggregate.Handlers {
			if seen[strings.ToLower(h.Name)] {
				continue
			}
			seen[strings.ToLower(h.Name)] = true
			status := agentStatus("ProvisioningState/succeeded", "Info", "Ready", h.Message.Message, v.lastStatus)
			delete(status, "time")
			if !strings.EqualFold(h.Status, "Ready") {
				status = statusView("error", int(h.Code), h.Message.Message)
				status["displayStatus"] = "Not Ready"
			}
			handlers = append(handlers, object{"type": h.Name, "typeHandlerVersion": h.Version, "status": status})
		}
		agent["extensionHandlers"] = handlers
		view["computerName"], view["osName"], view["osVersion"] = s.OS.Computer, s.OS.Name, s.OS.Version
	}
	for _, e := range v.extensions {
		if !e.run && !e.transient() {
			extensions = append(extensions, e.instanceView())
		}
	}
	view["extensions"] = extensions
	own := object{"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Provisioning succeeded", "time": time.Now().UTC().Format(armTime)}
	switch v.provisioningState() {
	case stateUpdating:
		own["code"], own["displayStatus"] = "ProvisioningState/updating", "Updating"
	case stateFailed:
		own["code"], own["level"], own["displayStatus"] = "ProvisioningState/failed/VMExtensionProvisioningError", "Error", "Provisioning failed"
	}
	power := object{"code": "PowerState/running", "level": "Info", "displayStatus": "VM running"}
	if v.cfg.Stopped {
		power["code"], power["displayStatus"] = "PowerState/deallocated", "VM deallocated"
	}
	view["statuses"] = []any{own, power}
	return view
}

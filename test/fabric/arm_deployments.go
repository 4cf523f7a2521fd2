package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric/armtemplate"
)

// States of a deployment, in addition to Succeeded and Failed.
const (
	stateAccepted = "Accepted"
	stateRunning  = "Running"
	stateCanceled = "Canceled"
)

// A deployment is a template and the state of its resources.
type deployment struct {
	f           *Fabric
	group, name string // the group in lower case
	location    string
	tags        map[string]string
	correlation string
	hash        string
	raw         json.RawMessage
	template    *armtemplate.Template
	items       []*deployItem

	op             *operation
	state          string
	failure        *apiError
	outputs        object
	started, ended time.Time
}

func (d *deployment) groupName() string { return d.f.groups[d.group].name }

func (d *deployment) id() string {
	return "/subscriptions/" + d.f.opts.Subscription + "/resourceGroups/" + d.groupName() + "/providers/Microsoft.Resources/deployments/" + d.name
}

func (d *deployment) running() bool { return d.state == stateAccepted || d.state == stateRunning }

func (f *Fabric) deploymentNamed(group, name string) *deployment {
	for _, d := range f.deployments {
		if d.group == strings.ToLower(group) && strings.EqualFold(d.name, name) {
			return d
		}
	}
	return nil
}

// deploymentRoute serves the deployments of a group; rest begins with the name.
func (f *Fabric) deploymentRoute(r *request, group string, rest []string) (*answer, *apiError) {
	if f.groups[strings.ToLower(group)] == nil {
		return nil, unknownGroup(group)
	}
	if len(rest) == 0 {
		if r.Method != http.MethodGet {
			return nil, notAllowed(r)
		}
		list := []any{}
		for _, d := range f.deployments {
			if d.group == strings.ToLower(group) {
				list = append(list, d.resource())
			}
		}
		return replyJSON(http.StatusOK, object{"value": list}), nil
	}
	d := f.deploymentNamed(group, rest[0])
	action := strings.ToLower(strings.Join(rest[1:min(2, len(rest))], ""))
	switch do := r.Method + " " + action; {
	case do == "PUT ":
		return f.putDeployment(r, d, group, rest[0])
	case do == "POST validate":
		return f.validateDeployment(r, group, rest[0])
	case d == nil && do == "DELETE ":
		return reply(http.StatusNoContent, "", nil), nil
	case d == nil:
		return nil, refuse(http.StatusNotFound, "DeploymentNotFound", "Deployment '%s' could not be found.", rest[0])
	case do == "GET ":
		return replyJSON(http.StatusOK, d.resource()), nil
	case do == "HEAD ":
		return reply(http.StatusNoContent, "", nil), nil
	case do == "DELETE ":
		return d.remove(r)
	case do == "POST cancel":
		return d.cancel()
	case do == "POST exporttemplate":
		return replyJSON(http.StatusOK, object{"template": d.raw}), nil
	case do == "GET operations" && len(rest) == 2:
		return replyJSON(http.StatusOK, object{"value": d.operations("")}), nil
	case do == "GET operations":
		if list := d.operations(rest[2]); len(list) == 1 {
			return replyJSON(http.StatusOK, list[0]), nil
		}
		return nil, refuse(http.StatusNotFound, "DeploymentOperationNotFound", "Deployment operation '%s' could not be found.", rest[2])
	case do == "GET operationstatuses" && len(rest) == 3 && strings.EqualFold(rest[2], d.op.id):
		return d.poll(), nil
	}
	return nil, notAllowed(r)
}

// readDeployment parses and checks a request and returns a deployment that is
// ready to run.
func (f *Fabric) readDeployment(r *request, group, name string) (*deployment, *apiError) {
	var body struct {
		Location   string            `json:"location"`
		Tags       map[string]string `json:"tags"`
		Properties struct {
			Mode           string          `json:"mode"`
			Template       json.RawMessage `json:"template"`
			TemplateLink   json.RawMessage `json:"templateLink"`
			Parameters     object          `json:"parameters"`
			ParametersLink json.RawMessage `json:"parametersLink"`
		} `json:"properties"`
	}
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	if err := misspelt(r, "DeploymentProperties", []string{"properties"}, "mode", "template", "templateLink", "parameters", "parametersLink", "debugSetting", "onErrorDeployment", "expressionEvaluationOptions"); err != nil {
		return nil, err
	}
	p := body.Properties
	bad := func(code, format string, args ...any) (*deployment, *apiError) {
		return nil, refuse(http.StatusBadRequest, code, format, args...)
	}
	switch {
	case strings.EqualFold(p.Mode, "Complete"):
		return bad("DeploymentModeNotSupported", "The deployment mode 'Complete' is not supported here: machines can't be deleted. Use 'Incremental'.")
	case !strings.EqualFold(p.Mode, "Incremental"):
		return bad("InvalidRequestContent", "The request content was invalid and could not be deserialized: 'Error converting value \"%s\" to type 'DeploymentMode'. Path 'properties.mode'.'.", p.Mode)
	case p.TemplateLink != nil || p.ParametersLink != nil:
		return nil, linkRefused()
	case len(p.Template) == 0 || p.Template[0] != '{':
		return bad("InvalidTemplate", "Deployment template validation failed: 'The template is not an object.'.")
	}
	d := &deployment{
		f: f, group: strings.ToLower(group), name: name, location: body.Location, tags: body.Tags, raw: p.Template,
		correlation: or(r.Header.Get("x-ms-correlation-request-id"), newGUID()), hash: armtemplate.Hash(canonical(p.Template)), state: stateAccepted, started: time.Now(),
	}
	template, err := armtemplate.Parse(p.Template, templateHost{d})
	if err != nil {
		return nil, invalid(err)
	}
	d.template = template
	var parts object
	if err := armtemplate.Decode(p.Template, &parts); err != nil {
		return nil, invalid(err)
	}
	if text := misspeltInTemplate(parts, ""); text != "" {
		return nil, invalid(errors.New(text))
	}
	for _, key := range sortedKeys(p.Parameters) {
		o, _ := p.Parameters[key].(object)
		v, ok := armtemplate.Property(o, "value")
		switch _, linked := armtemplate.Property(o, "reference"); {
		case linked:
			return bad("KeyVaultParameterReferenceNotSupported", "The value of deployment parameter '%s' is in a key vault, which is not supported here.", key)
		case !ok || v == nil:
			if !template.Nullable(key) {
				return bad("InvalidDeploymentParameterValue", "The value of deployment parameter '%s' is null. Please specify the value or use the parameter reference. See https://aka.ms/resource-manager-parameter-files for details.", key)
			}
		}
		template.SetParameter(key, v)
	}
	if err := d.plan(); err != nil {
		return nil, err
	}
	return d, nil
}

func (f *Fabric) putDeployment(r *request, old *deployment, group, name string) (*answer, *apiError) {
	if len(name) > 64 {
		return nil, refuse(http.StatusBadRequest, "InvalidDeploymentName", "The deployment name '%s' is longer than 64 characters.", name)
	}
	if old != nil && old.running() {
		return nil, refuse(http.StatusConflict, "DeploymentActive", "Unable to edit or replace deployment '%s': previous deployment from '%s' is still active. Please see https://aka.ms/arm-deploy for usage details.",
			old.name, old.started.UTC().Format(armTime))
	}
	d, err := f.readDeployment(r, group, name)
	if err != nil {
		return nil, err
	}
	d.op = f.newOperation(nil, nil)
	code := http.StatusCreated
	if old != nil {
		code, d.name = http.StatusOK, old.name
		f.deployments[slices.Index(f.deployments, old)] = d
	} else {
		f.deployments = append(f.deployments, d)
	}
	a := replyJSON(code, d.resource())
	a.header.Set("Azure-AsyncOperation", here(r)+d.id()+"/operationStatuses/"+d.op.id+"?"+r.URL.RawQuery)
	a.header.Set("Retry-After", f.retryAfter())
	d.state = stateRunning
	return a, nil
}

func (f *Fabric) validateDeployment(r *request, group, name string) (*answer, *apiError) {
	d, err := f.readDeployment(r, group, name)
	if err != nil {
		return nil, err
	}
	d.state = stateSucceeded
	doc := d.resource()
	list := []any{}
	for _, it := range d.items {
		if it.state == "" {
			list = append(list, object{"id": it.ID})
		}
	}
	properties := doc["properties"].(object) //nolint:forcetypeassert // resource makes it an object
	properties["validatedResources"] = list
	delete(properties, "outputResources")
	return replyJSON(http.StatusOK, doc), nil
}

func (d *deployment) remove(r *request) (*answer, *apiError) {
	if d.running() {
		return nil, refuse(http.StatusConflict, "DeploymentActive", "Unable to delete deployment '%s': it is still active. Cancel it first.", d.name)
	}
	f := d.f
	f.deployments = slices.DeleteFunc(f.deployments, func(x *deployment) bool { return x == d })
	o := f.newOperation(nil, nil)
	o.finish(nil)
	a := reply(http.StatusAccepted, "", nil)
	a.header.Set("Location", here(r)+"/subscriptions/"+f.opts.Subscription+"/operationresults/"+o.id+"?"+r.URL.RawQuery)
	a.header.Set("Retry-After", f.retryAfter())
	return a, nil
}

func (d *deployment) cancel() (*answer, *apiError) {
	if !d.running() {
		return nil, refuse(http.StatusConflict, "DeploymentCannotBeCancelled", "The deployment '%s' cannot be cancelled because its provisioning state is '%s'.", d.name, d.state)
	}
	d.finish(stateCanceled, &apiError{Code: "DeploymentCanceled", Message: "The deployment was canceled."})
	return reply(http.StatusNoContent, "", nil), nil
}

func (d *deployment) finish(state string, failure *apiError) {
	d.state, d.failure, d.ended = state, failure, time.Now()
	d.op.finish(failure)
	detail := map[string]any{"deployment": d.name, "provisioningState": state}
	if failure != nil {
		detail["error"] = failure
	}
	d.f.journal.add(Entry{Kind: Change, Detail: detail})
}

func (d *deployment) poll() *answer {
	doc := object{"status": d.state}
	if d.failure != nil {
		doc["error"] = d.failure
	}
	a := replyJSON(http.StatusOK, doc)
	if d.running() {
		a.header.Set("Retry-After", d.f.retryAfter())
	}
	return a
}

// advanceDeployments advances every deployment until none changes any more,
// because one may wait for another.
func (f *Fabric) advanceDeployments() {
	for again := true; again; {
		again = false
		for i := 0; i < len(f.deployments); i++ { // advance may append
			if d := f.deployments[i]; d.state == stateRunning {
				again = d.advance() || again
			}
		}
	}
}

// advance records what has ended and starts what is ready, and reports whether
// anything has changed.
func (d *deployment) advance() (changed bool) {
	busy := false
	for _, it := range d.items {
		switch it.state {
		case stateRunning:
			if it.op == nil || it.op.state != "InProgress" {
				changed = true
				it.finish()
			}
		case "":
			ready := true
			for _, other := range it.needs {
				switch {
				case other.state == stateFailed, other.state == stateSkipped && !other.conditionFalse():
					it.state, changed, ready = stateSkipped, true, false
				case other.state == "", other.state == stateRunning:
					ready = false
				}
			}
			if ready {
				changed = true
				it.start()
			}
		}
		busy = busy || it.state == "" || it.state == stateRunning
	}
	if busy {
		return changed
	}
	var failures []*apiError
	for _, it := range d.items {
		if it.failure != nil {
			failures = append(failures, it.failure)
		}
	}
	if len(failures) > 0 {
		d.finish(stateFailed, &apiError{
			Code: "DeploymentFailed", Target: d.id(), Details: failures,
			Message: "At least one resource deployment operation failed. Please list deployment operations for details. Please see https://aka.ms/arm-deployment-operations for usage details.",
		})
		return true
	}
	outputs, err := d.template.Outputs()
	if err != nil {
		d.finish(stateFailed, &apiError{Code: "DeploymentOutputEvaluationFailed", Target: d.id(), Message: fmt.Sprintf("Unable to evaluate template outputs: '%v'. Please see https://aka.ms/arm-common-errors for usage details.", err)})
		return true
	}
	d.outputs = outputs
	d.finish(stateSucceeded, nil)
	return true
}

// resource is the deployment as ARM returns it.
func (d *deployment) resource() object {
	end := d.ended
	if end.IsZero() {
		end = time.Now()
	}
	made, dependencies, kinds := []any{}, []any{}, map[string][]any{}
	about := func(it *deployItem) object {
		return object{"id": it.ID, "resourceType": it.Type, "resourceName": it.Name}
	}
	for _, it := range d.items {
		if it.Existing || it.state == stateSkipped {
			continue
		}
		if it.state == stateSucceeded {
			made = append(made, object{"id": it.ID})
		}
		namespace, kind, _ := strings.Cut(it.Type, "/")
		kinds[namespace] = append(kinds[namespace], object{"resourceType": kind, "locations": []any{d.f.opts.Location}})
		if len(it.needs) > 0 {
			on, o := []any{}, about(it)
			for _, other := range it.needs {
				on = append(on, about(other))
			}
			o["dependsOn"] = on
			dependencies = append(dependencies, o)
		}
	}
	providers := []any{}
	for _, namespace := range sortedKeys(kinds) {
		providers = append(providers, object{"namespace": namespace, "resourceTypes": kinds[namespace]})
	}
	properties := object{
		"templateHash": d.hash, "parameters": d.template.Parameters(), "mode": "Incremental", "provisioningState": d.state, "correlationId": d.correlation,
		"timestamp": end.UTC().Format(armTime), "duration": period(d.started, end), "providers": providers, "dependencies": dependencies,
	}
	switch d.state {
	case stateSucceeded:
		properties["outputResources"], properties["outputs"] = made, d.outputs
	case stateFailed, stateCanceled:
		properties["outputResources"], properties["error"] = made, d.failure
	}
	o := object{"id": d.id(), "name": d.name, "type": "Microsoft.Resources/deployments", "properties": properties}
	if d.location != "" {
		o["location"] = d.location
	}
	if len(d.tags) > 0 {
		o["tags"] = d.tags
	}
	return o
}

func period(from, to time.Time) string {
	return "PT" + strconv.FormatFloat(to.Sub(from).Round(time.Microsecond).Seconds(), 'f', -1, 64) + "S"
}

// operations lists the deployment's operations that have started, or only the
// one with that id.
func (d *deployment) operations(id string) []any {
	list := []any{}
	for _, it := range d.items {
		if it.started.IsZero() || id != "" && !strings.EqualFold(id, it.operation) {
			continue
		}
		end := it.finished
		if end.IsZero() {
			end = time.Now()
		}
		properties := object{
			"provisioningOperation": "Create", "provisioningState": it.state, "timestamp": end.UTC().Format(armTime), "duration": period(it.started, end),
			"trackingId": it.operation, "statusCode": strings.ReplaceAll(http.StatusText(it.code), " ", ""),
			"targetResource": object{"id": it.ID, "resourceType": it.Type, "resourceName": it.Name},
		}
		if it.failure != nil {
			properties["statusMessage"] = object{"status": stateFailed, "error": it.failure}
		}
		list = append(list, object{"id": d.id() + "/operations/" + it.operation, "operationId": it.operation, "properties": properties})
	}
	return list
}

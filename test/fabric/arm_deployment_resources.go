package fabric

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric/armtemplate"
)

// deployable are the resource types that PUT supports, in lower case.
var deployable = []string{
	"microsoft.compute/virtualmachines", "microsoft.compute/virtualmachines/extensions", "microsoft.compute/virtualmachines/runcommands", "microsoft.resources/deployments",
}

// stateSkipped is the state of a resource whose condition is false, or that
// depends on one that failed.
const stateSkipped = "Skipped"

// A deployItem is one resource of a template, with the state of its deployment.
type deployItem struct {
	*armtemplate.Resource
	d                 *deployment
	needs             []*deployItem
	state             string // empty until it is started
	operation         string // its ID among the deployment's operations
	op                *operation
	code              int // HTTP status of the PUT
	failure           *apiError
	started, finished time.Time
}

func linkRefused() *apiError {
	return refuse(http.StatusBadRequest, "InvalidContentLink", "Unable to download deployment content: links are not supported here. Send the template itself.")
}

func invalid(err error) *apiError {
	return refuse(http.StatusBadRequest, "InvalidTemplate", "Deployment template validation failed: '%v.'", err)
}

// plan lists the resources to deploy. It reports every error that can be found
// in the template before the first resource is deployed.
func (d *deployment) plan() *apiError {
	if err := d.template.Check(); err != nil {
		return invalid(err)
	}
	resources, err := d.template.Resources()
	if err != nil {
		return invalid(err)
	}
	d.addItems(resources)
	for _, r := range resources {
		switch known := slices.Contains(deployable, strings.ToLower(r.Type)); {
		case r.Skipped:
			continue
		case !known && !r.Existing:
			return refuse(http.StatusBadRequest, "NoRegisteredProviderFound",
				"No registered resource provider found for location '%s' and API version '%s' for type '%s'. The supported types are '%s'.", d.f.opts.Location, r.APIVersion, r.Type, strings.Join(deployable, ", "))
		case r.Linked():
			return linkRefused()
		}
		if err := r.Check(); err != nil {
			return invalid(fmt.Errorf("the template resource '%s' is not valid: %w", r.Name, err))
		}
	}
	if err := d.template.CheckOutputs(); err != nil {
		return invalid(err)
	}
	return nil
}

func (d *deployment) addItems(resources []*armtemplate.Resource) {
	items := map[*armtemplate.Resource]*deployItem{}
	for _, r := range resources {
		it := &deployItem{Resource: r, d: d, operation: newGUID()}
		switch {
		case r.Skipped:
			it.state = stateSkipped
		case r.Existing:
			it.state = stateSucceeded
		}
		items[r] = it
		d.items = append(d.items, it)
	}
	for _, it := range d.items {
		for _, r := range it.Needs {
			it.needs = append(it.needs, items[r])
		}
	}
}

// conditionFalse reports whether the resource was skipped because of its
// condition. That does not block the resources that depend on it.
func (it *deployItem) conditionFalse() bool {
	return it.Conditional() && it.started.IsZero() && !it.blocked()
}

// blocked reports whether the resource was not deployed because one that it
// depends on failed.
func (it *deployItem) blocked() bool {
	return slices.ContainsFunc(it.needs, func(x *deployItem) bool {
		return x.state == stateFailed || x.state == stateSkipped && !x.conditionFalse()
	})
}

// start sends the PUT of a resource, through the same code as a client's.
func (it *deployItem) start() {
	it.state, it.started = stateRunning, time.Now()
	body, err := it.Body()
	if err != nil {
		it.fail(&apiError{
			Code: "InvalidTemplate", Target: it.ID, status: http.StatusBadRequest,
			Message: fmt.Sprintf("Unable to process template language expressions for resource '%s': '%v'", it.ID, err),
		})
		return
	}
	a, refusal := it.d.f.ask(http.MethodPut, it.ID, it.APIVersion, body)
	if refusal != nil {
		it.fail(&apiError{Code: refusal.Code, Target: it.ID, Message: refusal.Message, Details: refusal.Details, status: refusal.status})
		return
	}
	it.code = a.code
	async, _, _ := strings.Cut(a.header.Get("Azure-AsyncOperation"), "?")
	it.op = it.d.f.ops[path.Base(async)]
}

func (it *deployItem) fail(e *apiError) {
	it.state, it.finished, it.failure, it.code = stateFailed, time.Now(), e, e.status
}

// finish records the result of a resource once its own operation has ended.
func (it *deployItem) finish() {
	if it.op == nil || it.op.failure == nil {
		it.state, it.finished = stateSucceeded, time.Now()
		return
	}
	cause := *it.op.failure
	cause.Target = or(cause.Target, it.ID)
	it.fail(&apiError{
		Code: "ResourceDeploymentFailure", Target: it.ID, Details: []*apiError{&cause}, status: http.StatusConflict,
		Message: "The resource write operation failed to complete successfully, because it reached terminal provisioning state 'Failed'.",
	})
}

// ask sends a request from the fabric itself to the control plane.
func (f *Fabric) ask(method, path, version string, body any) (*answer, *apiError) {
	r := &http.Request{Method: method, Host: ManagementHost, Header: http.Header{}, URL: &url.URL{Path: path, RawQuery: "api-version=" + url.QueryEscape(version)}}
	sent := &request{Request: r, kind: Control}
	if body != nil {
		sent.body = encode(body)
	}
	return f.route(sent)
}

// templateHost implements the functions with which a template reads its
// deployment.
type templateHost struct{ d *deployment }

func (h templateHost) Subscription() object {
	s := h.d.f.opts.Subscription
	return object{"id": "/subscriptions/" + s, "subscriptionId": s, "tenantId": tenant, "displayName": "fabric"}
}

func (h templateHost) ResourceGroup() object { return h.d.f.groupResource(h.d.f.groups[h.d.group]) }

func (h templateHost) Tenant() object { return object{"tenantId": tenant, "displayName": "fabric"} }

func (h templateHost) Deployment() object {
	d := h.d
	o := object{"name": d.name, "properties": object{
		"template": object{"contentVersion": d.template.ContentVersion()}, "templateHash": d.hash, "mode": "Incremental", "provisioningState": stateAccepted,
	}}
	if d.location != "" {
		o["location"] = d.location
	}
	return o
}

func (h templateHost) Environment() object {
	const here = "https://" + ManagementHost
	return object{
		"name": "fabric", "portal": here, "resourceManager": here + "/", "gallery": here + "/", "graph": here + "/",
		"authentication": object{"loginEndpoint": here + "/", "audiences": []any{here + "/"}, "tenant": "common", "identityProvider": "AAD"},
		"suffixes":       object{"storage": "blob.fabric", "keyvaultDns": ".vault.fabric"},
	}
}

// Reference reads a resource of this or of an earlier deployment.
func (h templateHost) Reference(id, version string, whole bool) (any, error) {
	for _, it := range h.d.items {
		if strings.EqualFold(it.ID, id) && it.state == stateSkipped {
			return nil, fmt.Errorf("the resource '%s' is not deployed", id)
		}
	}
	answer, refusal := h.d.f.ask(http.MethodGet, id, or(version, "2024-07-01"), nil)
	if refusal != nil {
		return nil, fmt.Errorf("%s: %s", refusal.Code, refusal.Message)
	}
	var doc object
	if err := armtemplate.Decode(answer.body, &doc); err != nil {
		return nil, err
	}
	if whole {
		return doc, nil
	}
	return doc["properties"], nil
}

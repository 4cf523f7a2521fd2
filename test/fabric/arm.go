package fabric

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/azguest/azguest/test/fabric/armtemplate"
)

// apiError is an error as ARM returns it, in an answer or in a failed
// operation.
type apiError struct {
	Code    string      `json:"code"`
	Message string      `json:"message"`
	Target  string      `json:"target,omitempty"`
	Details []*apiError `json:"details,omitempty"`
	status  int
}

func refuse(status int, code, format string, args ...any) *apiError {
	return &apiError{Code: code, Message: fmt.Sprintf(format, args...), status: status}
}

func (e *apiError) answer() *answer {
	return replyJSON(e.status, map[string]any{"error": e})
}

// An operation is a long-running operation that clients poll.
type operation struct {
	id         string
	location   string
	start, end time.Time
	state      string // InProgress, Succeeded, Failed
	failure    *apiError
	result     func() any // builds the answer to GET on the Location URL once done; nil for an empty one
	vm         *VM
}

func (o *operation) finish(failure *apiError) {
	if o.state != "InProgress" {
		return
	}
	o.end, o.failure, o.state = time.Now(), failure, stateSucceeded
	if failure != nil {
		o.state = stateFailed
	}
}

// armTime is ARM's time format.
const armTime = "2006-01-02T15:04:05.0000000-07:00"

func (f *Fabric) newOperation(v *VM, result func() any) *operation {
	o := &operation{id: newGUID(), location: f.opts.Location, start: time.Now(), state: "InProgress", result: result, vm: v}
	f.ops[o.id] = o
	return o
}

// control serves the ARM-shaped control plane (extensions/SPEC.md §17).
func (f *Fabric) control(r *request) *answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.vms {
		v.finishOperations()
	}
	f.advanceDeployments()
	a, err := f.route(r)
	if err != nil {
		a = err.answer()
	}
	f.advanceDeployments() // start queued deployment steps before answering
	id := newGUID()
	a.header.Set("x-ms-request-id", id)
	a.header.Set("x-ms-correlation-request-id", or(r.Header.Get("x-ms-correlation-request-id"), id))
	a.header.Set("x-ms-ratelimit-remaining-subscription-resource-requests", "11999")
	a.header.Set("Cache-Control", "no-cache")
	if a.header.Get("Content-Type") == "" {
		a.header.Set("Content-Type", "application/json; charset=utf-8")
	}
	return a
}

// controlFault answers with an HTTP status as ARM itself does: with ARM's error
// code for it, and with Retry-After where a retry can help.
func (f *Fabric) controlFault(status int) *answer {
	code := map[int]string{
		http.StatusUnauthorized: "AuthenticationFailed", http.StatusForbidden: "AuthorizationFailed", http.StatusConflict: "Conflict",
		http.StatusTooManyRequests: "TooManyRequests", http.StatusInternalServerError: "InternalServerError",
		http.StatusBadGateway: "BadGateway", http.StatusServiceUnavailable: "ServiceUnavailable", http.StatusGatewayTimeout: "GatewayTimeout",
	}[status]
	text := http.StatusText(status)
	a := refuse(status, or(code, strings.ReplaceAll(text, " ", "")), "%s: this fault was injected.", or(text, "status "+strconv.Itoa(status))).answer()
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		a.header.Set("Retry-After", f.retryAfter())
	}
	return a
}

// machineOfPath returns the name of the virtual machine that a path addresses.
func (f *Fabric) machineOfPath(path string) string {
	p := splitPath(path)
	if len(p.lower) < 8 || p.lower[6] != "virtualmachines" {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if vm := f.vmNamed(p.segments[7]); vm != nil {
		return vm.name
	}
	return ""
}

// armPath is a request path: its segments as sent, and in lower case.
type armPath struct{ segments, lower []string }

func splitPath(p string) armPath {
	var out armPath
	for s := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		out.segments = append(out.segments, s)
		out.lower = append(out.lower, strings.ToLower(s))
	}
	return out
}

// first returns the first n segments of the path.
func (p armPath) first(n int) armPath {
	n = min(n, len(p.lower))
	return armPath{p.segments[:n], p.lower[:n]}
}

// match compares the path with a pattern in which * stands for any one segment,
// and returns the segments at the stars.
func (p armPath) match(pattern string) ([]string, bool) {
	want := strings.Split(pattern, "/")
	if len(want) != len(p.lower) {
		return nil, false
	}
	var values []string
	for i, w := range want {
		switch w {
		case "*":
			values = append(values, p.segments[i])
		case p.lower[i]:
		default:
			return nil, false
		}
	}
	return values, true
}

func (f *Fabric) route(r *request) (*answer, *apiError) {
	p := splitPath(r.URL.Path)
	if p.lower[0] == "metadata" && len(p.lower) == 2 && p.lower[1] == "endpoints" {
		return f.cloudMetadata(r), nil
	}
	if a := f.login(r, p); a != nil {
		return a, nil
	}
	query := lowerQuery(r.URL.Query())
	if query.Get("api-version") == "" {
		return nil, refuse(http.StatusBadRequest, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	}
	const machines = "subscriptions/*/resourcegroups/*/providers/microsoft.compute/virtualmachines"
	if v, ok := p.match("subscriptions/*/providers/microsoft.compute/locations/*/operations/*"); ok {
		return f.pollOperation(r, v[2], query.Get("monitor") == "true")
	}
	if a, err, ok := f.subscriptionRoutes(r, p, query); ok {
		return a, err
	}
	if a, err, ok := f.deviceRoutes(r, p); ok {
		return a, err
	}
	of, ofGroup := p.match(machines)
	if v, ok := p.match("subscriptions/*/providers/microsoft.compute/virtualmachines"); ok {
		of = []string{v[0], f.opts.ResourceGroup}
	}
	if of != nil && r.Method == http.MethodGet {
		if err := f.checkGroup(of[0], of[1]); err != nil {
			return nil, err
		}
		list := []any{}
		for _, vm := range f.vms {
			if !ofGroup || strings.EqualFold(of[1], f.opts.ResourceGroup) {
				list = append(list, vm.resource(query))
			}
		}
		return replyJSON(http.StatusOK, object{"value": list}), nil
	}
	if len(p.lower) < 8 || strings.Join([]string{p.lower[0], p.lower[2], p.lower[4], p.lower[5], p.lower[6]}, "/") !=
		"subscriptions/resourcegroups/providers/microsoft.compute/virtualmachines" {
		return nil, refuse(http.StatusNotFound, "ResourceNotFound", "The Resource '%s' was not found.", r.URL.Path)
	}
	if err := f.checkGroup(p.segments[1], p.segments[3]); err != nil {
		return nil, err
	}
	vm := f.vmNamed(p.segments[7])
	if vm == nil || !strings.EqualFold(p.segments[3], f.opts.ResourceGroup) {
		code := "ResourceNotFound"
		if len(p.lower) > 8 {
			code = "ParentResourceNotFound"
		}
		return nil, refuse(http.StatusNotFound, code,
			"The Resource 'Microsoft.Compute/virtualMachines/%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", p.segments[7], p.segments[3])
	}
	r.vm = vm
	return f.vmRoute(r, vm, p, query)
}

func (f *Fabric) vmRoute(r *request, vm *VM, p armPath, query url.Values) (*answer, *apiError) {
	rest := strings.Join(p.lower[8:], "/")
	switch {
	case rest == "":
		switch r.Method {
		case http.MethodGet:
			return replyJSON(http.StatusOK, vm.resource(query)), nil
		case http.MethodPatch, http.MethodPut:
			return vm.patch(r)
		}
	case rest == "instanceview" && r.Method == http.MethodGet:
		return replyJSON(http.StatusOK, vm.instanceView()), nil
	case r.Method == http.MethodPost && slices.Contains(powerActions, rest):
		return vm.power(r, rest)
	case rest == "simulateeviction" && r.Method == http.MethodPost:
		return vm.simulateEviction()
	case rest == "runcommand" && r.Method == http.MethodPost:
		return vm.invokeRunCommand(r)
	case (rest == "extensions" || rest == "runcommands") && r.Method == http.MethodGet:
		list := []any{}
		for _, e := range vm.extensions {
			if e.run == (rest == "runcommands") && !e.transient() {
				list = append(list, e.resource(query))
			}
		}
		return replyJSON(http.StatusOK, object{"value": list}), nil
	case len(p.lower) == 10 && (p.lower[8] == "extensions" || p.lower[8] == "runcommands"):
		return vm.extensionRoute(r, p.segments[9], p.lower[8] == "runcommands", query)
	}
	return nil, notAllowed(r)
}

func (f *Fabric) checkGroup(subscription, group string) *apiError {
	if !strings.EqualFold(subscription, f.opts.Subscription) {
		return unknownSubscription(subscription)
	}
	if f.groups[strings.ToLower(group)] == nil {
		return unknownGroup(group)
	}
	return nil
}

func unknownSubscription(id string) *apiError {
	return refuse(http.StatusNotFound, "SubscriptionNotFound", "The subscription '%s' could not be found.", id)
}

func lowerQuery(q url.Values) url.Values {
	out := url.Values{}
	for k, v := range q {
		out[strings.ToLower(k)] = v
	}
	return out
}

// splitHandler splits Publisher.Type: the type is the last part.
func splitHandler(name string) (publisher, kind string) {
	i := strings.LastIndex(name, ".")
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

// pollOperation serves the Azure-AsyncOperation URL, or with monitor the
// Location URL.
func (f *Fabric) pollOperation(r *request, id string, monitor bool) (*answer, *apiError) {
	o := f.ops[strings.ToLower(id)]
	if o == nil {
		return nil, refuse(http.StatusNotFound, "NotFound", "The entity was not found.")
	}
	r.vm = o.vm
	if monitor {
		switch o.state {
		case "InProgress":
			a := replyJSON(http.StatusAccepted, object{})
			f.pollHeaders(r, a, o, true)
			return a, nil
		case stateFailed:
			e := *o.failure
			e.status = http.StatusConflict
			return nil, &e
		}
		if o.result == nil {
			return reply(http.StatusNoContent, "", nil), nil
		}
		return replyJSON(http.StatusOK, o.result()), nil
	}
	doc := object{"startTime": o.start.Format(armTime), "status": o.state, "name": o.id}
	if o.state != "InProgress" {
		doc["endTime"] = o.end.Format(armTime)
		if o.failure != nil {
			doc["error"] = o.failure
		} else if o.result != nil {
			doc["properties"] = object{"output": o.result()}
		}
	}
	a := replyJSON(http.StatusOK, doc)
	if o.state == "InProgress" {
		a.header.Set("Retry-After", f.retryAfter())
	}
	return a, nil
}

// operationResult serves the Location URL of operations that have no
// Azure-AsyncOperation URL.
func (f *Fabric) operationResult(r *request, id string) (*answer, *apiError) {
	o := f.ops[strings.ToLower(id)]
	if o == nil {
		return nil, refuse(http.StatusNotFound, "NotFound", "The entity was not found.")
	}
	if o.state == "InProgress" {
		a := reply(http.StatusAccepted, "", nil)
		a.header.Set("Location", here(r)+r.URL.RequestURI())
		a.header.Set("Retry-After", f.retryAfter())
		return a, nil
	}
	return reply(http.StatusOK, "", nil), nil
}

func (f *Fabric) retryAfter() string {
	return strconv.Itoa(max(1, int((f.opts.RetryAfter+time.Second/2)/time.Second)))
}

// pollHeaders sets the headers with the URLs to poll; DELETE and POST also have
// a Location.
func (f *Fabric) pollHeaders(r *request, a *answer, o *operation, location bool) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	u := fmt.Sprintf("%s://%s/subscriptions/%s/providers/Microsoft.Compute/locations/%s/operations/%s?p=%s&api-version=%s",
		scheme, r.Host, f.opts.Subscription, f.opts.Location, o.id, newGUID(), or(lowerQuery(r.URL.Query()).Get("api-version"), "2024-07-01"))
	a.header.Set("Azure-AsyncOperation", u)
	if location {
		a.header.Set("Location", u+"&monitor=true")
	}
	a.header.Set("Retry-After", f.retryAfter())
}

// decodeBody parses a JSON request body; numbers are kept as written.
func decodeBody(r *request, into any) *apiError {
	r.body = armtemplate.ToJSON(r.body)
	d := json.NewDecoder(strings.NewReader(string(r.body)))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return refuse(http.StatusBadRequest, "InvalidRequestContent", "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	return nil
}

// misspelt refuses the members of an object at a path of a request (such as
// "properties") that are probably meant to be others. Members that the fabric does
// not use are accepted, like by ARM.
func misspelt(r *request, kind string, path []string, known ...string) *apiError {
	var o map[string]json.RawMessage
	raw := json.RawMessage(r.body)
	for _, step := range append([]string{""}, path...) {
		for key, value := range o {
			if strings.EqualFold(key, step) {
				raw = value
			}
		}
		o = nil
		if json.Unmarshal(raw, &o) != nil {
			return nil // what it has to be is said elsewhere
		}
		raw = nil
	}
	if text := misspeltMember(slices.Collect(maps.Keys(o)), kind, strings.Join(path, "."), known); text != "" {
		return refuse(http.StatusBadRequest, "InvalidRequestContent", "The request content was invalid and could not be deserialized: '%s'.", text)
	}
	return nil
}

// misspeltMember says which of the members of the object at a path is not known
// and is probably meant to be one that is; "" if none is. Names with a mark, such
// as the @options of Bicep's decorators, are not meant to be names without.
func misspeltMember(keys []string, kind, path string, known []string) string {
	slices.Sort(keys)
	for _, key := range keys {
		near := nearest(key, known)
		if near == "" || strings.IndexAny(key, "@$") == 0 || slices.ContainsFunc(known, func(k string) bool { return strings.EqualFold(k, key) }) {
			continue
		}
		at := strings.TrimPrefix(path+"."+key, ".")
		return fmt.Sprintf("Could not find member '%s' on object of type '%s'. Path '%s'. Did you mean '%s'?", key, kind, at, near)
	}
	return ""
}

// resourceMembers are those of every resource.
var resourceMembers = []string{"id", "name", "type", "location", "tags", "properties", "kind", "plan", "sku", "identity", "zones", "managedBy", "etag"}

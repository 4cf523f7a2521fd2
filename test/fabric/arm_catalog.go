package fabric

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// subscriptionRoutes serves everything outside virtual machines and their child
// resources: providers, deployments, resource groups, and published images.
func (f *Fabric) subscriptionRoutes(r *request, p armPath, query url.Values) (*answer, *apiError, bool) {
	if len(p.lower) > 1 && p.lower[0] == "subscriptions" && !strings.EqualFold(p.segments[1], f.opts.Subscription) {
		return nil, unknownSubscription(p.segments[1]), true
	}
	for _, pattern := range []string{"subscriptions/*/providers", "subscriptions/*/providers/*", "subscriptions/*/providers/*/register", "subscriptions/*/providers/*/unregister"} {
		if v, is := p.match(pattern); is {
			a, err := f.providerRoute(r, strings.Join(v[1:], ""), strings.Join(p.lower[min(len(p.lower), 4):], ""))
			return a, err, true
		}
	}
	const deployments = "subscriptions/*/resourcegroups/*/providers/microsoft.resources/deployments"
	if v, is := p.first(7).match(deployments); is {
		a, err := f.deploymentRoute(r, v[1], p.segments[7:])
		return a, err, true
	}
	if v, is := p.first(7).match("subscriptions/*/resourcegroups/*/deployments/*/operations"); is {
		a, err := f.deploymentRoute(r, v[1], p.segments[5:]) // alternative address of a deployment, used by clients
		return a, err, true
	}
	if v, is := p.match("subscriptions/*/resourcegroups/*"); is {
		a, err := f.groupRoute(r, v[1])
		return a, err, true
	}
	if r.Method != http.MethodGet {
		return nil, nil, false // all other resources are read-only
	}
	if a := f.subscriptionDocument(p); a != nil {
		return a, nil, true
	}
	return f.catalogRoutes(r, p, query)
}

// subscriptionDocument returns a fixed document about the subscription, its
// regions or its tenants.
func (f *Fabric) subscriptionDocument(p armPath) *answer {
	o := f.opts
	ok := func(v any) *answer { return replyJSON(http.StatusOK, v) }
	subscription := object{"id": "/subscriptions/" + o.Subscription, "subscriptionId": o.Subscription, "displayName": "fabric", "state": "Enabled", "tenantId": tenant}
	if _, is := p.match("subscriptions"); is {
		return ok(object{"value": []any{subscription}})
	}
	if _, is := p.match("subscriptions/*"); is {
		return ok(subscription)
	}
	if _, is := p.match("subscriptions/*/locations"); is {
		return ok(object{"value": []any{object{
			"id": "/subscriptions/" + o.Subscription + "/locations/" + o.Location, "name": o.Location, "type": "Region", "displayName": o.Location, "regionalDisplayName": o.Location,
			"metadata": object{"regionType": "Physical", "regionCategory": "Recommended"},
		}}})
	}
	if _, is := p.match("tenants"); is {
		return ok(object{"value": []any{object{"id": "/tenants/" + tenant, "tenantId": tenant, "displayName": "fabric"}}})
	}
	return nil
}

// catalogRoutes serves the lists: providers, groups, resources, operation
// results, run commands and published handlers.
func (f *Fabric) catalogRoutes(r *request, p armPath, query url.Values) (*answer, *apiError, bool) {
	for _, pattern := range []string{"providers", "providers/*"} { // at tenant level
		if v, is := p.match(pattern); is {
			a, err := f.providerRoute(r, strings.Join(v, ""), "")
			return a, err, true
		}
	}
	if _, is := p.match("subscriptions/*/resourcegroups"); is {
		return f.listGroups(), nil, true
	}
	for _, pattern := range []string{"subscriptions/*/resources", "subscriptions/*/resourcegroups/*/resources"} {
		if v, is := p.match(pattern); is {
			a, err := f.listResources(strings.Join(v[1:], ""), query)
			return a, err, true
		}
	}
	if v, is := p.match("subscriptions/*/operationresults/*"); is {
		a, err := f.operationResult(r, v[1])
		return a, err, true
	}
	const commands = "subscriptions/*/providers/microsoft.compute/locations/*/runcommands"
	for _, pattern := range []string{commands, commands + "/*"} {
		if v, is := p.match(pattern); is {
			a, err := f.runCommandDocuments(strings.Join(v[2:], ""))
			return a, err, true
		}
	}
	if _, is := p.match("subscriptions/*/providers/microsoft.compute/locations/*/publishers"); is {
		return replyJSON(http.StatusOK, f.publishers()), nil, true
	}
	const types = "subscriptions/*/providers/microsoft.compute/locations/*/publishers/*/artifacttypes/vmextension/types"
	for _, pattern := range []string{types, types + "/*/versions", types + "/*/versions/*"} {
		if v, is := p.match(pattern); is {
			a, err := f.images(v, query)
			return a, err, true
		}
	}
	return nil, nil, false
}

// images lists published handlers: the types of a publisher, or the versions of
// a type.
func (f *Fabric) images(v []string, query url.Values) (*answer, *apiError) {
	item := func(publisher, kind, version string) object {
		name, path := version, "/Types/"+kind+"/Versions/"+version
		if version == "" {
			name, path = kind, "/Types/"+kind
		}
		return object{"location": f.opts.Location, "name": name, "id": "/Subscriptions/" + f.opts.Subscription +
			"/Providers/Microsoft.Compute/Locations/" + f.opts.Location + "/Publishers/" + publisher + "/ArtifactTypes/VMExtension" + path}
	}
	list := []any{}
	for _, key := range sortedKeys(f.packages) {
		h := f.packages[key]
		publisher, kind := splitHandler(h.name)
		if !strings.EqualFold(publisher, v[2]) {
			continue
		}
		switch {
		case len(v) == 3:
			list = append(list, item(publisher, kind, ""))
		case strings.EqualFold(kind, v[3]):
			for _, version := range slices.SortedFunc(maps.Keys(h.versions), compareVersions) {
				if len(v) == 4 {
					list = append(list, item(publisher, kind, version))
				} else if version == v[4] {
					o := item(publisher, kind, version)
					o["properties"] = object{"operatingSystem": "Linux", "computeRole": "IaaS", "handlerSchema": "{}", "vmScaleSetEnabled": false, "supportsMultipleExtensions": h.versions[version].multi}
					return replyJSON(http.StatusOK, o), nil
				}
			}
		}
	}
	if len(list) == 0 {
		return nil, refuse(http.StatusNotFound, "NotFound", "Artifact: VMExtension was not found.")
	}
	if by := strings.Fields(strings.ToLower(query.Get("$orderby"))); len(by) == 2 && by[1] == "desc" {
		slices.Reverse(list)
	}
	if prefix, ok := startsWith(query.Get("$filter")); ok {
		list = slices.DeleteFunc(list, func(o any) bool { return !strings.HasPrefix(o.(object)["name"].(string), prefix) })
	}
	if top, err := strconv.Atoi(query.Get("$top")); err == nil && top >= 0 && top < len(list) {
		list = list[:top]
	}
	return replyJSON(http.StatusOK, list), nil
}

// publishers lists the publishers of all packages.
func (f *Fabric) publishers() []any {
	names := map[string]string{}
	for _, h := range f.packages {
		name, _ := splitHandler(h.name)
		names[strings.ToLower(name)] = name
	}
	list := []any{}
	for _, key := range sortedKeys(names) {
		list = append(list, object{"location": f.opts.Location, "name": names[key], "id": "/Subscriptions/" + f.opts.Subscription +
			"/Providers/Microsoft.Compute/Locations/" + f.opts.Location + "/Publishers/" + names[key]})
	}
	return list
}

// startsWith parses the only filter that is supported: startswith(name,'1.0').
func startsWith(filter string) (string, bool) {
	inner, ok := strings.CutPrefix(strings.ReplaceAll(filter, " ", ""), "startswith(name,'")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(inner, "')")
}

// runCommandDocuments lists the commands of the run command action
// (extensions/SPEC.md §17.6).
func (f *Fabric) runCommandDocuments(id string) (*answer, *apiError) {
	document := object{
		"$schema": "https://schema.management.azure.com/schemas/2016-11-17/runcommands.json", "id": "RunShellScript",
		"osType": "Linux", "label": "Run an arbitrary shell script", "description": "Custom multiline shell script will be executed",
	}
	switch {
	case id == "":
		return replyJSON(http.StatusOK, object{"value": []any{document}}), nil
	case !strings.EqualFold(id, "RunShellScript"):
		return nil, refuse(http.StatusNotFound, "NotFound", "The entity was not found in this Azure location.")
	}
	document["script"] = []any{"echo Hello $1"}
	document["parameters"] = []any{object{"name": "arg1", "type": "string", "defaultValue": "world", "required": false}}
	return replyJSON(http.StatusOK, document), nil
}

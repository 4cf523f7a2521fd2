package fabric

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// smallRoutes are what clients ask before they come to the point.
func (f *Fabric) smallRoutes(r *request, p armPath, query url.Values) (*answer, *apiError, bool) {
	o := f.opts
	ok := func(v any) (*answer, *apiError, bool) { return replyJSON(http.StatusOK, v), nil, true }
	subscription := object{"id": "/subscriptions/" + o.Subscription, "subscriptionId": o.Subscription, "displayName": "fabric", "state": "Enabled", "tenantId": tenant}
	group := func(name string) object {
		return object{
			"id": "/subscriptions/" + o.Subscription + "/resourceGroups/" + name, "name": name,
			"type": "Microsoft.Resources/resourceGroups", "location": o.Location, "properties": object{"provisioningState": stateSucceeded},
		}
	}
	provider := f.provider()
	if _, is := p.match("subscriptions"); is {
		return ok(object{"value": []any{subscription}})
	}
	if v, is := p.match("subscriptions/*"); is {
		if !strings.EqualFold(v[0], o.Subscription) {
			return nil, refuse(http.StatusNotFound, "SubscriptionNotFound", "The subscription '%s' could not be found.", v[0]), true
		}
		return ok(subscription)
	}
	if _, is := p.match("tenants"); is {
		return ok(object{"value": []any{object{"id": "/tenants/" + tenant, "tenantId": tenant, "displayName": "fabric"}}})
	}
	if _, is := p.match("subscriptions/*/providers"); is {
		return ok(object{"value": []any{provider}})
	}
	for _, pattern := range []string{"subscriptions/*/providers/*", "subscriptions/*/providers/*/register", "providers/*"} {
		if _, is := p.match(pattern); is {
			return ok(provider)
		}
	}
	if _, is := p.match("subscriptions/*/resourcegroups"); is {
		list := []any{}
		for _, key := range sortedKeys(f.groups) {
			list = append(list, group(f.groups[key]))
		}
		return ok(object{"value": list})
	}
	if v, is := p.match("subscriptions/*/resourcegroups/*"); is {
		key := strings.ToLower(v[1])
		name, known := f.groups[key]
		if r.Method == http.MethodPut {
			if !known {
				f.groups[key], name = v[1], v[1]
			}
			return ok(group(name))
		}
		if !known {
			return nil, refuse(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", v[1]), true
		}
		return ok(group(name))
	}
	const commands = "subscriptions/*/providers/microsoft.compute/locations/*/runcommands"
	for _, pattern := range []string{commands, commands + "/*"} {
		if v, is := p.match(pattern); is {
			a, err := f.runCommandDocuments(strings.Join(v[2:], ""))
			return a, err, true
		}
	}
	if _, is := p.match("subscriptions/*/providers/microsoft.compute/locations/*/publishers"); is {
		return ok(f.publishers())
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

// images lists what is published: types of a publisher, versions of a type.
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

// publishers lists who has published something.
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

// startsWith reads the one filter that clients use: startswith(name,'1.0').
func startsWith(filter string) (string, bool) {
	inner, ok := strings.CutPrefix(strings.ReplaceAll(filter, " ", ""), "startswith(name,'")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(inner, "')")
}

// provider is Microsoft.Compute as clients that choose an api-version by
// asking for it want to see it.
func (f *Fabric) provider() object {
	types := []any{}
	for _, name := range []string{
		"virtualMachines", "virtualMachines/extensions", "virtualMachines/runCommands", "locations", "locations/operations",
		"locations/runCommands", "locations/publishers", "operations",
	} {
		types = append(types, object{
			"resourceType": name, "locations": []any{f.opts.Location}, "capabilities": "None",
			"apiVersions": []any{"2024-11-01", "2024-07-01", "2024-03-01", "2023-09-01", "2022-11-01", "2022-08-01", "2021-07-01", "2020-06-01"},
		})
	}
	return object{
		"id": "/subscriptions/" + f.opts.Subscription + "/providers/Microsoft.Compute", "namespace": "Microsoft.Compute",
		"registrationPolicy": "RegistrationRequired", "registrationState": "Registered", "resourceTypes": types,
	}
}

// runCommandDocuments are the commands of the action (spec/extensions §9.6).
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

package fabric

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A resourceGroup holds the properties of a resource group. All machines are in
// the fabric's own group; others exist for clients that create a group first.
type resourceGroup struct {
	name, location string
	tags           map[string]string
}

func (f *Fabric) groupResource(g *resourceGroup) object {
	o := object{
		"id": "/subscriptions/" + f.opts.Subscription + "/resourceGroups/" + g.name, "name": g.name,
		"type": "Microsoft.Resources/resourceGroups", "location": g.location, "properties": object{"provisioningState": stateSucceeded},
	}
	if len(g.tags) > 0 {
		o["tags"] = g.tags
	}
	return o
}

func (f *Fabric) listGroups() *answer {
	list := []any{}
	for _, key := range sortedKeys(f.groups) {
		list = append(list, f.groupResource(f.groups[key]))
	}
	return replyJSON(http.StatusOK, object{"value": list})
}

func unknownGroup(name string) *apiError {
	return refuse(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '%s' could not be found.", name)
}

// groupRoute serves the requests to one resource group.
func (f *Fabric) groupRoute(r *request, name string) (*answer, *apiError) {
	key := strings.ToLower(name)
	g := f.groups[key]
	if g == nil && r.Method != http.MethodPut {
		return nil, unknownGroup(name)
	}
	switch r.Method {
	case http.MethodGet:
		return replyJSON(http.StatusOK, f.groupResource(g)), nil
	case http.MethodHead:
		return reply(http.StatusNoContent, "", nil), nil
	case http.MethodPut, http.MethodPatch:
		return f.putGroup(r, g, name)
	case http.MethodDelete:
		if strings.EqualFold(name, f.opts.ResourceGroup) && len(f.vms) > 0 {
			// Virtual machines are not deleted: they belong to whoever runs the
			// fabric.
			return nil, refuse(http.StatusConflict, "ResourceGroupDeletionBlocked", "Deletion of resource group '%s' did not complete: it contains virtual machines that can't be deleted here.", g.name)
		}
		for _, d := range slices.Clone(f.deployments) {
			if d.group == key {
				_, _ = d.cancel() // fails if it has already ended
				f.deployments = slices.DeleteFunc(f.deployments, func(x *deployment) bool { return x == d })
			}
		}
		delete(f.groups, key)
		o := f.newOperation(nil, nil)
		o.finish(nil)
		a := reply(http.StatusAccepted, "", nil)
		a.header.Set("Location", here(r)+"/subscriptions/"+f.opts.Subscription+"/operationresults/"+o.id+"?api-version="+url.QueryEscape(lowerQuery(r.URL.Query()).Get("api-version")))
		a.header.Set("Retry-After", f.retryAfter())
		return a, nil
	}
	return nil, notAllowed(r)
}

func (f *Fabric) putGroup(r *request, g *resourceGroup, name string) (*answer, *apiError) {
	var body struct {
		Location string            `json:"location"`
		Tags     map[string]string `json:"tags"`
	}
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	location := regionName(body.Location)
	code := http.StatusOK
	switch {
	case g == nil && location == "":
		return nil, refuse(http.StatusBadRequest, "LocationRequired", "The location property is required for this definition.")
	case g == nil:
		code, g = http.StatusCreated, &resourceGroup{name: name, location: location}
		f.groups[strings.ToLower(name)] = g
	case location != "" && location != g.location:
		return nil, refuse(http.StatusConflict, "InvalidResourceGroupLocation",
			"Invalid resource group location '%s'. The Resource group already exists in location '%s'.", location, g.location)
	}
	if body.Tags != nil || r.Method == http.MethodPut {
		g.tags = maps.Clone(body.Tags)
	}
	return replyJSON(code, f.groupResource(g)), nil
}

// listResources lists everything in the subscription, or in one group.
func (f *Fabric) listResources(group string, query url.Values) (*answer, *apiError) {
	if group != "" && f.groups[strings.ToLower(group)] == nil {
		return nil, unknownGroup(group)
	}
	list := []any{}
	add := func(full object) {
		item := object{}
		for _, key := range []string{"id", "name", "type", "location", "tags"} {
			if v, ok := full[key]; ok {
				item[key] = v
			}
		}
		if strings.Contains(strings.ToLower(query.Get("$expand")), "provisioningstate") {
			item["provisioningState"] = full["properties"].(object)["provisioningState"]
		}
		list = append(list, item)
	}
	if group == "" || strings.EqualFold(group, f.opts.ResourceGroup) {
		for _, v := range f.vms {
			add(v.resource(url.Values{}))
			add(v.disk())
			add(v.nic())
			for _, e := range v.extensions {
				if !e.transient() {
					o := e.resource(url.Values{})
					o["name"] = v.name + "/" + e.name
					add(o)
				}
			}
		}
	}
	if top, err := strconv.Atoi(query.Get("$top")); err == nil && top > 0 && top < len(list) {
		list = list[:top]
	}
	return replyJSON(http.StatusOK, object{"value": list}), nil
}

// regionName turns a display name such as "West Europe" into ARM's
// "westeurope".
func regionName(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }

func notAllowed(r *request) *apiError {
	return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "The method %s is not supported on %s.", r.Method, r.URL.Path)
}

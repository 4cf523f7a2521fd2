package fabric

import (
	"net/http"
	"strings"
)

// Registration states of a resource provider.
const (
	stateRegistered    = "Registered"
	stateNotRegistered = "NotRegistered"
	stateRegistering   = "Registering"
)

// compute is the only resource provider with an implementation.
const compute = "Microsoft.Compute"

// newProviders returns the resource providers of a subscription in which a
// virtual machine was once created by hand. Terraform registers those that it
// may need and that are not registered, and ignores those that the cloud does
// not list.
func newProviders() map[string]*resourceProvider {
	out := map[string]*resourceProvider{}
	for state, names := range map[string][]string{
		stateRegistered: {compute, "Microsoft.Authorization", "Microsoft.Network", "Microsoft.Resources", "Microsoft.Storage"},
		stateNotRegistered: {
			"Microsoft.CostManagement", "Microsoft.GuestConfiguration", "Microsoft.Insights", "Microsoft.KeyVault", "Microsoft.Maintenance",
			"Microsoft.ManagedIdentity", "Microsoft.MarketplaceOrdering", "Microsoft.OperationalInsights", "Microsoft.PolicyInsights", "Microsoft.Security",
		},
	} {
		for _, name := range names {
			out[strings.ToLower(name)] = &resourceProvider{name: name, state: state}
		}
	}
	return out
}

type resourceProvider struct{ name, state string }

// providerRoute lists, shows and registers resource providers. With an empty
// action it shows; with an empty name it lists.
func (f *Fabric) providerRoute(r *request, name, action string) (*answer, *apiError) {
	if name == "" {
		list := []any{}
		for _, key := range sortedKeys(f.providers) {
			list = append(list, f.provider(f.providers[key]))
		}
		return replyJSON(http.StatusOK, object{"value": list}), nil
	}
	p := f.providers[strings.ToLower(name)]
	if p == nil {
		return nil, refuse(http.StatusNotFound, "InvalidResourceNamespace", "The resource namespace '%s' is invalid.", name)
	}
	method := http.MethodGet
	if action != "" {
		method = http.MethodPost
	}
	if r.Method != method {
		return nil, notAllowed(r)
	}
	switch action {
	case "register":
		// Registering takes a moment: it has ended at the client's next GET.
		if p.state != stateRegistered {
			p.state = stateRegistering
		}
	case "unregister":
		if p.name == compute && len(f.vms) > 0 {
			return nil, refuse(http.StatusConflict, "CannotUnregisterRP", "Cannot unregister resource provider '%s' because it is still used by resources of the subscription.", p.name)
		}
		p.state = stateNotRegistered
	}
	a := replyJSON(http.StatusOK, f.provider(p))
	if p.state == stateRegistering {
		p.state = stateRegistered
	}
	return a, nil
}

// provider is a resource provider in the form that clients expect when they
// look up its api-versions.
func (f *Fabric) provider(p *resourceProvider) object {
	types := []any{}
	for _, name := range map[string][]string{
		compute: {
			"virtualMachines", "virtualMachines/extensions", "virtualMachines/runCommands", "locations", "locations/operations",
			"locations/runCommands", "locations/publishers", "operations",
		},
		"Microsoft.Resources": {"deployments", "deployments/operations", "resourceGroups", "subscriptions"},
	}[p.name] {
		types = append(types, object{
			"resourceType": name, "locations": []any{f.opts.Location}, "capabilities": "None",
			"apiVersions": []any{"2024-11-01", "2024-07-01", "2024-03-01", "2023-09-01", "2022-11-01", "2022-08-01", "2021-07-01", "2020-06-01"},
		})
	}
	return object{
		"id": "/subscriptions/" + f.opts.Subscription + "/providers/" + p.name, "namespace": p.name,
		"registrationPolicy": "RegistrationRequired", "registrationState": p.state, "resourceTypes": types,
	}
}

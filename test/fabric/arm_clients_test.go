package fabric

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// The tests of this file send the requests of published clients, mainly those
// of Terraform.

const arm = "https://" + ManagementHost

func (c client) subscription(path, version string) string {
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	return arm + "/subscriptions/" + c.vm.f.opts.Subscription + path + sep + "api-version=" + version
}

// TestCloudMetadata: Terraform rejects a cloud whose identity provider is not
// of the public cloud's kind; azure-cli asks the public cloud about an
// authority unless its address looks like one on premises.
func TestCloudMetadata(t *testing.T) {
	_, _, c := testFabric(t)
	for _, version := range []string{"2015-01-01", "2022-09-01"} {
		code, _, doc := c.arm("GET", arm+"/metadata/endpoints?api-version="+version, nil)
		auth, _ := doc["authentication"].(map[string]any)
		if code != 200 || auth["identityProvider"] != "AAD" || auth["tenant"] != "common" {
			t.Fatalf("%s: %d %v", version, code, doc)
		}
		if login, _ := auth["loginEndpoint"].(string); !strings.HasSuffix(login, "/adfs") {
			t.Errorf("%s: login at %q", version, login)
		}
		for _, required := range []string{"name", "resourceManager", "microsoftGraphResourceId"} {
			if s, _ := doc[required].(string); s == "" {
				t.Errorf("%s: no %s in %v", version, required, doc)
			}
		}
	}
}

// TestRegions: when Terraform checks regions, it requests a path that begins
// with two slashes.
func TestRegions(t *testing.T) {
	_, _, c := testFabric(t)
	_, _, doc := c.arm("GET", arm+"//metadata/endpoints?api-version=2018-01-01", nil)
	clouds, _ := doc["cloudEndpoint"].(map[string]any)
	for _, x := range clouds {
		if cloud := x.(map[string]any); cloud["endpoint"] == ManagementHost && fmt.Sprint(cloud["locations"]) == "[westeurope]" {
			return
		}
	}
	t.Error(doc)
}

func TestLoginWithSecret(t *testing.T) {
	f, _, c := testFabric(t)
	form := url.Values{"client_id": {"me"}, "client_secret": {"hunter2"}, "grant_type": {"client_credentials"}, "scope": {arm + "/.default"}}
	code, _, body := c.do("POST", arm+"/adfs/"+tenant+"/oauth2/v2.0/token", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, []byte(form.Encode()))
	var token struct {
		Access string `json:"access_token"`
	}
	if json.Unmarshal(body, &token) != nil || code != 200 || token.Access == "" {
		t.Fatalf("%d %s", code, body)
	}
	c.do("GET", c.subscription("", "2022-09-01"), map[string]string{"Authorization": "Bearer " + token.Access}, nil)
	journal, err := json.Marshal(f.Journal(Query{Kind: Control}))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hunter2", token.Access} {
		if strings.Contains(string(journal), secret) {
			t.Errorf("%q is in the journal", secret)
		}
	}
	if !strings.Contains(string(journal), "client_id=me") {
		t.Error("the rest of the form is not")
	}
}

// TestResourceProviders: a client lists the providers, registers those that are
// missing, and polls until they are registered.
func TestResourceProviders(t *testing.T) {
	_, _, c := testFabric(t)
	list := func() map[string]string {
		_, _, doc := c.arm("GET", c.subscription("/providers", "2022-09-01"), nil)
		out := map[string]string{}
		for _, x := range doc["value"].([]any) {
			p := x.(map[string]any)
			out[p["namespace"].(string)] = p["registrationState"].(string)
		}
		return out
	}
	if got := list(); got["Microsoft.Compute"] != "Registered" || got["Microsoft.ManagedIdentity"] != "NotRegistered" {
		t.Fatal(got)
	}
	code, _, doc := c.arm("POST", c.subscription("/providers/Microsoft.ManagedIdentity/register", "2022-09-01"), map[string]any{})
	if code != 200 || doc["registrationState"] != "Registering" {
		t.Errorf("register: %d %v", code, doc)
	}
	if _, _, doc := c.arm("GET", c.subscription("/providers/microsoft.managedidentity", "2022-09-01"), nil); doc["registrationState"] != "Registered" || doc["namespace"] != "Microsoft.ManagedIdentity" {
		t.Errorf("registered: %v", doc)
	}
	c.arm("POST", c.subscription("/providers/Microsoft.ManagedIdentity/unregister", "2022-09-01"), nil)
	if got := list(); got["Microsoft.ManagedIdentity"] != "NotRegistered" {
		t.Errorf("unregistered: %v", got)
	}
	refused := func(method, path, want string) {
		t.Helper()
		_, _, doc := c.arm(method, c.subscription(path, "2022-09-01"), nil)
		if e, _ := doc["error"].(map[string]any); e["code"] != want {
			t.Errorf("%s %s: %v, want %s", method, path, doc, want)
		}
	}
	refused("GET", "/providers/Contoso.Nothing", "InvalidResourceNamespace")
	refused("POST", "/providers/Microsoft.Compute/unregister", "CannotUnregisterRP")
	refused("DELETE", "/providers/Microsoft.Compute", "MethodNotAllowed")
	refused("DELETE", "", "ResourceNotFound")
	if _, _, doc := c.arm("GET", arm+"/subscriptions/other/providers?api-version=2022-09-01", nil); !strings.Contains(fmt.Sprint(doc), "SubscriptionNotFound") {
		t.Errorf("of somebody else: %v", doc)
	}
}

func TestResourceGroups(t *testing.T) {
	_, vm, c := testFabric(t)
	if err := vm.PutExtension("Contoso.One", "1.0", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	second := c.subscription("/resourceGroups/Second", "2023-07-01")
	if code, _, doc := c.arm("GET", second, nil); code != 404 || !strings.Contains(fmt.Sprint(doc), "ResourceGroupNotFound") {
		t.Fatalf("before: %d %v", code, doc)
	}
	code, _, doc := c.arm("PUT", second, map[string]any{"location": "West Europe", "tags": map[string]any{"a": "b"}})
	if code != 201 || doc["location"] != "westeurope" || fmt.Sprint(doc["tags"]) != "map[a:b]" || !strings.HasSuffix(doc["id"].(string), "/resourceGroups/Second") {
		t.Fatalf("made: %d %v", code, doc)
	}
	// Another spelling of the name means the same group, and a PATCH keeps the
	// properties that it does not name.
	code, _, doc = c.arm("PATCH", c.subscription("/resourcegroups/SECOND", "2023-07-01"), map[string]any{})
	if code != 200 || doc["name"] != "Second" || fmt.Sprint(doc["tags"]) != "map[a:b]" {
		t.Errorf("patched: %d %v", code, doc)
	}
	if code, _, doc = c.arm("PUT", second, map[string]any{"location": "westeurope"}); code != 200 || doc["tags"] != nil {
		t.Errorf("put again: %d %v", code, doc)
	}
	if code, _, doc = c.arm("PUT", second, map[string]any{"location": "mars"}); code != 409 {
		t.Errorf("moved: %d %v", code, doc)
	}
	if code, _, _ := c.do("HEAD", second, nil, nil); code != 204 {
		t.Errorf("exists: %d", code)
	}

	// The machine belongs to one group only.
	there := strings.Replace(vm.resourceID(), "/rg/", "/Second/", 1)
	if code, _, doc := c.arm("GET", arm+there+"?api-version=2024-03-01", nil); code != 404 || !strings.Contains(fmt.Sprint(doc), "ResourceNotFound") {
		t.Errorf("the machine in another group: %d %v", code, doc)
	}
	kinds := func(path string) []string {
		_, _, doc := c.arm("GET", c.subscription(path+"/resources?$expand=provisioningState&$top=10", "2023-07-01"), nil)
		out := []string{}
		for _, x := range doc["value"].([]any) {
			r := x.(map[string]any)
			if r["provisioningState"] == nil || r["id"] == nil {
				t.Errorf("resource %v", r)
			}
			out = append(out, r["type"].(string))
		}
		return out
	}
	if got := kinds("/resourceGroups/rg"); !slices.Contains(got, "Microsoft.Compute/virtualMachines") || !slices.Contains(got, "Microsoft.Compute/virtualMachines/extensions") {
		t.Errorf("resources of the group: %v", got)
	}
	if got := kinds("/resourceGroups/Second"); len(got) != 0 {
		t.Errorf("resources of the empty group: %v", got)
	}

	// A deletion has ended when the Location URL says so, or when the group is
	// gone.
	code, header, _ := c.arm("DELETE", second, nil)
	if code != 202 || header.Get("Location") == "" {
		t.Fatalf("delete: %d %v", code, header)
	}
	if code, _, _ := c.do("GET", header.Get("Location"), nil, nil); code != 200 {
		t.Errorf("its end: %d", code)
	}
	if code, _, _ := c.arm("GET", second, nil); code != http.StatusNotFound {
		t.Errorf("after: %d", code)
	}
	if code, _, doc := c.arm("DELETE", c.subscription("/resourceGroups/rg", "2023-07-01"), nil); code != 409 {
		t.Errorf("delete what has machines: %d %v", code, doc)
	}
}

// TestMachineAsConfigured: the properties that a client compares with its
// configuration, and what it looks up before that.
func TestMachineAsConfigured(t *testing.T) {
	f, _, _ := testFabric(t)
	vm := f.CreateVM("vm-tf", Provision(Provisioning{User: "me", HostName: "tf", SSHKeys: []string{"ssh-ed25519 AAAA me"}, UserData: []byte("hello")}))
	c := client{t, vm}
	_, _, doc := c.arm("GET", "?$expand=userData", nil)
	at := func(v any, path ...string) any {
		for _, key := range path {
			switch x := v.(type) {
			case map[string]any:
				v = x[key]
			case []any:
				if len(x) != 1 {
					return x
				}
				v = x[0].(map[string]any)[key]
			default:
				return nil
			}
		}
		return v
	}
	properties := doc["properties"]
	for want, got := range map[string]any{
		"aGVsbG8=":            at(properties, "userData"),
		"ssh-ed25519 AAAA me": at(properties, "osProfile", "linuxConfiguration", "ssh", "publicKeys", "keyData"),
		"ImageDefault":        at(properties, "osProfile", "linuxConfiguration", "patchSettings", "patchMode"),
		"ReadWrite":           at(properties, "storageProfile", "osDisk", "caching"),
	} {
		if got != want {
			t.Errorf("%v, want %s in %v", got, want, properties)
		}
	}
	disk, _ := at(properties, "storageProfile", "osDisk", "managedDisk", "id").(string)
	_, _, doc = c.arm("GET", arm+disk+"?api-version=2023-04-02", nil)
	if at(doc, "sku", "name") != at(properties, "storageProfile", "osDisk", "managedDisk", "storageAccountType") || at(doc, "managedBy") != vm.resourceID() {
		t.Errorf("disk %s: %v", disk, doc)
	}
	nic, _ := at(properties, "networkProfile", "networkInterfaces", "id").(string)
	_, _, doc = c.arm("GET", arm+nic+"?api-version=2023-09-01", nil)
	if at(doc, "properties", "ipConfigurations", "properties", "privateIPAddress") != vm.address || at(doc, "properties", "macAddress") != "00-0D-3A-00-00-02" {
		t.Errorf("network interface %s: %v", nic, doc)
	}
	if code, _, doc := c.arm("GET", arm+nic+"x?api-version=2023-09-01", nil); code != 404 || at(doc, "error", "code") != "ResourceNotFound" {
		t.Errorf("another network interface: %d %v", code, doc)
	}

	// A PATCH returns an operation that can be polled. Forbidding extension
	// operations does not mean that the VM has no agent.
	code, header, doc := c.arm("PATCH", "", map[string]any{"properties": map[string]any{"osProfile": map[string]any{"allowExtensionOperations": false}}})
	if code != 200 || at(doc, "properties", "osProfile", "allowExtensionOperations") != false || at(doc, "properties", "osProfile", "linuxConfiguration", "provisionVMAgent") != true {
		t.Errorf("patch: %d %v", code, doc)
	}
	if op := c.poll(header); op["status"] != "Succeeded" {
		t.Errorf("operation: %v", op)
	}
	if code, _, doc := c.arm("PUT", "/extensions/x", extensionBody("Contoso.One", "1.0", nil)); code != 409 {
		t.Errorf("an extension although forbidden: %d %v", code, doc)
	}
	vm.SetConfig(func(c *Config) { c.NoAgent = true })
	if code, _, doc := c.arm("PATCH", "", map[string]any{"properties": map[string]any{"osProfile": map[string]any{"allowExtensionOperations": true}}}); code != 400 {
		t.Errorf("allowed without an agent: %d %v", code, doc)
	}
}

// TestControlPlaneFaults: an injected failure looks like one of ARM, and can be
// limited to one machine.
func TestControlPlaneFaults(t *testing.T) {
	f, vm, c := testFabric(t)
	other := client{t, f.CreateVM("vm-02")}
	vm.Fail(Control, 429, 1)
	if code, _, doc := other.arm("GET", "", nil); code != 200 {
		t.Errorf("another machine: %d %v", code, doc)
	}
	code, header, doc := c.arm("GET", "", nil)
	if e, _ := doc["error"].(map[string]any); code != 429 || header.Get("Retry-After") == "" || e["code"] != "TooManyRequests" || !strings.HasPrefix(header.Get("Content-Type"), "application/json") {
		t.Errorf("%d %v %v", code, header, doc)
	}
	if code, _, doc := c.arm("GET", "", nil); code != 200 {
		t.Errorf("afterwards: %d %v", code, doc)
	}
	e := f.Journal(Query{Kind: Control, VM: vm.name})
	if len(e) != 2 || e[0].Fault == "" {
		t.Errorf("journal: %v", e)
	}
}

// TestNamesOfResources: clients vary the case of names, and the spelling of
// regions.
func TestNamesOfResources(t *testing.T) {
	_, vm, c := testFabric(t)
	body := extensionBody("Contoso.Multi", "1.0", map[string]any{"settings": map[string]any{"a": 1}})
	body["location"] = "West Europe"
	if code, _, doc := c.arm("PUT", "/extensions/first", body); code != 201 || doc["location"] != "westeurope" {
		t.Fatalf("made: %d %v", code, doc)
	}
	body["location"] = "westeurope"
	if code, _, doc := c.arm("PUT", "/extensions/FIRST", body); code != 200 || doc["name"] != "first" || !strings.HasSuffix(doc["id"].(string), "/first") {
		t.Errorf("in capitals: %d %v", code, doc)
	}
	// The guest would treat another spelling as another extension.
	if _, doc := c.sub("ExtensionsConfig", nil); strings.Contains(doc, "FIRST") || !strings.Contains(doc, `name="first"`) {
		t.Error(doc)
	}
	body["location"] = "mars"
	if code, _, doc := c.arm("PUT", "/extensions/first", body); code != 409 || !strings.Contains(fmt.Sprint(doc), "InvalidResourceLocation") {
		t.Errorf("elsewhere: %d %v", code, doc)
	}
	if len(vm.extensions) != 1 {
		t.Errorf("%d extensions", len(vm.extensions))
	}
}

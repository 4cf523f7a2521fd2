package fabric

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/azguest/azguest/test/fabric/pki"
)

func extensionBody(handler, version string, properties map[string]any) map[string]any {
	publisher, kind := splitHandler(handler)
	p := map[string]any{"publisher": publisher, "type": kind, "typeHandlerVersion": version}
	maps.Copy(p, properties)
	return map[string]any{"location": "westeurope", "properties": p}
}

func TestExtensionLifecycle(t *testing.T) {
	for _, fast := range []bool{false, true} {
		t.Run(fmt.Sprintf("fasttrack=%t", fast), func(t *testing.T) {
			_, vm, c := testFabric(t, func(o *Options) { o.FastTrack = fast })
			goal := func() any { // as an agent reports the goal state it has processed
				if !fast {
					return fmt.Sprint(vm.Incarnation())
				}
				_, _, doc := c.vmSettings("")
				return doc["inSvdSeqNo"]
			}
			body := extensionBody("Contoso.One", "1.0", map[string]any{"settings": map[string]any{"n": 12345678901234567}, "protectedSettings": map[string]any{"s": 1}})
			code, header, doc := c.arm("PUT", "/EXTENSIONS/one", body)
			if code != 201 || doc["properties"].(map[string]any)["provisioningState"] != "Creating" {
				t.Fatalf("put: %d %v", code, doc)
			}
			if strings.Contains(fmt.Sprint(doc), "protectedSettings") {
				t.Error("protected settings came back")
			}
			if op := c.poll(header); op["status"] != "InProgress" {
				t.Errorf("operation %v", op)
			}
			c.putStatus(statusBody(goal(), handlerOf("Contoso.One", "1.0.10", "Ready", 0, "Plugin enabled").ext(0, "", "transitioning", "working")))
			if op := c.poll(header); op["status"] != "InProgress" {
				t.Errorf("operation after transitioning: %v", op)
			}
			c.putStatus(statusBody(goal(), handlerOf("Contoso.One", "1.0.10", "Ready", 0, "Plugin enabled").ext(0, "", "success", "done well")))
			if op := c.poll(header); op["status"] != "Succeeded" || op["endTime"] == nil {
				t.Errorf("operation after success: %v", op)
			}
			_, _, doc = c.arm("GET", "/extensions/One?$expand=instanceView", nil)
			view := doc["properties"].(map[string]any)["instanceView"].(map[string]any)
			if view["typeHandlerVersion"] != "1.0.10" || fmt.Sprint(view["statuses"]) == "" || !strings.Contains(fmt.Sprint(view), "ProvisioningState/succeeded") {
				t.Errorf("instance view %v", view)
			}

			// The same settings keep the sequence number, others raise it.
			seq := func() int { return vm.extensions[0].seq }
			c.arm("PUT", "/extensions/one", body)
			if seq() != 0 {
				t.Errorf("seq %d after the same settings", seq())
			}
			body["properties"].(map[string]any)["settings"] = map[string]any{"n": 2}
			code, header, doc = c.arm("PUT", "/extensions/one", body)
			if code != 200 || seq() != 1 || doc["properties"].(map[string]any)["provisioningState"] != "Updating" {
				t.Errorf("second put: %d seq %d %v", code, seq(), doc)
			}
			c.putStatus(statusBody(goal(), handlerOf("Contoso.One", "1.0.10", "Ready", 0, "").ext(0, "", "success", "old")))
			if op := c.poll(header); op["status"] != "InProgress" {
				t.Errorf("an old sequence number ended the operation: %v", op)
			}
			c.putStatus(statusBody(goal(), handlerOf("Contoso.One", "1.0.10", "Ready", 0, "").ext(1, "", "error", "it broke")))
			op := c.poll(header)
			if e, _ := op["error"].(map[string]any); op["status"] != "Failed" || e["code"] != "VMExtensionProvisioningError" || !strings.Contains(fmt.Sprint(e["message"]), "it broke") {
				t.Errorf("operation after error: %v", op)
			}
			if _, _, vmDoc := c.arm("GET", "?$expand=instanceView", nil); vmDoc["properties"].(map[string]any)["provisioningState"] != "Failed" {
				t.Errorf("vm %v", vmDoc)
			}
			c.arm("PUT", "/extensions/one", body)
			if seq() != 2 {
				t.Errorf("seq %d when a failure is repeated", seq())
			}

			code, header, _ = c.arm("DELETE", "/extensions/one", nil)
			if code != 202 || header.Get("Location") == "" {
				t.Fatalf("delete: %d", code)
			}
			c.putStatus(statusBody(goal(), handlerOf("Contoso.One", "1.0.10", "Ready", 0, "").ext(1, "", "success", "")))
			if op := c.poll(header); op["status"] != "InProgress" {
				t.Errorf("delete ended with the row still there: %v", op)
			}
			c.putStatus(statusBody(goal()))
			if op := c.poll(header); op["status"] != "Succeeded" {
				t.Errorf("delete: %v", op)
			}
			code, _, doc = c.arm("GET", "/extensions/one", nil)
			if e, _ := doc["error"].(map[string]any); code != 404 || e["code"] != "ResourceNotFound" {
				t.Errorf("after delete: %d %v", code, doc)
			}
			if code, _, _ := c.arm("DELETE", "/extensions/one", nil); code != 204 {
				t.Errorf("delete again: %d", code)
			}
			c.arm("PUT", "/extensions/one", body)
			if seq() != 3 {
				t.Errorf("seq %d after delete and create", seq())
			}
		})
	}
}

func TestGoalStateOfDeletion(t *testing.T) {
	_, vm, c := testFabric(t)
	if err := vm.PutExtension("Contoso.One", "1.0", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	if err := vm.DeleteExtension("One"); err != nil {
		t.Fatal(err)
	}
	_, doc := c.sub("ExtensionsConfig", nil)
	if !strings.Contains(doc, `state="uninstall"`) || strings.Contains(doc, "RuntimeSettings") {
		t.Error(doc)
	}
	c.putStatus(statusBody("3"))
	vm.Announce(false)
	if _, doc := c.sub("ExtensionsConfig", nil); strings.Contains(doc, "Contoso.One") {
		t.Error("a deleted extension came back")
	}
}

func TestProtectedSettings(t *testing.T) {
	for _, cipher := range []string{pki.Cipher3DES, pki.CipherAES256} {
		t.Run(cipher, func(t *testing.T) {
			_, vm, c := testFabric(t)
			vm.SetConfig(func(c *Config) { c.SettingsCipher = cipher })
			if err := vm.Put(Extension{Handler: "Contoso.One", Version: "1.0", Protected: map[string]any{"secret": "ä"}}); err != nil {
				t.Fatal(err)
			}
			_, doc := c.sub("ExtensionsConfig", nil)
			var settings struct {
				Runtime []struct {
					Settings struct{ ProtectedSettings, ProtectedSettingsCertThumbprint string } `json:"handlerSettings"`
				} `json:"runtimeSettings"`
			}
			if err := json.Unmarshal([]byte(element(doc, "RuntimeSettings")), &settings); err != nil {
				t.Fatal(err)
			}
			s := settings.Runtime[0].Settings
			cert, key, err := vm.Certificate()
			if err != nil || s.ProtectedSettingsCertThumbprint != pki.Thumbprint(cert) {
				t.Fatalf("thumbprint %s, %v", s.ProtectedSettingsCertThumbprint, err)
			}
			p8, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			write(t, dir, "x.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))
			write(t, dir, "x.prv", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}))
			der, err := base64.StdEncoding.DecodeString(s.ProtectedSettings)
			if err != nil {
				t.Fatal(err)
			}
			for _, tool := range []string{"cms", "smime"} {
				got := openssl(t, dir, der, tool, "-inform", "DER", "-decrypt", "-recip", "x.crt", "-inkey", "x.prv")
				if string(got) != `{"secret":"ä"}` {
					t.Errorf("%s: %q", tool, got)
				}
			}
			// The next goal state repeats the same bytes; a new certificate
			// changes them.
			vm.Announce(false)
			if _, again := c.sub("ExtensionsConfig", nil); element(again, "RuntimeSettings") != element(doc, "RuntimeSettings") {
				t.Error("protected settings were encrypted again")
			}
			if err := vm.RotateCertificate(); err != nil {
				t.Fatal(err)
			}
			if _, again := c.sub("ExtensionsConfig", nil); element(again, "RuntimeSettings") == element(doc, "RuntimeSettings") {
				t.Error("protected settings are still for the old certificate")
			}
		})
	}
}

func TestVersionChoice(t *testing.T) {
	for _, tc := range []struct {
		requested string
		upgrade   bool
		want      string
	}{
		{"1.0", false, "1.0.10"}, {"1.0", true, "1.3.0"}, {"1.2", true, "1.3.0"}, {"1.2", false, ""}, {"2.0", false, "2.0.0"}, {"3.0", true, ""}, {"1", true, "1.3.0"},
	} {
		f, _, _ := testFabric(t)
		if got, _ := f.packages["contoso.one"].choose(tc.requested, tc.upgrade); got != tc.want {
			t.Errorf("%s upgrade=%t: %q, want %q", tc.requested, tc.upgrade, got, tc.want)
		}
	}
}

func TestControlPlaneRefuses(t *testing.T) {
	_, vm, c := testFabric(t)
	if err := vm.PutExtension("Contoso.Two", "1.0", nil); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, resource string
		body           any
		status         int
		code           string
	}{
		{"unknown type", "x", extensionBody("Contoso.None", "1.0", nil), 404, "ArtifactNotFound"},
		{"three parts", "x", extensionBody("Contoso.One", "1.0.2", nil), 400, "InvalidParameter"},
		{"no version", "x", extensionBody("Contoso.One", "", nil), 400, "InvalidParameter"},
		{"bad settings", "x", extensionBody("Contoso.One", "1.0", map[string]any{"settings": []int{1}}), 400, "InvalidParameter"},
		{"second of one handler", "x", extensionBody("Contoso.Two", "1.0", nil), 400, "BadRequest"},
		{"other type", "two", extensionBody("Contoso.One", "1.0", nil), 409, "PropertyChangeNotAllowed"},
		{"no object", "x", 7, 400, "InvalidRequestContent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, _, doc := c.arm("PUT", "/extensions/"+tc.resource, tc.body)
			e, _ := doc["error"].(map[string]any)
			if code != tc.status || e["code"] != tc.code {
				t.Errorf("%d %v, want %d %s", code, doc, tc.status, tc.code)
			}
		})
	}
	for path, want := range map[string]string{
		"https://management.fabric" + vm.resourceID(): "MissingApiVersionParameter",
		"https://management.fabric/subscriptions/x/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/v?api-version=1": "SubscriptionNotFound",
		"https://management.fabric" + strings.Replace(vm.resourceID(), "/rg/", "/no/", 1) + "?api-version=1":                      "ResourceGroupNotFound",
		"https://management.fabric" + strings.Replace(vm.resourceID(), "vm-01", "vm-02", 1) + "?api-version=1":                    "ResourceNotFound",
		"https://management.fabric" + strings.Replace(vm.resourceID(), "vm-01", "vm-02", 1) + "/extensions/x?api-version=1":       "ParentResourceNotFound",
	} {
		_, _, doc := c.arm("GET", path, nil)
		if e, _ := doc["error"].(map[string]any); e["code"] != want {
			t.Errorf("%s: %v, want %s", path, doc, want)
		}
	}
	vm.SetConfig(func(c *Config) { c.NoAgent = true })
	if code, _, doc := c.arm("PUT", "/extensions/y", extensionBody("Contoso.One", "1.0", nil)); code != 409 {
		t.Errorf("without agent: %d %v", code, doc)
	}
	lower := strings.ToLower(vm.resourceID())
	if code, _, _ := c.arm("GET", "https://management.fabric"+lower+"/extensions?api-version=1", nil); code != 200 {
		t.Errorf("lower case path: %d", code)
	}
}

// TestControlPlaneRefusesUnknownProperties: ARM refuses a property that does not
// exist. What was meant as a secret would be returned by the next GET.
func TestControlPlaneRefusesUnknownProperties(t *testing.T) {
	_, _, c := testFabric(t)
	for _, tc := range []struct{ path, property, want string }{
		{"/extensions/x", "protectedSetting", "Could not find member 'protectedSetting' on object of type 'VirtualMachineExtension'. Path 'properties.protectedSetting'. Did you mean 'protectedSettings'?"},
		{"/extensions/x", "protected_settings", "'protectedSettings'?"},
		{"/extensions/x", "setings", "'settings'?"},
		{"/extensions/x", "runAsPassword", "Could not find member"},
		{"/runCommands/x", "runAsPasword", "object of type 'VirtualMachineRunCommand'. Path 'properties.runAsPasword'. Did you mean 'runAsPassword'?"},
		{"/runCommands/x", "protectedSettings", "Could not find member"},
	} {
		body := extensionBody("Contoso.One", "1.0", nil)
		if strings.HasPrefix(tc.path, "/run") {
			body = map[string]any{"location": "x", "properties": map[string]any{"source": map[string]any{"script": "x"}}}
		}
		body["properties"].(map[string]any)[tc.property] = map[string]any{"k": "hunter2"}
		code, _, doc := c.arm("PUT", tc.path, body)
		e, _ := doc["error"].(map[string]any)
		if code != 400 || e["code"] != "InvalidRequestContent" || !strings.Contains(fmt.Sprint(e["message"]), tc.want) || strings.Contains(fmt.Sprint(doc), "hunter2") {
			t.Errorf("%s with %s: %d %v, want %q", tc.path, tc.property, code, doc, tc.want)
		}
		if code, _, doc := c.arm("GET", tc.path, nil); code != 404 {
			t.Errorf("%s with %s: %d %v", tc.path, tc.property, code, doc)
		}
	}
	base := "https://" + ManagementHost + c.vm.resourceID()
	for _, tc := range []struct {
		method, url, body, want string
	}{
		{"PUT", base + "/extensions/x", `{"tgas":{},"properties":{"publisher":"Contoso","type":"One","typeHandlerVersion":"1.0"}}`, "Path 'tgas'. Did you mean 'tags'?"},
		{"PATCH", base, `{"properties":{"osProfil":{}}}`, "Path 'properties.osProfil'. Did you mean 'osProfile'?"},
		{"PATCH", base, `{"Properties":{"OSProfile":{"allowExtensionOperation":false}}}`, "Path 'properties.osProfile.allowExtensionOperation'."},
		{"PUT", base[:strings.Index(base, "/providers/")] + "/providers/Microsoft.Resources/deployments/d", `{"properties":{"mode":"Incremental","parmeters":{},"template":{}}}`, "Did you mean 'parameters'?"},
	} {
		_, _, doc := c.arm(tc.method, tc.url+"?api-version=2024-07-01", json.RawMessage(tc.body))
		if e, _ := doc["error"].(map[string]any); e["code"] != "InvalidRequestContent" || !strings.Contains(fmt.Sprint(e["message"]), tc.want) {
			t.Errorf("%s %s: %v, want %q", tc.method, tc.body, doc, tc.want)
		}
	}
	if code, _, doc := c.arm("PATCH", base+"?api-version=2024-07-01", json.RawMessage(`{"properties":{"billingProfile":{"maxPrice":-1},"OSPROFILE":{"AllowExtensionOperations":true}}}`)); code != 200 {
		t.Errorf("what the fabric does not use: %d %v", code, doc)
	}
	// Names are known in any case, and so is which of them are secret.
	code, _, doc := c.arm("PUT", "/runCommands/y", map[string]any{"location": "x", "properties": map[string]any{
		"Source": map[string]any{"script": "x"}, "RUNASPASSWORD": "hunter2", "protectedparameters": []any{map[string]any{"name": "a", "value": "hunter2"}},
	}})
	if code != 201 || strings.Contains(fmt.Sprint(doc), "hunter2") {
		t.Errorf("%d %v", code, doc)
	}
}

func TestMultiConfig(t *testing.T) {
	_, vm, c := testFabric(t)
	for _, name := range []string{"first", "second"} {
		if err := vm.Put(Extension{Name: name, Handler: "Contoso.Multi", Version: "1.0", Settings: map[string]any{"a": name}}); err != nil {
			t.Fatal(err)
		}
	}
	_, doc := c.sub("ExtensionsConfig", nil)
	if strings.Count(doc, "<ExtensionRuntimeSettings") != 2 || strings.Count(doc, "<Plugin name=") != 2 {
		t.Fatal(doc)
	}
	ready := func() row { return handlerOf("Contoso.Multi", "1.0.0", "Ready", 0, "") }
	c.putStatus(statusBody("3", ready().ext(0, "first", "success", "a"), ready().ext(0, "second", "error", "b")))
	if state, err := vm.ProvisioningState("first"); state != "Succeeded" {
		t.Errorf("first: %s %v", state, err)
	}
	if state, err := vm.ProvisioningState("second"); state != "Failed" || err == nil {
		t.Errorf("second: %s %v", state, err)
	}
	if err := vm.DeleteExtension("first"); err != nil {
		t.Fatal(err)
	}
	_, doc = c.sub("ExtensionsConfig", nil)
	if !strings.Contains(doc, `name="first" state="disabled"`) || !strings.Contains(doc, `state="enabled" autoUpgrade`) {
		t.Error(doc)
	}
	c.putStatus(statusBody("4", ready().ext(0, "second", "error", "b")))
	if state, _ := vm.ProvisioningState("first"); state != "" {
		t.Errorf("first is %s", state)
	}
	if err := vm.DeleteExtension("second"); err != nil {
		t.Fatal(err)
	}
	if _, doc = c.sub("ExtensionsConfig", nil); !strings.Contains(doc, `state="uninstall"`) {
		t.Error(doc)
	}
}

func TestSequencing(t *testing.T) {
	_, vm, c := testFabric(t)
	for _, x := range []Extension{
		{Name: "one", Handler: "Contoso.One", Version: "1.0", Settings: map[string]any{}},
		{Name: "two", Handler: "Contoso.Two", Version: "1.0", Settings: map[string]any{}, After: []string{"one"}},
		{Name: "m", Handler: "Contoso.Multi", Version: "1.0", Settings: map[string]any{}, After: []string{"two", "one"}},
	} {
		if err := vm.Put(x); err != nil {
			t.Fatal(err)
		}
	}
	_, doc := c.sub("ExtensionsConfig", nil)
	for _, want := range []string{
		`<DependsOn dependencyLevel="1" />`, `<DependsOn dependencyLevel="2">`, `<DependsOn name="m" dependencyLevel="3">`, `<DependsOnExtension extension="two" handler="Contoso.Two" />`,
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("no %s in\n%s", want, doc)
		}
	}
	_, _, settings := c.vmSettings("")
	if !strings.Contains(fmt.Sprint(settings["extensionGoalStates"]), "dependencyLevel:3") {
		t.Error(settings["extensionGoalStates"])
	}
}

func TestTerminalHandlerFailure(t *testing.T) {
	_, vm, c := testFabric(t)
	if err := vm.PutExtension("Contoso.One", "1.0", map[string]any{}); err != nil {
		t.Fatal(err)
	}
	bad := func() row { return handlerOf("Contoso.One", "1.0.10", "NotReady", 1007, "install exited with 1") }
	c.putStatus(statusBody("1", bad()))
	if state, _ := vm.ProvisioningState("One"); state != "Creating" {
		t.Errorf("condemned by a status of an older goal state: %s", state)
	}
	c.putStatus(statusBody("2", handlerOf("Contoso.One", "1.0.10", "NotReady", 0, "Plugin installed but not enabled")))
	if state, _ := vm.ProvisioningState("One"); state != "Creating" {
		t.Errorf("code 0 ended the operation: %s", state)
	}
	c.putStatus(statusBody("2", bad()))
	if state, err := vm.ProvisioningState("One"); state != "Failed" || !strings.HasPrefix(fmt.Sprint(err), "VMExtensionHandlerNonTransientError") {
		t.Errorf("%s %v", state, err)
	}
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, vm, c := testFabric(t)
		if code, _, doc := c.arm("PATCH", "", map[string]any{"properties": map[string]any{"extensionsTimeBudget": "PT20M"}}); code != 200 {
			t.Fatalf("%d %v", code, doc)
		}
		if err := vm.PutExtension("Contoso.One", "1.0", map[string]any{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(19 * time.Minute)
		if state, _ := vm.ProvisioningState("One"); state != "Creating" {
			t.Errorf("too early: %s", state)
		}
		time.Sleep(2 * time.Minute)
		if _, err := vm.ProvisioningState("One"); err == nil || !strings.HasPrefix(err.Error(), "VMAgentStatusCommunicationError") {
			t.Errorf("silent agent: %v", err)
		}
		if err := vm.PutExtension("Contoso.Two", "1.0", map[string]any{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		c.putStatus(statusBody("3", handlerOf("Contoso.Two", "1.0.0", "Ready", 0, "").ext(0, "", "transitioning", "still at it")))
		time.Sleep(18 * time.Minute)
		vm.Await(t, ExtensionIs("Two", "Failed"))
		if _, err := vm.ProvisioningState("Two"); !strings.HasPrefix(err.Error(), "VMExtensionProvisioningTimeout") || !strings.Contains(err.Error(), "still at it") {
			t.Errorf("slow extension: %v", err)
		}
		_, _, doc := c.arm("GET", "/instanceView", nil)
		if !strings.Contains(fmt.Sprint(doc["vmAgent"]), "VM Agent is unresponsive.") {
			t.Errorf("agent %v", doc["vmAgent"])
		}
	})
}

func TestSuppressFailures(t *testing.T) {
	_, vm, c := testFabric(t)
	if err := vm.Put(Extension{Handler: "Contoso.One", Version: "1.0", Settings: map[string]any{}, SuppressFailures: true}); err != nil {
		t.Fatal(err)
	}
	c.putStatus(statusBody("2", handlerOf("Contoso.One", "1.0.10", "Ready", 0, "").ext(0, "", "error", "no")))
	if state, err := vm.ProvisioningState("One"); state != "Succeeded" || err != nil {
		t.Errorf("%s %v", state, err)
	}
}

func TestRunCommands(t *testing.T) {
	_, vm, c := testFabric(t)
	code, header, doc := c.arm("PUT", "/runCommands/hi", map[string]any{"location": "x", "properties": map[string]any{
		"source": map[string]any{"script": "echo hi"}, "runAsUser": "me", "runAsPassword": "pw", "outputBlobUri": "https://x/y?sig=1",
	}})
	if code != 201 || strings.Contains(fmt.Sprint(doc), "pw") {
		t.Fatalf("%d %v", code, doc)
	}
	_, config := c.sub("ExtensionsConfig", nil)
	if !strings.Contains(config, `name="hi" state="enabled"`) || !strings.Contains(config, `"outputBlobUri": "https://x/y"`) {
		t.Error(config)
	}
	said := `{"executionState":"Succeeded","exitCode":0,"output":"hi\n","error":""}`
	c.putStatus(statusBody("2", handlerOf(runCommandHandler, "1.3.7", "Ready", 0, "").ext(0, "hi", "success", said)))
	if op := c.poll(header); op["status"] != "Succeeded" {
		t.Errorf("%v", op)
	}
	_, _, doc = c.arm("GET", "/runCommands/hi?$expand=instanceView", nil)
	if view := doc["properties"].(map[string]any)["instanceView"].(map[string]any); view["executionState"] != "Succeeded" || view["output"] != "hi\n" {
		t.Errorf("%v", view)
	}
	if _, _, doc := c.arm("GET", "/extensions", nil); len(doc["value"].([]any)) != 0 {
		t.Errorf("run command among the extensions: %v", doc)
	}

	code, header, _ = c.arm("POST", "/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{"a", "b"}})
	if code != 202 {
		t.Fatalf("action: %d", code)
	}
	if code, _, doc := c.arm("POST", "/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{"a"}}); code != 409 {
		t.Errorf("second action: %d %v", code, doc)
	}
	c.putStatus(statusBody("3", handlerOf(runCommandHandler, "1.3.7", "Ready", 0, "").ext(0, "hi", "success", said),
		handlerOf(runCommandAction, "1.0.5", "Ready", 0, "").ext(0, "", "success", "Enable succeeded: \n[stdout]\nx\n[stderr]\n")))
	code, _, doc = c.arm("GET", header.Get("Location"), nil)
	if code != 200 || !strings.Contains(fmt.Sprint(doc), "Enable succeeded") {
		t.Errorf("result: %d %v", code, doc)
	}
	if code, _, _ := c.arm("POST", "/runCommand", map[string]any{"commandId": "RunShellScript", "script": []string{"a", "b"}}); code != 202 {
		t.Errorf("same action again: %d", code)
	}
	if seq := vm.extensions[1].seq; seq != 1 {
		t.Errorf("seq %d of the second action", seq)
	}
}

func TestHibernate(t *testing.T) {
	_, vm, c := testFabric(t, func(o *Options) { o.FastTrack = true })
	if err := vm.Put(Extension{Handler: "Contoso.One", Version: "1.0", Protected: map[string]any{"a": 1}}); err != nil {
		t.Fatal(err)
	}
	before, _, err := vm.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Hibernate(); err != nil {
		t.Fatal(err)
	}
	after, _, err := vm.Certificate()
	if err != nil || pki.Thumbprint(before) == pki.Thumbprint(after) {
		t.Errorf("certificate did not change (%v)", err)
	}
	if element(c.goalState(), "Incarnation") != "1" {
		t.Error(c.goalState())
	}
}

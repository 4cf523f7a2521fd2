package arm

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	armclient "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
)

// helloTemplate installs the sample with settings from its parameters.
const helloTemplate = `{
  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
  "contentVersion": "1.0.0.0",
  "parameters": {
    "vmName": { "type": "string" },
    "greeting": { "type": "string", "allowedValues": ["hello template", "hello again"] },
    "exitCode": { "type": "int", "defaultValue": 0 },
    "secret": { "type": "securestring", "defaultValue": "[newGuid()]" },
    "location": { "type": "string", "defaultValue": "[resourceGroup().location]" }
  },
  "variables": { "extension": "[format('{0}/{1}', parameters('vmName'), 'Hello')]" },
  "resources": [
    {
      "type": "Microsoft.Compute/virtualMachines/extensions",
      "apiVersion": "2022-11-01",
      "name": "[variables('extension')]",
      "location": "[parameters('location')]",
      "properties": {
        "publisher": "Azguest.Samples",
        "type": "Hello",
        "typeHandlerVersion": "1.0",
        "autoUpgradeMinorVersion": true,
        "settings": { "greeting": "[parameters('greeting')]", "exitCode": "[parameters('exitCode')]" },
        "protectedSettings": { "secret": "[parameters('secret')]" }
      }
    }
  ],
  "outputs": {
    "id": { "type": "string", "value": "[resourceId('Microsoft.Compute/virtualMachines/extensions', parameters('vmName'), 'Hello')]" },
    "state": { "type": "string", "value": "[reference(resourceId('Microsoft.Compute/virtualMachines/extensions', parameters('vmName'), 'Hello')).provisioningState]" }
  }
}
`

// deployTemplate is the part of TestAzureCLI about templates.
func deployTemplate(t *testing.T, c *guest, az func(string, ...string) any, refused func(string, ...string)) {
	t.Helper()
	if err := c.WriteFile("/root/hello.json", []byte(helloTemplate), 0o644); err != nil {
		t.Fatal(err)
	}
	of := func(action, name string) []string {
		return []string{"deployment", "group", action, "--resource-group", group, "--name", name}
	}
	with := func(action, name string, parameters ...string) []string {
		return append(append(of(action, name), "--template-file", "/root/hello.json", "--parameters", "vmName="+c.name), parameters...)
	}
	az(`"provisioningState": "Succeeded"`, with("validate", "hello", "greeting=hello template")...)
	made, _ := az(`"provisioningState": "Succeeded"`, with("create", "hello", "greeting=hello template", "secret=s3cret")...).(map[string]any)
	if s := asJSON(made); strings.Contains(s, "s3cret") || !strings.Contains(s, `"state":{"type":"String","value":"Succeeded"}`) {
		t.Errorf("deployed: %s", s)
	}
	az("hello template from 1.1.0; protected settings decrypted", "vm", "extension", "show", "--name", "Hello", "--instance-view", "--resource-group", group, "--vm-name", c.name)
	az(`"name": "hello"`, of("show", "hello")...)
	az(`"contentVersion": "1.0.0.0"`, of("export", "hello")...)
	az("Create", "deployment", "operation", "group", "list", "--resource-group", group, "--name", "hello")
	refused("told to fail with 7", with("create", "failing", "greeting=hello again", "exitCode=7")...)
	refused("is not part of the allowed value(s)", with("create", "wrong", "greeting=goodbye")...)
	az("failing", "deployment", "group", "list", "--resource-group", group)
	az("", of("delete", "hello")...)
}

// TestTemplate deploys a template with the SDK. Its client of deployments is in
// a module of its own, but the poller is the same.
func TestTemplate(t *testing.T) {
	c := newCloud(t)
	client, err := armclient.NewClient("test", "v1.0.0", token{}, c.options())
	if err != nil {
		t.Fatal(err)
	}
	pipeline := client.Pipeline()
	deploy := func(name string, parameters map[string]any) (map[string]any, error) {
		t.Helper()
		values := map[string]any{}
		for key, v := range parameters {
			values[key] = map[string]any{"value": v}
		}
		body := asJSON(map[string]any{"properties": map[string]any{"mode": "Incremental", "template": json.RawMessage(helloTemplate), "parameters": values}})
		req, err := runtime.NewRequest(t.Context(), http.MethodPut, c.url+"/subscriptions/"+subscription+"/resourcegroups/"+group+"/providers/Microsoft.Resources/deployments/"+name+"?api-version=2022-09-01")
		if err != nil {
			t.Fatal(err)
		}
		if err := req.SetBody(streaming.NopCloser(strings.NewReader(body)), "application/json"); err != nil {
			t.Fatal(err)
		}
		resp, err := pipeline.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		if !runtime.HasStatusCode(resp, http.StatusOK, http.StatusCreated) {
			return nil, runtime.NewResponseError(resp)
		}
		p, err := runtime.NewPoller[map[string]any](resp, pipeline, nil)
		if err != nil {
			return nil, err
		}
		return p.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	}
	made, err := deploy("sdk", map[string]any{"vmName": c.name, "greeting": "hello template", "secret": "s3cret"})
	if err != nil || !strings.Contains(asJSON(made), `"state":{"type":"String","value":"Succeeded"}`) || strings.Contains(asJSON(made), "s3cret") {
		t.Fatalf("deployed: %s %v", asJSON(made), err)
	}
	_, err = deploy("failing", map[string]any{"vmName": c.name, "greeting": "hello again", "exitCode": 7})
	if code(err) != "DeploymentFailed" || !strings.Contains(err.Error(), "ResourceDeploymentFailure") || !strings.Contains(err.Error(), "told to fail with 7") {
		t.Errorf("a failure: %v", err)
	}
	_, err = deploy("wrong", map[string]any{"vmName": c.name})
	if re, ok := errors.AsType[*azcore.ResponseError](err); !ok || re.StatusCode != http.StatusBadRequest || re.ErrorCode != "InvalidTemplate" {
		t.Errorf("a parameter short: %v", err)
	}
}

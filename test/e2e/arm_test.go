package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
)

// vmPath is the VM's resource ID.
const vmPath = "/subscriptions/00000000-0000-4000-8000-00000000f00d/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm-01"

// An extension is an extension as a customer requests it.
type extension struct {
	name, publisher, kind, version string
	settings, protected            map[string]any
}

// helloExtension is a request for the sample extension.
var helloExtension = extension{name: "hello", publisher: "Azguest.Samples", kind: "Hello", version: "1.0", settings: map[string]any{"greeting": "hello world"}, protected: map[string]any{"secret": "s3cret"}}

// arm sends a request to the control plane, as any client does.
func (c *cloud) arm(t testing.TB, method, path string, body, answer any) http.Header {
	t.Helper()
	if !strings.Contains(path, "://") {
		path = "http://" + fabric.ManagementHost + path + "?api-version=2024-07-01"
	}
	b, header, err := fabric.Remote{HTTP: c.Fabric.Client()}.Do(t.Context(), method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if answer != nil {
		if err := json.Unmarshal(b, answer); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, b)
		}
	}
	return header
}

// put creates or updates an extension and returns the URL of the operation.
func (c *cloud) put(t testing.TB, e extension) string {
	t.Helper()
	properties := map[string]any{
		"publisher": e.publisher, "type": e.kind, "typeHandlerVersion": e.version,
		"autoUpgradeMinorVersion": true, "settings": e.settings,
	}
	if e.protected != nil {
		properties["protectedSettings"] = e.protected
	}
	h := c.arm(t, http.MethodPut, vmPath+"/extensions/"+e.name, map[string]any{"location": "westeurope", "properties": properties}, nil)
	op := h.Get("Azure-AsyncOperation")
	if op == "" {
		t.Fatal("the control plane names no operation")
	}
	return op
}

// follow waits for the end of an operation and returns its error, "" if it
// succeeded.
func (c *cloud) follow(t testing.TB, operation string) string {
	t.Helper()
	var op struct {
		Status string
		Error  struct{ Code, Message string }
	}
	await(t, "operation "+operation, func() bool {
		c.arm(t, http.MethodGet, operation, nil, &op)
		return op.Status != "InProgress" && op.Status != ""
	})
	if op.Status == "Succeeded" {
		return ""
	}
	return fmt.Sprintf("%s: %s: %s", op.Status, op.Error.Code, op.Error.Message)
}

// view returns the instance view as text.
func (c *cloud) view(t testing.TB) string {
	t.Helper()
	var v json.RawMessage
	c.arm(t, http.MethodGet, vmPath+"/instanceView", nil, &v)
	return string(v)
}

// readyReports counts the Ready reports that the platform received.
func (c *cloud) readyReports() int {
	n := 0
	for _, e := range c.Fabric.Journal(fabric.Query{Kind: fabric.Health, Contains: "<State>Ready</State>"}) {
		if e.Code/100 == 2 {
			n++
		}
	}
	return n
}

// objections fails the test for requests that a strict platform would reject.
func (c *cloud) objections(t testing.TB) {
	t.Helper()
	for _, e := range c.Fabric.Journal(fabric.Query{Problems: true}) {
		if e.Kind != fabric.Control {
			t.Errorf("the platform objects to %s %s: %s", e.Method, e.URL, strings.Join(e.Problems, "; "))
		}
	}
}

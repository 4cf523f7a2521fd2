package arm

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine/machinetest"
	"github.com/azguest/azguest/test/sandbox"
)

// armAddress is the address of the control plane inside the machine's network.
const armAddress = "127.0.0.1:8443"

// TestAzureCLI: Debian's azure-cli, unmodified, registers the emulated cloud by
// its address alone, logs in and runs the commands of the documentation of
// extensions.
func TestAzureCLI(t *testing.T) {
	machinetest.Need(t)
	layer, err := sandbox.DebianLayer(t.Context(), "azure-cli")
	if err != nil {
		t.Skipf("Debian's azure-cli can't be had: %v", err)
	}
	c := newCloud(t, layer)
	if err := c.InNetwork(func() error { _, err := c.Fabric.Listen(fabric.ARM, armAddress, nil, true); return err }); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteFile("/root/ca.pem", c.ca, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, string, int) {
		t.Helper()
		r, err := c.RunCmd(t.Context(), sandbox.Cmd{
			Args: append([]string{"/usr/bin/python3", "-W", "ignore", "-m", "azure.cli"}, args...), Dir: "/root",
			Env: []string{
				"HOME=/root", "PATH=" + os.Getenv("PATH"), "REQUESTS_CA_BUNDLE=/root/ca.pem",
				"AZURE_CORE_COLLECT_TELEMETRY=0", "AZURE_CORE_NO_COLOR=1", "AZURE_CORE_ONLY_SHOW_ERRORS=1",
			},
		})
		if err != nil && r.Code == 0 {
			t.Fatalf("az %v: %v", args, err)
		}
		return r.Stdout, r.Stderr, r.Code
	}
	az := func(want string, args ...string) any {
		t.Helper()
		out, errOut, code := run(args...)
		if code != 0 {
			t.Fatalf("az %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errOut)
		}
		if !strings.Contains(out, want) {
			t.Errorf("az %s: %q is not in\n%s", strings.Join(args, " "), want, out)
		}
		var v any
		if json.Unmarshal([]byte(out), &v) != nil {
			return out
		}
		return v
	}
	refused := func(want string, args ...string) {
		t.Helper()
		out, errOut, code := run(args...)
		if code == 0 || !strings.Contains(errOut, want) {
			t.Errorf("az %s: exit code %d, want a refusal that says %q\n%s%s", strings.Join(args, " "), code, want, out, errOut)
		}
	}
	vm := []string{"--resource-group", group, "--vm-name", c.name}
	on := func(args ...string) []string { return append(args, vm...) }

	// TOOL13: what "fabric env az" prints; the first line is in run's environment.
	for _, line := range fabric.AzureCLI(armAddress, "/root/ca.pem")[1:] {
		az("", strings.Fields(line)[1:]...)
	}

	az(`"name": "vm-sdk"`, "vm", "show", "--resource-group", group, "--name", c.name)
	az(`"displayStatus": "Ready"`, "vm", "get-instance-view", "--resource-group", group, "--name", c.name)
	az("vm-sdk", "vm", "list")

	az(`"provisioningState": "Succeeded"`, on("vm", "extension", "set", "--publisher", "Azguest.Samples", "--name", "Hello", "--version", "1.0",
		"--settings", `{"greeting":"hello az"}`, "--protected-settings", `{"secret":"s3cret"}`)...)
	az("hello az from 1.1.0; protected settings decrypted", on("vm", "extension", "show", "--name", "Hello", "--instance-view")...)
	az(`"typePropertiesType": "Hello"`, on("vm", "extension", "list")...)
	// Without a version the client looks up the newest one itself.
	az(`"provisioningState": "Succeeded"`, on("vm", "extension", "set", "--publisher", "Azguest.Samples", "--name", "Events", "--settings", `{"a":1}`)...)
	refused("told to fail with 7", on("vm", "extension", "set", "--publisher", "Azguest.Samples", "--name", "Hello", "--version", "1.0", "--settings", `{"exitCode":7}`)...)
	refused("could not be found", on("vm", "extension", "set", "--publisher", "Azguest.Samples", "--name", "Nobody", "--version", "1.0")...)
	az("2.0.0", "vm", "extension", "image", "list-versions", "--location", location, "--publisher", "Azguest.Samples", "--name", "Hello")
	deployTemplate(t, c, az, refused)
	for _, name := range []string{"Hello", "Events"} {
		az("", on("vm", "extension", "delete", "--name", name)...)
	}
	if left := az("[]", on("vm", "extension", "list")...); len(left.([]any)) != 0 {
		t.Errorf("left over: %v", left)
	}

	az("to be or not", "vm", "run-command", "invoke", "--resource-group", group, "--name", c.name, "--command-id", "RunShellScript", "--scripts", "echo to be $1 $2", "--parameters", "or", "not")
	az("RunShellScript", "vm", "run-command", "list", "--location", location)
	az("echo", "vm", "run-command", "show", "--location", location, "--command-id", "RunShellScript")
	az(`"provisioningState": "Succeeded"`, on("vm", "run-command", "create", "--run-command-name", "managed", "--location", location, "--script", "echo managed by az", "--timeout-in-seconds", "60")...)
	az("managed by az", on("vm", "run-command", "show", "--run-command-name", "managed", "--instance-view")...)
	az(`"name": "managed"`, on("vm", "run-command", "list")...)
	az("", on("vm", "run-command", "delete", "--run-command-name", "managed", "--yes")...)

	this := func(command string, more ...string) []string {
		return append([]string{"vm", command, "--resource-group", group, "--name", c.name}, more...)
	}
	az(`"team": "one"`, this("update", "--set", "tags.team=one")...)
	if got := c.Sh(t, "agentctl metadata compute/tags"); got != "team:one" {
		t.Errorf("tags: %s", got)
	}
	az("", this("redeploy")...)
	az("", this("perform-maintenance")...)
	az("", this("simulate-eviction")...)
	if e := c.VM.ScheduledEvents(); len(e) != 1 || e[0].Type != fabric.Preempt {
		t.Errorf("events: %+v", e)
	}
	az("", this("restart")...)
	az("", "vm", "deallocate", "--resource-group", group, "--name", c.name)
	refused("not running", on("vm", "extension", "set", "--publisher", "Azguest.Samples", "--name", "Hello", "--version", "1.0")...)
	az("", "vm", "start", "--resource-group", group, "--name", c.name)
	az(group, "group", "list")
	az("Microsoft.Compute", "provider", "show", "--namespace", "Microsoft.Compute")
}

package arm

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

const (
	group    = "rg"
	location = "westeurope"
)

// done polls an operation with the SDK until it ends.
func done[T any](t *testing.T, p *runtime.Poller[T], err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// code returns the code of ARM's error.
func code(err error) string {
	if re, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return re.ErrorCode
	}
	return ""
}

// greeting is a request for the sample extension.
func greeting(settings, protected map[string]any) armcompute.VirtualMachineExtension {
	x := armcompute.VirtualMachineExtension{
		Location: new(location),
		Tags:     map[string]*string{"made-by": new("sdk")},
		Properties: &armcompute.VirtualMachineExtensionProperties{
			Publisher: new("Azguest.Samples"), Type: new("Hello"), TypeHandlerVersion: new("1.0"),
			AutoUpgradeMinorVersion: new(true), Settings: settings,
		},
	}
	if protected != nil {
		x.Properties.ProtectedSettings = protected
	}
	return x
}

func TestExtensions(t *testing.T) {
	c := newCloud(t)
	client := c.factory(t).NewVirtualMachineExtensionsClient()
	expand := &armcompute.VirtualMachineExtensionsClientGetOptions{Expand: new("instanceView")}

	if _, err := client.Get(t.Context(), group, c.name, "hello", nil); code(err) != "ResourceNotFound" {
		t.Fatalf("before there is one: %v", err)
	}
	settings := map[string]any{"greeting": "hello sdk", "nested": map[string]any{"n": 1.5, "list": []any{"a", nil, true}}}
	p, err := client.BeginCreateOrUpdate(t.Context(), group, c.name, "hello", greeting(settings, map[string]any{"secret": "s3cret"}), nil)
	made := done(t, p, err).VirtualMachineExtension
	if made.Properties == nil || value(made.Properties.ProvisioningState) != "Succeeded" || value(made.Name) != "hello" ||
		value(made.Type) != "Microsoft.Compute/virtualMachines/extensions" || !strings.HasSuffix(value(made.ID), "/virtualMachines/"+c.name+"/extensions/hello") {
		t.Errorf("made: %s", asJSON(made))
	}
	// Terraform compares these: settings are returned unchanged, protected
	// settings not at all.
	if got := asJSON(made.Properties.Settings); got != asJSON(settings) {
		t.Errorf("settings %s, want %s", got, asJSON(settings))
	}
	if made.Properties.ProtectedSettings != nil {
		t.Errorf("protected settings came back: %s", asJSON(made))
	}
	if value(made.Tags["made-by"]) != "sdk" || value(made.Location) != location {
		t.Errorf("tags or location: %s", asJSON(made))
	}

	got, err := client.Get(t.Context(), group, c.name, "hello", expand)
	if err != nil {
		t.Fatal(err)
	}
	view := got.Properties.InstanceView
	if view == nil || len(view.Statuses) != 1 || value(view.Statuses[0].Code) != "ProvisioningState/succeeded" ||
		!strings.Contains(value(view.Statuses[0].Message), "hello sdk from 1.1.0") || view.Statuses[0].Time == nil ||
		value(view.TypeHandlerVersion) != "1.1.0" || value(view.Type) != "Azguest.Samples.Hello" {
		t.Errorf("instance view: %s", asJSON(view))
	}
	if level := view.Statuses[0].Level; level == nil || *level != armcompute.StatusLevelTypesInfo {
		t.Errorf("level: %s", asJSON(view))
	}

	// PATCH keeps properties that it doesn't name.
	up, err := client.BeginUpdate(t.Context(), group, c.name, "hello", armcompute.VirtualMachineExtensionUpdate{
		Properties: &armcompute.VirtualMachineExtensionUpdateProperties{Settings: map[string]any{"greeting": "patched"}},
	}, nil)
	if patched := done(t, up, err); value(patched.Properties.Type) != "Hello" || value(patched.Properties.ProvisioningState) != "Succeeded" {
		t.Errorf("patched: %s", asJSON(patched))
	}
	list, err := client.List(t.Context(), group, c.name, &armcompute.VirtualMachineExtensionsClientListOptions{Expand: new("instanceView")})
	if err != nil || len(list.Value) != 1 || !strings.Contains(asJSON(list.Value[0].Properties.InstanceView), "patched from 1.1.0; protected settings decrypted") {
		t.Errorf("list: %s %v", asJSON(list), err)
	}

	// If the handler fails, the operation fails, and the resource remains.
	p, err = client.BeginCreateOrUpdate(t.Context(), group, c.name, "hello", greeting(map[string]any{"exitCode": 7}, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	if code(err) != "VMExtensionProvisioningError" || !strings.Contains(err.Error(), "told to fail with 7") {
		t.Errorf("failed operation: %v", err)
	}
	if got, err = client.Get(t.Context(), group, c.name, "hello", expand); err != nil || value(got.Properties.ProvisioningState) != "Failed" {
		t.Errorf("after a failure: %s %v", asJSON(got), err)
	}
	if s := got.Properties.InstanceView.Statuses; len(s) != 1 || !strings.HasPrefix(value(s[0].Code), "ProvisioningState/failed/") || *s[0].Level != armcompute.StatusLevelTypesError {
		t.Errorf("instance view of a failure: %s", asJSON(got.Properties.InstanceView))
	}

	// Rejected requests.
	for want, change := range map[string]func(*armcompute.VirtualMachineExtensionProperties){
		"InvalidParameter":         func(p *armcompute.VirtualMachineExtensionProperties) { p.TypeHandlerVersion = new("1.0.0") },
		"ArtifactNotFound":         func(p *armcompute.VirtualMachineExtensionProperties) { p.Type = new("Nobody") },
		"ArtifactVersionNotFound":  func(p *armcompute.VirtualMachineExtensionProperties) { p.TypeHandlerVersion = new("9.9") },
		"PropertyChangeNotAllowed": nil,
	} {
		x, name := greeting(nil, nil), "other"
		if change != nil {
			change(x.Properties)
		} else {
			x.Properties.Type, name = new("Slow"), "hello"
		}
		if _, err := client.BeginCreateOrUpdate(t.Context(), group, c.name, name, x, nil); code(err) != want {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := client.BeginCreateOrUpdate(t.Context(), group, "nowhere", "hello", greeting(nil, nil), nil); code(err) != "ParentResourceNotFound" {
		t.Errorf("no such machine: %v", err)
	}
	if _, err := client.Get(t.Context(), "nowhere", c.name, "hello", nil); code(err) != "ResourceGroupNotFound" {
		t.Errorf("no such group: %v", err)
	}

	d, err := client.BeginDelete(t.Context(), group, c.name, "hello", nil)
	done(t, d, err)
	if _, err := client.Get(t.Context(), group, c.name, "hello", nil); code(err) != "ResourceNotFound" {
		t.Errorf("after deletion: %v", err)
	}
	d, err = client.BeginDelete(t.Context(), group, c.name, "hello", nil) // 204
	done(t, d, err)
}

// TestResume: a poller that was saved and loaded again, as by Terraform and
// pipelines, continues.
func TestResume(t *testing.T) {
	c := newCloud(t)
	client := c.factory(t).NewVirtualMachineExtensionsClient()
	x := greeting(map[string]any{"seconds": 2}, nil)
	x.Properties.Type = new("Slow")
	p, err := client.BeginCreateOrUpdate(t.Context(), group, c.name, "slow", x, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := p.ResumeToken()
	if err != nil {
		t.Fatal(err)
	}
	p, err = client.BeginCreateOrUpdate(t.Context(), group, c.name, "slow", x, &armcompute.VirtualMachineExtensionsClientBeginCreateOrUpdateOptions{ResumeToken: token})
	if got := done(t, p, err); value(got.Properties.ProvisioningState) != "Succeeded" {
		t.Errorf("resumed: %s", asJSON(got))
	}
}

func TestMachine(t *testing.T) {
	c := newCloud(t)
	f := c.factory(t)
	vms := f.NewVirtualMachinesClient()
	vm, err := vms.Get(t.Context(), group, c.name, &armcompute.VirtualMachinesClientGetOptions{Expand: new(armcompute.InstanceViewTypesInstanceView)})
	if err != nil {
		t.Fatal(err)
	}
	if value(vm.Location) != location || vm.Properties == nil || value(vm.Properties.ProvisioningState) != "Succeeded" ||
		vm.Properties.OSProfile == nil || !*vm.Properties.OSProfile.LinuxConfiguration.ProvisionVMAgent || vm.Properties.TimeCreated == nil {
		t.Errorf("machine: %s", asJSON(vm))
	}
	agent := vm.Properties.InstanceView.VMAgent
	if agent == nil || len(agent.Statuses) != 1 || value(agent.Statuses[0].DisplayStatus) != "Ready" || value(agent.VMAgentVersion) == "Unknown" {
		t.Errorf("agent: %s", asJSON(agent))
	}
	view, err := vms.InstanceView(t.Context(), group, c.name, nil)
	if err != nil || value(view.ComputerName) != "sdk" || value(view.OSName) == "" || !slices.ContainsFunc(view.Statuses, func(s *armcompute.InstanceViewStatus) bool { return value(s.Code) == "PowerState/running" }) {
		t.Errorf("instance view: %s %v", asJSON(view), err)
	}
	list := vms.NewListPager(group, nil)
	page, err := list.NextPage(t.Context())
	if err != nil || len(page.Value) != 1 || list.More() {
		t.Errorf("list: %s %v", asJSON(page), err)
	}
	all := vms.NewListAllPager(nil)
	if page, err := all.NextPage(t.Context()); err != nil || len(page.Value) != 1 {
		t.Errorf("list of the subscription: %s %v", asJSON(page), err)
	}

	// The time of the agent's status advances.
	first := *agent.Statuses[0].Time
	await(t, "a later status", func() bool {
		v, err := vms.InstanceView(t.Context(), group, c.name, nil)
		return err == nil && v.VMAgent.Statuses[0].Time.After(first)
	})

	up, err := vms.BeginUpdate(t.Context(), group, c.name, armcompute.VirtualMachineUpdate{
		Tags: map[string]*string{"a": new("b")}, Properties: &armcompute.VirtualMachineProperties{ExtensionsTimeBudget: new("PT20M")},
	}, nil)
	if got := done(t, up, err); value(got.Properties.ExtensionsTimeBudget) != "PT20M" || value(got.Tags["a"]) != "b" {
		t.Errorf("updated: %s", asJSON(got))
	}
	re, err := vms.BeginReapply(t.Context(), group, c.name, nil)
	done(t, re, err)
	rs, err := vms.BeginRestart(t.Context(), group, c.name, nil)
	done(t, rs, err)
	off, err := vms.BeginDeallocate(t.Context(), group, c.name, nil)
	done(t, off, err)
	if _, err := f.NewVirtualMachineExtensionsClient().BeginCreateOrUpdate(t.Context(), group, c.name, "hello", greeting(nil, nil), nil); code(err) != "OperationNotAllowed" {
		t.Errorf("an extension for a stopped machine: %v", err)
	}
	on, err := vms.BeginStart(t.Context(), group, c.name, nil)
	done(t, on, err)

	images := f.NewVirtualMachineExtensionImagesClient()
	types, err := images.ListTypes(t.Context(), location, "Azguest.Samples", nil)
	if err != nil || !slices.ContainsFunc(types.VirtualMachineExtensionImageArray, func(i *armcompute.VirtualMachineExtensionImage) bool { return value(i.Name) == "Hello" }) {
		t.Errorf("types: %s %v", asJSON(types), err)
	}
	versions, err := images.ListVersions(t.Context(), location, "Azguest.Samples", "Hello", nil)
	if err != nil || len(versions.VirtualMachineExtensionImageArray) != 4 {
		t.Errorf("versions: %s %v", asJSON(versions), err)
	}
	newest, err := images.ListVersions(t.Context(), location, "Azguest.Samples", "Hello", &armcompute.VirtualMachineExtensionImagesClientListVersionsOptions{Top: new(int32(1)), Orderby: new("name desc")})
	if err != nil || len(newest.VirtualMachineExtensionImageArray) != 1 || value(newest.VirtualMachineExtensionImageArray[0].Name) != "2.0.0" {
		t.Errorf("newest version: %s %v", asJSON(newest), err)
	}
	image, err := images.Get(t.Context(), location, "Azguest.Samples", "Hello", "1.1.0", nil)
	if err != nil || value(image.Properties.OperatingSystem) != "Linux" {
		t.Errorf("image: %s %v", asJSON(image), err)
	}
}

func TestRunCommand(t *testing.T) {
	c := newCloud(t)
	f := c.factory(t)
	vms, commands := f.NewVirtualMachinesClient(), f.NewVirtualMachineRunCommandsClient()

	// The run command action, twice: it runs each time.
	input := armcompute.RunCommandInput{
		CommandID:  new("RunShellScript"),
		Script:     []*string{new("echo to be or"), new("echo not $1 >&2")},
		Parameters: []*armcompute.RunCommandInputParameter{{Name: new("what"), Value: new("tobe")}},
	}
	for range 2 {
		p, err := vms.BeginRunCommand(t.Context(), group, c.name, input, nil)
		out := done(t, p, err)
		if len(out.Value) == 0 || !strings.Contains(value(out.Value[0].Message), "[stdout]\nto be or") ||
			!strings.Contains(value(out.Value[0].Message), "not tobe") || value(out.Value[0].Code) != "ProvisioningState/succeeded" || *out.Value[0].Level != armcompute.StatusLevelTypesInfo {
			t.Errorf("run command: %s", asJSON(out))
		}
	}
	if _, err := vms.BeginRunCommand(t.Context(), group, c.name, armcompute.RunCommandInput{CommandID: new("Nothing")}, nil); code(err) != "NotFound" && code(err) != "InvalidParameter" {
		t.Errorf("unknown command: %v", err)
	}
	if list, err := f.NewVirtualMachineExtensionsClient().List(t.Context(), group, c.name, nil); err != nil || len(list.Value) != 0 {
		t.Errorf("the action shows as an extension: %s %v", asJSON(list), err)
	}

	// The list of commands.
	page, err := commands.NewListPager(location, nil).NextPage(t.Context())
	if err != nil || !slices.ContainsFunc(page.Value, func(d *armcompute.RunCommandDocumentBase) bool {
		return value(d.ID) == "RunShellScript" && *d.OSType == armcompute.OperatingSystemTypesLinux
	}) {
		t.Errorf("documents: %s %v", asJSON(page), err)
	}
	if doc, err := commands.Get(t.Context(), location, "RunShellScript", nil); err != nil || len(doc.Script) == 0 {
		t.Errorf("document: %s %v", asJSON(doc), err)
	}

	// Managed run commands.
	managed := func(script string) armcompute.VirtualMachineRunCommand {
		return armcompute.VirtualMachineRunCommand{Location: new(location), Properties: &armcompute.VirtualMachineRunCommandProperties{
			Source: &armcompute.VirtualMachineRunCommandScriptSource{Script: new(script)}, TimeoutInSeconds: new(int32(120)),
			RunAsPassword: new("s3cret"), ProtectedParameters: []*armcompute.RunCommandInputParameter{{Name: new("p"), Value: new("hidden")}},
		}}
	}
	both := map[string]*runtime.Poller[armcompute.VirtualMachineRunCommandsClientCreateOrUpdateResponse]{}
	for _, name := range []string{"one", "two"} {
		if both[name], err = commands.BeginCreateOrUpdate(t.Context(), group, c.name, name, managed("echo this is "+name), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(both)) {
		made := done(t, both[name], nil)
		if value(made.Properties.ProvisioningState) != "Succeeded" || value(made.Properties.Source.Script) != "echo this is "+name || *made.Properties.TimeoutInSeconds != 120 ||
			value(made.Type) != "Microsoft.Compute/virtualMachines/runCommands" || made.Properties.RunAsPassword != nil || made.Properties.ProtectedParameters != nil {
			t.Errorf("made: %s", asJSON(made))
		}
		got, err := commands.GetByVirtualMachine(t.Context(), group, c.name, name, &armcompute.VirtualMachineRunCommandsClientGetByVirtualMachineOptions{Expand: new("instanceView")})
		if err != nil {
			t.Fatal(err)
		}
		v := got.Properties.InstanceView
		if v == nil || *v.ExecutionState != armcompute.ExecutionStateSucceeded || *v.ExitCode != 0 || !strings.Contains(value(v.Output), "this is "+name) || v.StartTime == nil || v.EndTime == nil {
			t.Errorf("instance view: %s", asJSON(v))
		}
	}
	pager := commands.NewListByVirtualMachinePager(group, c.name, nil)
	if page, err := pager.NextPage(t.Context()); err != nil || len(page.Value) != 2 {
		t.Errorf("list: %s %v", asJSON(page), err)
	}
	up, err := commands.BeginUpdate(t.Context(), group, c.name, "one", armcompute.VirtualMachineRunCommandUpdate{Properties: &armcompute.VirtualMachineRunCommandProperties{
		Source: &armcompute.VirtualMachineRunCommandScriptSource{Script: new("echo again; exit 3")},
	}}, nil)
	if got := done(t, up, err); *got.Properties.TimeoutInSeconds != 120 {
		t.Errorf("patched: %s", asJSON(got))
	}
	got, err := commands.GetByVirtualMachine(t.Context(), group, c.name, "one", &armcompute.VirtualMachineRunCommandsClientGetByVirtualMachineOptions{Expand: new("instanceView")})
	if v := got.Properties.InstanceView; err != nil || *v.ExecutionState != armcompute.ExecutionStateFailed || *v.ExitCode != 3 || !strings.Contains(value(v.Output), "again") {
		t.Errorf("a script that fails: %s %v", asJSON(v), err)
	}
	// With TreatFailureAsDeploymentFailure, which Terraform sets, the operation
	// fails.
	up, err = commands.BeginUpdate(t.Context(), group, c.name, "one", armcompute.VirtualMachineRunCommandUpdate{Properties: &armcompute.VirtualMachineRunCommandProperties{
		Source: &armcompute.VirtualMachineRunCommandScriptSource{Script: new("echo worse >&2; exit 4")}, TreatFailureAsDeploymentFailure: new(true),
	}}, nil)
	if err == nil {
		_, err = up.PollUntilDone(t.Context(), &runtime.PollUntilDoneOptions{Frequency: time.Second})
	}
	if code(err) != "VMExtensionProvisioningError" || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("a script that must not fail: %v", err)
	}
	for _, name := range []string{"one", "two"} {
		d, err := commands.BeginDelete(t.Context(), group, c.name, name, nil)
		done(t, d, err)
		if _, err := commands.GetByVirtualMachine(t.Context(), group, c.name, name, nil); code(err) != "ResourceNotFound" {
			t.Errorf("after deletion: %v", err)
		}
	}
}

// TestRegistration: a client that finds the resource provider unregistered
// registers it. The SDK does so itself, but must not need to here.
func TestRegistration(t *testing.T) {
	c := newCloud(t)
	_, err := c.factory(t).NewVirtualMachinesClient().Get(t.Context(), group, c.name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.factory(t).NewUsageClient().NewListPager(location, nil).NextPage(t.Context()); err == nil {
		t.Error("what is not emulated was answered")
	} else if re, ok := errors.AsType[*azcore.ResponseError](err); !ok || re.StatusCode != http.StatusNotFound {
		t.Errorf("what is not emulated: %v", err)
	}
}

func value[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

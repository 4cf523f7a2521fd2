// Package fabric emulates the platform side of a Linux virtual machine on an
// Azure-style cloud: the WireServer, the HostGAPlugin, blob storage, the
// instance metadata service, and the control plane with its extension API. It
// also builds the provisioning DVD.
//
// It is written from the protocol and shares no code with the agent. It is
// strict: requests that a real platform rejects are rejected; faulty requests
// that the platform tolerates are served and recorded as problems in the
// journal.
//
// # In a test
//
// Client returns an http.Client for which the platform's addresses are this
// fabric, over net.Pipe, so a test of ten minutes of polling can run inside
// testing/synctest:
//
//	f := fabric.New(t)
//	f.AddPackage("Contoso.Echo", "1.0.0", zip)
//	vm := f.CreateVM("vm-01", fabric.Linux("azureuser", key))
//	vm.Fail(fabric.GoalState, 503, 2) // two failures, then good answers
//	go agent(f.Client(), vm.Media())
//	vm.PutExtension("Contoso.Echo", "1.0.0", map[string]any{"text": "hi"})
//	vm.Await(t, fabric.Ready("Contoso.Echo"))
//
// Listen provides network addresses for clients that need them, such as
// "127.0.0.1:0"; URLs inside the documents then name the address that the
// request arrived at.
//
// # The operation of an extension
//
// PutExtension, or a PUT to the control plane, chooses a version among the
// packages, gives the settings a sequence number, encrypts protected settings
// to the VM's tenant certificate, and announces a goal state: a new incarnation
// of the WireServer, or new vmSettings if the VM is configured for FastTrack.
// The operation ends when a status document decides it: the row of the handler
// with that version and sequence number reports success or error, the handler
// reports a terminal code, or the time budget is over. A deleted extension is
// gone once the status has no row for it. A template is deployed by the same
// PUTs, in the order of its dependencies.
//
// # Faults
//
// Fail takes a Fault: which requests (kind, VM, text in the URL, a header), how
// often (skip, times, duration, probability with a seed) and what happens
// (delay, status, body, headers, truncation, low bandwidth, reset; after the
// request was processed, or instead of it).
//
// # As a program
//
// Command test/cmd/fabric serves all this on real addresses; its help is the
// manual for extension authors and image builders.
//
// # Reading the code
//
// Begin with fabric.go and serve.go (listeners, and the path of every request),
// then vm.go and goalstate.go.
//
//   - the host: wireserver.go, documents.go, hostga.go, vmsettings.go, imds.go,
//     events.go, status.go
//   - storage and packages: storage.go, repository.go
//   - the control plane: arm.go (routes), arm_extensions.go, arm_runcommand.go,
//     arm_vm.go, arm_deployments.go, arm_deployment_resources.go, and crp.go,
//     which decides the result of an extension; the other arm_ files serve
//     further requests of clients
//   - for tests and people: control.go, await.go, fault.go, journal.go,
//     admin.go, adminclient.go
//   - the provisioning medium: ovf.go, dvd.go
//
// Code that needs no virtual machine is in packages of its own: armtemplate
// (the template language), media (disc images), pki (certificates, CMS, PFX).
// They and this package import nothing else of this repository.
//
// The rest is one flat package: host, storage and control plane are views of
// the same virtual machines and extensions under one mutex. A PUT to the
// control plane changes the goal state, an upload to storage ends an operation.
// Packages for them would have to export every field of VM and extension.
package fabric

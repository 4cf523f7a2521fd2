package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/azguest/azguest/test/fabric"
	"github.com/azguest/azguest/test/machine"
)

const (
	// Addresses of services that have no fixed address on the platform.
	armAddress  = gateway + ":8080"
	blobAddress = gateway + ":10000"

	armVersion = "?api-version=2024-07-01"
	vmName     = "vm-01"
)

// A Platform is the emulator running in a lab. The control plane is used over
// HTTP, as customers do; the guest's requests are read from the journal.
type Platform struct {
	Fabric  *fabric.Fabric
	VM      *fabric.VM
	control fabric.Remote
}

// startPlatform creates one VM and listens on the platform's addresses in the
// lab.
func (r *Run) startPlatform(vmID string) (*Platform, error) {
	journal, err := os.Create(r.lab.path("journal.json"))
	if err != nil {
		return nil, err
	}
	log, err := os.Create(r.lab.path("fabric.log"))
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	f, err := fabric.Open(fabric.Options{
		BlobURL: "http://" + blobAddress,
		Journal: journal,
		Log: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(log, format+"\n", args...)
		},
	})
	if err != nil {
		return nil, err
	}
	p := &Platform{Fabric: f, control: fabric.Remote{URL: "http://" + armAddress, VM: vmName, HTTP: r.lab.client()}}
	keys, err := r.publicKeys()
	if err != nil {
		return p, err
	}
	p.VM = f.CreateVM(vmName, fabric.VMID(vmID), fabric.Address(guestAddress), fabric.Provision(fabric.Provisioning{
		HostName: r.HostName, User: r.User, Password: r.Password, SSHKeys: keys,
		CustomData: []byte(r.CustomData),
	}))
	packages, err := samplePackages()
	if err != nil {
		return p, err
	}
	for version, zip := range packages {
		if err := f.AddPackage(sample.Publisher+"."+sample.Type, version, zip); err != nil {
			return p, err
		}
	}
	at := machine.Addresses()
	at[fabric.Blob], at[fabric.ARM] = blobAddress, armAddress
	return p, machine.Connect(r.lab, f, nil, at)
}

// Ready returns the times of the guest's Ready reports, oldest first.
func (p *Platform) Ready() []time.Time {
	var ready []time.Time
	for _, e := range p.health() {
		if strings.Contains(e.Body, "<State>Ready</State>") {
			ready = append(ready, e.Time)
		}
	}
	return ready
}

func (p *Platform) health() []fabric.Entry {
	return p.Fabric.Journal(fabric.Query{Kind: fabric.Health, VM: vmName})
}

// AwaitReady waits until the guest reports Ready after it was last switched on.
func (p *Platform) AwaitReady(ctx context.Context, m *Machine) (time.Time, error) {
	var when time.Time
	err := until(ctx, "the guest to report Ready", func() (bool, error) {
		if err := m.Died(); err != nil {
			return false, err
		}
		if h := p.VM.Health(); h.State == "NotReady" && h.SubStatus == "ProvisioningFailed" {
			return false, fmt.Errorf("the guest reports %s: %s", h.SubStatus, h.Description)
		}
		for _, at := range p.Ready() {
			if at.After(m.Started) {
				when = at
				return true, nil
			}
		}
		return false, nil
	})
	return when, err
}

// fetched counts the downloads of handler packages.
func (p *Platform) fetched() int {
	n := 0
	for _, kind := range []fabric.Kind{fabric.BlobGet, fabric.Artifact} {
		for _, e := range p.Fabric.Journal(fabric.Query{Kind: kind, Contains: ".zip"}) {
			if e.Method == http.MethodGet && e.Code/100 == 2 {
				n++
			}
		}
	}
	return n
}

const vmPath = "/subscriptions/00000000-0000-4000-8000-00000000f00d/resourceGroups/rg" +
	"/providers/Microsoft.Compute/virtualMachines/" + vmName

// An Extension is an extension as a customer requests it.
type Extension struct {
	Name, Publisher, Type, Version string
	Settings, Protected            map[string]any
}

// PutExtension creates an extension through the control plane and waits until
// the operation ends.
func (p *Platform) PutExtension(ctx context.Context, e Extension) error {
	body, err := json.Marshal(map[string]any{"location": "westeurope", "properties": map[string]any{
		"publisher": e.Publisher, "type": e.Type, "typeHandlerVersion": e.Version,
		"autoUpgradeMinorVersion": true, "settings": e.Settings, "protectedSettings": e.Protected,
	}})
	if err != nil {
		return err
	}
	_, err = p.control.PutExtension(ctx, e.Name, body, true)
	return err
}

// InstanceView is the part of the instance view that tests use.
type InstanceView struct {
	VMAgent struct {
		VMAgentVersion string
		Statuses       []ViewStatus
	}
	Extensions []struct {
		Name, Type  string
		Statuses    []ViewStatus
		Substatuses []ViewStatus
	}
}

// ViewStatus is a status in the instance view.
type ViewStatus struct{ Code, Level, DisplayStatus, Message string }

// View returns the instance view.
func (p *Platform) View(ctx context.Context) (InstanceView, error) {
	var v InstanceView
	b, _, err := p.control.Do(ctx, http.MethodGet, vmPath+"/instanceView"+armVersion, nil)
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	return v, err
}

// repoFile returns the newest built file in .build of the checkout that matches
// a pattern.
func repoFile(repo, pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(repo, ".build", pattern))
	if err != nil {
		return "", err
	}
	best, age := "", time.Time{}
	for _, f := range found {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(age) {
			best, age = f, info.ModTime()
		}
	}
	if best == "" {
		return "", fmt.Errorf("no .build/%s: run scripts/vm --prepare", pattern)
	}
	return best, nil
}

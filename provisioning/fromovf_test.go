package provisioning_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/ovf"
	"github.com/azguest/azguest/provisioning"
)

func TestFromDocument(t *testing.T) {
	t.Parallel()
	yes := true
	env := &ovf.Environment{
		HostName: " vm ", UserName: "bob\n", Password: host.NewSecret(" pw "), DisableSSHPassword: &yes,
		PublicKeys: []ovf.PublicKey{{Path: "p", Fingerprint: "F", Value: "v"}}, KeyPairs: []ovf.KeyPair{{Path: "q", Fingerprint: "G"}},
		CustomDataText: host.NewSecret("aGk="), CustomData: host.NewSecret("hi"),
		Platform: ovf.Platform{PreprovisionedVM: &yes, ProvisionGuestAgent: &yes},
	}
	want := provisioning.Input{
		VMID: vmID, HostName: "vm", UserName: "bob", Password: host.NewSecret(" pw "), DisablePasswordAuth: &yes,
		Keys: []provisioning.Key{{Path: "p", Fingerprint: "F", Value: "v"}}, KeyPairs: []provisioning.KeyPair{{Path: "q", Fingerprint: "G"}},
		CustomData:          provisioning.CustomData{Present: true, Text: host.NewSecret("aGk="), Data: host.NewSecret("hi")},
		ProvisionGuestAgent: &yes, PPS: provisioning.PPSRunning, Copy: []byte("x"),
	}
	if diff := cmp.Diff(want, provisioning.FromDocument(env, []byte("x"), vmID)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	bin := provisioning.FromDocument(&ovf.Environment{}, nil, vmID).WithCustomDataFile(host.NewSecret("\x00\xff"))
	if got := bin.CustomData.Data.Reveal(); got != "\x00\xff" || !bin.CustomData.Present {
		t.Errorf("custom data of the medium's file: %q", got)
	}
}

func TestWhatWasCutOffAfterReadyIsFinished(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "debian")
	o := options()
	o.ExecuteCustomData = true
	steps, later := provisioning.Split(plan(t, m, input(), o))
	slow := provisioning.MakeHostKeys([]string{"ed25519", "ecdsa"}) // RSA is never ready
	m.keys = slow
	if _, err := apply(t, m, steps, o, nil); err != nil {
		t.Fatal(err)
	}
	if m.root.Exists("/etc/ssh/ssh_host_rsa_key") || len(later) != 2 {
		t.Fatal("no host keys were left for later")
	}
	m.keys = nil
	left := m.provWith(o).Unfinished()
	if len(left) != 2 {
		t.Fatalf("unfinished: %v", left)
	}
	m.run.Answers["/bin/sh"] = answerIf(func() bool { return false }, "")
	if _, err := apply(t, m, left, o, nil); err != nil {
		t.Fatal(err)
	}
	if !m.root.Exists("/etc/ssh/ssh_host_rsa_key") || !m.run.Ran("/bin/sh ") {
		t.Error("not finished")
	}
	if again := m.provWith(o).Unfinished(); len(again) != 0 {
		t.Errorf("still unfinished: %v", again)
	}
	another := provisioning.NewMachine(m.system(), o, provisioning.Identity{ID: "11111111-2222-3333-4444-555555555555"})
	if other := another.Unfinished(); len(other) != 0 {
		t.Errorf("of another VM: %v", other)
	}
}

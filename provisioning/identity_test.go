package provisioning_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/provisioning"
)

const swapped = "0c4d5ee0-e21d-2a4a-a2e1-0b6c0b1b7a2f"

func TestIdentify(t *testing.T) {
	t.Parallel()
	table := func() string {
		raw, err := hex.DecodeString(strings.ReplaceAll(swapped, "-", ""))
		if err != nil {
			t.Fatal(err)
		}
		bios := "\x00\x05\x00\x00\x01strings\x00more\x00\x00"
		return bios + "\x01\x1b\x01\x00\x01\x02\x03\x04" + string(raw) + "\x06\x05\x06MS\x00\x00" + "\x7f\x04\x02\x00\x00\x00"
	}
	entry := func(major, minor byte) string {
		return "_SM3_\x00\x18" + string([]byte{major, minor}) + strings.Repeat("\x00", 15)
	}
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string
		from  string
	}{
		{"generation 2", map[string]string{"/sys/class/dmi/id/product_uuid": vmID + "\n", "/sys/firmware/efi/x": ""}, vmID, "smbios"},
		{"upper case", map[string]string{"/sys/class/dmi/id/product_uuid": strings.ToUpper(vmID), "/sys/firmware/efi/x": ""}, vmID, "smbios"},
		{"generation 1", map[string]string{"/sys/class/dmi/id/product_uuid": swapped}, vmID, "smbios"},
		{"generation 1 by version", map[string]string{"/sys/class/dmi/id/product_uuid": swapped, "/sys/firmware/dmi/tables/smbios_entry_point": "_SM_\x00\x1f\x02\x03"}, vmID, "smbios"},
		{"BIOS of a new version", map[string]string{"/sys/class/dmi/id/product_uuid": vmID, "/sys/firmware/dmi/tables/smbios_entry_point": entry(2, 8)}, vmID, "smbios"},
		{"raw tables", map[string]string{"/sys/firmware/dmi/tables/DMI": table(), "/sys/firmware/dmi/tables/smbios_entry_point": entry(3, 1)}, vmID, "smbios"},
		{"no UUID in firmware", map[string]string{"/sys/class/dmi/id/product_uuid": strings.Repeat("0", 8) + "-0000-0000-0000-000000000000", "/etc/machine-id": strings.Repeat("ab", 16)}, "", "machine-id"},
		{"cut tables", map[string]string{"/sys/firmware/dmi/tables/DMI": table()[:30], "/etc/machine-id": strings.Repeat("ab", 16)}, "", "machine-id"},
		{"nothing", nil, "", ""},
		{"machine id not made yet", map[string]string{"/etc/machine-id": "uninitialized\n"}, "", ""},
	} {
		m := &machine{t: t, root: host.Root(t.TempDir())}
		for n, text := range tc.files {
			m.write(n, text, 0o644)
		}
		got, err := provisioning.Identify(m.root)
		if got.Source != tc.from || (tc.want != "" && got.ID != tc.want) || (err == nil) != (tc.from != "") {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
		if err == nil && provisioning.NormalID(got.ID) != got.ID {
			t.Errorf("%s: id %q is not in its normal form", tc.name, got.ID)
		}
	}
}

func TestSameVM(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{vmID, vmID, true},
		{vmID, strings.ToUpper(vmID) + "\n", true},
		{vmID, swapped, true},
		{strings.ToUpper(swapped), vmID, true},
		{vmID, strings.ReplaceAll(vmID, "-", ""), true},
		{vmID, "{" + vmID + "}", true},
		{vmID, "00000000-0000-0000-0000-000000000001", false},
		{"", "", false},
		{"", vmID, false},
		{"some-other-id", "SOME-OTHER-ID", true},
	} {
		if got := provisioning.SameVM(tc.a, tc.b); got != tc.want {
			t.Errorf("SameVM(%q, %q) = %v", tc.a, tc.b, got)
		}
	}
}

func TestStandAndForget(t *testing.T) {
	t.Parallel()
	firm := provisioning.Identity{ID: vmID, Source: provisioning.IDFromSMBIOS}
	weak := provisioning.Identity{ID: vmID, Source: provisioning.IDFromMachineID}
	other := "11111111-2222-3333-4444-555555555555"
	for _, tc := range []struct {
		name   string
		marker *string
		id     provisioning.Identity
		want   provisioning.Standing
	}{
		{"none", nil, firm, provisioning.Fresh},
		{"this", new(vmID), firm, provisioning.Provisioned},
		{"classic agent's order", new(strings.ToUpper(swapped)), firm, provisioning.Provisioned},
		{"empty", new(""), firm, provisioning.Adopted},
		{"emptied by a power cut", new(strings.Repeat("\x00", 36)), firm, provisioning.Adopted},
		{"half of it", new(other[:20]), firm, provisioning.Adopted},
		{"another", new(other), firm, provisioning.Moved},
		{"another, but who are we", new(other), weak, provisioning.Adopted},
	} {
		m := &machine{t: t, root: host.Root(t.TempDir())}
		if tc.marker != nil {
			m.write("/var/lib/waagent/provisioned", *tc.marker, 0o600)
		}
		if got, err := provisioning.NewMachine(m.system(), provisioning.Options{}, tc.id).Stand(); got != tc.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", tc.name, got, err, tc.want)
		}
	}

	m := &machine{t: t, root: host.Root(t.TempDir())}
	for _, n := range []string{
		"provisioned", "GoalState.1.xml", "AB.prv", "AB.crt", "Certificates.p7m", "history/1/x", "Foo-1.0/status/0.status", "Foo-1.0/config/0.settings",
		"Foo-1.0/mrseq", "Foo-1.0/bin/run", "Foo-1.0/HandlerManifest.json", "azguest/provision.json", "azguest/users.json", "waagent.log",
		"azguest/data.json", "azguest/data-once.json", "azguest/data-per-once/mark", "azguest/data/began", "azguest/data/per/id/mark", "azguest/data/documents/000",
	} {
		m.write("/var/lib/waagent/"+n, "x", 0o600)
	}
	if _, err := m.prov().Forget(); err != nil {
		t.Fatal(err)
	}
	var left []string
	for n, v := range m.tree() {
		if strings.HasPrefix(v, "-") {
			left = append(left, strings.TrimPrefix(n, "/var/lib/waagent/"))
		}
	}
	want := map[string]bool{"Foo-1.0/bin/run": true, "Foo-1.0/HandlerManifest.json": true, "azguest/users.json": true, "waagent.log": true, "azguest/data-once.json": true, "azguest/data-per-once/mark": true}
	got := map[string]bool{}
	for _, n := range left {
		got[n] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

package fabric

import (
	"bytes"
	"encoding/xml"
	"io/fs"
	"strings"
	"testing"
	"time"
)

func medium() Medium {
	return Medium{
		Provisioning: Provisioning{HostName: "vm-01", User: "me", Password: `p<&"' `, SSHKeys: []string{"ssh-ed25519 AAAA a", "ssh-rsa BBBB b"}, CustomData: bytes.Repeat([]byte{0, 1, 0xff}, 3000)},
		Time:         time.Date(2025, 6, 7, 8, 9, 10, 0, time.UTC),
	}
}

func TestOVFSpellings(t *testing.T) {
	const ovf, azure = "http://schemas.dmtf.org/ovf/environment/1", "http://schemas.microsoft.com/windowsazure"
	for spelling, space := range map[Spelling][2]string{SpellingDVD: {ovf, azure}, SpellingNS1: {ovf, azure}, SpellingNone: {"", ""}} {
		doc, err := OVFEnvironment(medium().Provisioning, spelling)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			XMLName xml.Name
			Section struct {
				XMLName xml.Name
				Set     struct {
					HostName struct {
						XMLName xml.Name
						Text    string `xml:",chardata"`
					}
					UserPassword string
					SSH          struct {
						Keys []struct{ Value, Path string } `xml:"PublicKeys>PublicKey"`
					}
				} `xml:"LinuxProvisioningConfigurationSet"`
			} `xml:"ProvisioningSection"`
		}
		if err := xml.Unmarshal(doc, &got); err != nil {
			t.Fatalf("%s: %v\n%s", spelling, err, doc)
		}
		if got.XMLName.Space != space[0] || got.Section.XMLName.Space != space[1] || got.Section.Set.HostName.XMLName.Space != space[1] {
			t.Errorf("%s: namespaces %q %q", spelling, got.XMLName.Space, got.Section.XMLName.Space)
		}
		if got.Section.Set.UserPassword != `p<&"' ` || len(got.Section.Set.SSH.Keys) != 2 || got.Section.Set.SSH.Keys[0].Path != "/home/me/.ssh/authorized_keys" {
			t.Errorf("%s: %+v", spelling, got.Section.Set)
		}
	}
	if _, err := OVFEnvironment(Provisioning{}, "latin"); err == nil {
		t.Error("unknown spelling was accepted")
	}
}

func TestLayouts(t *testing.T) {
	for layout, want := range map[FileSystem][2]bool{"": {true, false}, UDF: {true, false}, ISO9660: {false, true}, Bridge: {true, true}} {
		m := medium()
		m.FS = layout
		image, err := m.Image()
		if err != nil {
			t.Fatal(err)
		}
		head := image[16*2048 : 32*2048]
		if got := [2]bool{bytes.Contains(head, []byte("NSR02")), bytes.Contains(head, []byte("CD001"))}; got != want {
			t.Errorf("%q: udf and iso %v, want %v", layout, got, want)
		}
		if !bytes.Contains(image, []byte("rd_rdfe_stable.250607-0809")) || !bytes.Contains(image, m.CustomData) {
			t.Errorf("%q: label or custom data is missing", layout)
		}
	}
}

func TestMalformedAndRaw(t *testing.T) {
	m := medium()
	m.Malformed = true
	files, err := m.Files()
	if err != nil || xml.Unmarshal(files["ovf-env.xml"], new(any)) == nil {
		t.Errorf("document is well-formed (%v)", err)
	}
	m = Medium{Raw: []byte("x")}
	if files, err = m.Files(); err != nil || string(files["ovf-env.xml"]) != "x" || len(files) != 1 {
		t.Errorf("%v %v", files, err)
	}
	for _, bad := range []Medium{{FS: "fat"}, {Extra: map[string][]byte{"a/b": nil}}} {
		if _, err := bad.Image(); err == nil {
			t.Errorf("built %+v", bad)
		}
	}
}

func TestMediaOfVM(t *testing.T) {
	f := New(t)
	vm := f.CreateVM("box", Linux("me", "ssh-rsa A"))
	b, err := fs.ReadFile(vm.Media(), "ovf-env.xml")
	if err != nil || !strings.Contains(string(b), "<HostName>box</HostName>") {
		t.Errorf("%s %v", b, err)
	}
}

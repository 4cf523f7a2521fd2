package fabric

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
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

// udfFiles is a reader written for this test: it follows the descriptors from
// the anchor and checks each tag on the way.
func udfFiles(t *testing.T, image []byte) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	block := func(n uint32) []byte { return image[n*2048 : (n+1)*2048] }
	check := func(b []byte, id uint16, location uint32) []byte {
		t.Helper()
		var sum byte
		for i := range 16 {
			if i != 4 {
				sum += b[i]
			}
		}
		n := le.Uint16(b[10:])
		var crc uint16
		for _, c := range b[16 : 16+n] {
			crc = crc>>8 | crc<<8
			crc ^= uint16(c)
			crc ^= (crc & 0xff) >> 4
			crc ^= crc << 12
			crc ^= (crc & 0xff) << 5
		}
		if le.Uint16(b) != id || b[4] != sum || le.Uint16(b[8:]) != crc || le.Uint32(b[12:]) != location {
			t.Fatalf("tag %d at %d: got id %d sum %v crc %v location %d", id, location, le.Uint16(b), b[4] == sum, le.Uint16(b[8:]) == crc, le.Uint32(b[12:]))
		}
		return b
	}
	for _, at := range []uint32{256, uint32(len(image)/2048) - 1} {
		check(block(at), 2, at)
	}
	anchor := block(256)
	var part, fsd uint32
	for _, vds := range []uint32{le.Uint32(anchor[20:]), le.Uint32(anchor[28:])} {
		check(block(vds), 1, vds)
		check(block(vds+1), 4, vds+1)
		part = le.Uint32(check(block(vds+2), 5, vds+2)[188:])
		lvd := check(block(vds+3), 6, vds+3)
		fsd = le.Uint32(lvd[252:])
		check(block(le.Uint32(lvd[436:])), 9, le.Uint32(lvd[436:]))
		check(block(vds+4), 7, vds+4)
		check(block(vds+5), 8, vds+5)
	}
	root := le.Uint32(check(block(part+fsd), 256, fsd)[404:])
	read := func(entry uint32, kind byte) []byte {
		b := check(block(part+entry), 261, entry)
		if b[27] != kind {
			t.Fatalf("entry %d has type %d", entry, b[27])
		}
		size := le.Uint64(b[56:])
		if size == 0 {
			return nil
		}
		at := uint64(part+le.Uint32(b[180:])) * 2048
		return image[at : at+size]
	}
	out := map[string][]byte{}
	dir := read(root, 4)
	for off := 0; off < len(dir); {
		b := dir[off:]
		check(b, 257, 3+uint32(off)/2048)
		n := int(b[19])
		if b[18]&8 == 0 {
			out[string(b[39:38+n])] = read(le.Uint32(b[24:]), 5)
		}
		off += (38 + n + 3) &^ 3
	}
	return out
}

func TestUDF(t *testing.T) {
	for _, kind := range []FileSystem{UDF, Bridge} {
		m := medium()
		m.FS = kind
		m.Extra = map[string][]byte{"empty": nil}
		for i := range 60 { // more than one block of directory
			m.Extra[fmt.Sprintf("a-file-with-a-rather-long-name-%03d.txt", i)] = fmt.Appendf(nil, "%d", i)
		}
		image, err := m.Image()
		if err != nil {
			t.Fatal(err)
		}
		want, err := m.Files()
		if err != nil {
			t.Fatal(err)
		}
		got := udfFiles(t, image)
		if len(got) != len(want) {
			t.Errorf("%s: %d files, want %d", kind, len(got), len(want))
		}
		for name, data := range want {
			if !bytes.Equal(got[name], data) {
				t.Errorf("%s: %s differs", kind, name)
			}
		}
		if pure := !bytes.Contains(image[16*2048:32*2048], []byte("CD001")); pure != (kind == UDF) {
			t.Errorf("%s: without ISO 9660: %t", kind, pure)
		}
	}
}

func TestImagesWithTools(t *testing.T) {
	dir := t.TempDir()
	for _, kind := range []FileSystem{UDF, ISO9660, Bridge} {
		m := medium()
		m.FS = kind
		image, err := m.Image()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, string(kind)+".iso")
		write(t, dir, string(kind)+".iso", image)
		run := func(name string, args ...string) string {
			if _, err := exec.LookPath(name); err != nil {
				t.Logf("no %s here", name)
				return ""
			}
			out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
			if err != nil {
				t.Errorf("%s %v: %v\n%s", name, args, err, out)
			}
			return string(out)
		}
		if kind != ISO9660 {
			out := run("udfinfo", file)
			for _, want := range []string{"udfrev=1.02", "integrity=closed", "accesstype=readonly", "numfiles=2", "label=rd_rdfe_stable.250607-0809"} {
				if out != "" && !strings.Contains(out, want) {
					t.Errorf("%s: udfinfo does not say %s:\n%s", kind, want, out)
				}
			}
		}
		if kind != UDF {
			for _, names := range []string{"-R", "-J"} {
				if out := run("isoinfo", names, "-f", "-i", file); out != "" && (!strings.Contains(out, "/ovf-env.xml") || !strings.Contains(out, "/CustomData.bin")) {
					t.Errorf("%s %s: %s", kind, names, out)
				}
				if out := run("isoinfo", names, "-x", "/CustomData.bin", "-i", file); out != "" && out != string(m.CustomData) {
					t.Errorf("%s %s: content differs", kind, names)
				}
			}
			if out := run("xorriso", "-indev", file, "-find", "/"); out != "" && !strings.Contains(out, "'/ovf-env.xml'") {
				t.Errorf("%s: xorriso: %s", kind, out)
			}
		}
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

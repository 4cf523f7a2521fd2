package media

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func medium() Image {
	return Image{
		Files: map[string][]byte{"ovf-env.xml": []byte("<Environment/>"), "CustomData.bin": bytes.Repeat([]byte{0, 1, 0xff}, 3000)},
		Label: "rd_rdfe_stable.250607-0809", Time: time.Date(2025, 6, 7, 8, 9, 10, 0, time.UTC), UDF: true,
	}
}

// udfFiles is a reader written for this test: it follows the descriptors from
// the anchor and checks each tag.
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
	for _, bridge := range []bool{false, true} {
		m := medium()
		m.ISO9660 = bridge
		m.Files["empty"] = nil
		for i := range 60 { // more than one block of directory entries
			m.Files[fmt.Sprintf("a-file-with-a-rather-long-name-%03d.txt", i)] = fmt.Appendf(nil, "%d", i)
		}
		image, err := m.Build()
		if err != nil {
			t.Fatal(err)
		}
		got := udfFiles(t, image)
		if len(got) != len(m.Files) {
			t.Errorf("bridge %t: %d files, want %d", bridge, len(got), len(m.Files))
		}
		for name, data := range m.Files {
			if !bytes.Equal(got[name], data) {
				t.Errorf("bridge %t: %s differs", bridge, name)
			}
		}
		if has := bytes.Contains(image[16*2048:32*2048], []byte("CD001")); has != bridge {
			t.Errorf("bridge %t: with ISO 9660: %t", bridge, has)
		}
	}
}

func TestImagesWithTools(t *testing.T) {
	dir := t.TempDir()
	for kind, m := range map[string]Image{"udf": {UDF: true}, "iso": {ISO9660: true}, "bridge": {UDF: true, ISO9660: true}} {
		like := medium()
		m.Files, m.Label, m.Time = like.Files, like.Label, like.Time
		image, err := m.Build()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, kind+".iso")
		if err := os.WriteFile(file, image, 0o600); err != nil {
			t.Fatal(err)
		}
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
		if m.UDF {
			out := run("udfinfo", file)
			for _, want := range []string{"udfrev=1.02", "integrity=closed", "accesstype=readonly", "numfiles=2", "label=rd_rdfe_stable.250607-0809"} {
				if out != "" && !strings.Contains(out, want) {
					t.Errorf("%s: udfinfo does not say %s:\n%s", kind, want, out)
				}
			}
		}
		if m.ISO9660 {
			for _, names := range []string{"-R", "-J"} {
				if out := run("isoinfo", names, "-f", "-i", file); out != "" && (!strings.Contains(out, "/ovf-env.xml") || !strings.Contains(out, "/CustomData.bin")) {
					t.Errorf("%s %s: %s", kind, names, out)
				}
				if out := run("isoinfo", names, "-x", "/CustomData.bin", "-i", file); out != "" && out != string(m.Files["CustomData.bin"]) {
					t.Errorf("%s %s: content differs", kind, names)
				}
			}
			if out := run("xorriso", "-indev", file, "-find", "/"); out != "" && !strings.Contains(out, "'/ovf-env.xml'") {
				t.Errorf("%s: xorriso: %s", kind, out)
			}
		}
	}
}

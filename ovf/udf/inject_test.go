package udf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/azguest/azguest/ovf/internal/image"
)

var le = binary.LittleEndian

// opened returns the volume of an image.
func opened(t testing.TB, b []byte) *volume {
	t.Helper()
	v := &volume{r: bytes.NewReader(b), size: int64(len(b)), bs: open(t, b).BlockSize()}
	if err := v.open(); err != nil {
		t.Fatal(err)
	}
	return v
}

// sign makes a descriptor valid after a change: location, CRC, checksum.
func sign(b []byte, location uint32) {
	le.PutUint32(b[12:], location)
	le.PutUint16(b[8:], crc16(b[16:16+int(le.Uint16(b[10:]))]))
	b[4] = 0
	var sum byte
	for _, c := range b[:16] {
		sum += c
	}
	b[4] = sum
}

// newTag begins a descriptor with a CRC over n bytes after the tag.
func newTag(b []byte, id uint16, n int) {
	le.PutUint16(b, id)
	le.PutUint16(b[2:], 2)
	le.PutUint16(b[10:], uint16(n))
}

// fileEntryOf writes a file entry of a regular file with these descriptors.
func fileEntryOf(b []byte, location uint32, kind byte, size uint64, ads []byte) {
	clear(b)
	le.PutUint16(b[20:], 4)
	b[27], b[34] = typeRegular, kind
	le.PutUint32(b[44:], 0x1084) // read for all
	le.PutUint64(b[56:], size)
	le.PutUint32(b[172:], uint32(len(ads)))
	copy(b[176:], ads)
	newTag(b, tagFile, 160+len(ads))
	sign(b, location)
}

func putLongAD(b []byte, length, block uint32, part uint16) {
	le.PutUint32(b, length)
	le.PutUint32(b[4:], block)
	le.PutUint16(b[8:], part)
}

// putFile adds a file to the root directory of a volume that mkudffs made.
// block and part are the address of the file's ICB.
func putFile(t *testing.T, img []byte, v *volume, name string, block uint32, part uint16) {
	t.Helper()
	off, _, err := v.maps[v.root.part].at(v.root.block, v.bs)
	if err != nil {
		t.Fatal(err)
	}
	fid := make([]byte, (38+1+len(name)+3)&^3)
	newTag(fid, tagFileIdentifier, len(fid)-16)
	fid[16], fid[19] = 1, byte(1+len(name))
	putLongAD(fid[20:], uint32(v.bs), block, part)
	fid[38] = 8
	copy(fid[39:], name)
	sign(fid, v.root.block)

	fe := img[off : off+v.bs]
	at, body := 168, 176
	if le.Uint16(fe) == tagExtendedFile {
		at, body = 208, 216
	}
	lenEA, lenAD := int(le.Uint32(fe[at:])), int(le.Uint32(fe[at+4:]))
	size := le.Uint64(fe[56:])
	if fe[34]&7 == 3 {
		copy(fe[body+lenEA+lenAD:], fid)
		le.PutUint32(fe[at+4:], uint32(lenAD+len(fid)))
		le.PutUint16(fe[10:], le.Uint16(fe[10:])+uint16(len(fid)))
	} else {
		n, err := v.inode(v.root)
		if err != nil {
			t.Fatal(err)
		}
		copy(img[n.Data[0].Off+int64(size):], fid)
		ad := fe[body+lenEA:]
		le.PutUint32(ad, le.Uint32(ad)+uint32(len(fid)))
	}
	le.PutUint64(fe[56:], size+uint64(len(fid)))
	sign(fe, v.root.block)
}

// free finds n consecutive empty blocks of a partition.
func free(v *volume, img []byte, m *partition, n int) uint32 {
	for b := uint32(8); ; b++ {
		ok := true
		for i := range n {
			off, _, err := m.at(b+uint32(i), v.bs)
			ok = ok && err == nil && off+v.bs <= int64(len(img)) && len(bytes.Trim(img[off:off+v.bs], "\x00")) == 0
		}
		if ok {
			return b
		}
		if int64(b)*v.bs > int64(len(img)) {
			return 0
		}
	}
}

// Every kind of volume, with a file whose extents are split, sparse, and
// continued elsewhere.
func TestFilesOnAllVolumes(t *testing.T) {
	names, err := filepath.Glob("../testdata/images/udf-*.img.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		name = strings.TrimSuffix(filepath.Base(name), ".gz")
		t.Run(name, func(t *testing.T) {
			img := unpack(t, name)
			v := opened(t, img)
			m := v.maps[0]
			block := free(v, img, m, 5)
			if block == 0 {
				t.Skip("no room")
			}
			at := func(i uint32) []byte {
				off, _, err := m.at(block+i, v.bs)
				if err != nil {
					t.Fatal(err)
				}
				return img[off : off+v.bs]
			}
			copy(at(1), "first")
			copy(at(2), "second")
			// Block 3 is an allocation extent; the file continues in block 2.
			ads := make([]byte, 24)
			le.PutUint32(ads, uint32(v.bs))
			le.PutUint32(ads[4:], block+1)
			le.PutUint32(ads[8:], uint32(v.bs)|2<<30) // not allocated
			le.PutUint32(ads[16:], uint32(v.bs)|3<<30)
			le.PutUint32(ads[20:], block+3)
			aed := at(3)
			le.PutUint32(aed[20:], 8)
			le.PutUint32(aed[24:], 6)
			le.PutUint32(aed[28:], block+2)
			newTag(aed, tagAllocationExtent, 16)
			sign(aed, block+3)
			size := uint64(2*v.bs + 6)
			fileEntryOf(at(0), block, 0, size, ads)
			putFile(t, img, v, "ovf-env.xml", block, 0)

			got, err := open(t, img).ReadFile("ovf-env.xml")
			want := make([]byte, size)
			copy(want, "first")
			copy(want[2*v.bs:], "second")
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}

			// An allocation extent that continues in itself must end.
			le.PutUint32(aed[24:], uint32(v.bs)|3<<30)
			le.PutUint32(aed[28:], block+3)
			sign(aed, block+3)
			if _, err := open(t, img).ReadFile("ovf-env.xml"); !errors.Is(err, image.ErrBounds) {
				t.Errorf("loop: %v", err)
			}
		})
	}
}

// UDF 2.50 and later: file set, root and file are in a metadata partition.
// mkudffs does not write one, so one of its volumes is converted: the blocks
// stay where they are, and a metadata file lists them.
func TestMetadataPartition(t *testing.T) {
	img := unpack(t, "udf-2.01.img")
	v := opened(t, img)
	m := v.maps[0]
	block := free(v, img, m, 3)
	at := func(b uint32) []byte {
		off, _, _ := m.at(b, v.bs)
		return img[off : off+v.bs]
	}
	fileEntryOf(at(block), 2, 3, 6, []byte("inside"))
	putFile(t, img, v, "ovf-env.xml", 2, 1)

	lvd := img[bytes.Index(img, []byte("*OSTA UDF Compliant"))-217:]
	for le.Uint16(lvd) != tagLogicalVolume {
		t.Fatalf("no logical volume descriptor, tag %d", le.Uint16(lvd))
	}
	fsd := parseLongAD(lvd[248:])
	ads := make([]byte, 24)
	for i, b := range []uint32{fsd.block, v.root.block, block} {
		le.PutUint32(ads[8*i:], uint32(v.bs))
		le.PutUint32(ads[8*i+4:], b)
	}
	fileEntryOf(at(block+1), block+1, 0, uint64(3*v.bs), ads)
	fileEntryOf(at(block+2), block+2, 0, uint64(3*v.bs), ads) // the mirror
	sign(at(v.root.block), 1)
	root := at(fsd.block)
	putLongAD(root[400:], uint32(v.bs), 1, 1)
	sign(root, 0)

	putLongAD(lvd[248:], uint32(v.bs), 0, 1)
	le.PutUint32(lvd[264:], 6+64)
	le.PutUint32(lvd[268:], 2)
	mp := lvd[446:510]
	mp[0], mp[1] = 2, 64
	copy(mp[5:], "*UDF Metadata Partition")
	copy(mp[36:], lvd[442:446])
	le.PutUint32(mp[40:], block+1)
	le.PutUint32(mp[44:], block+2)
	le.PutUint16(lvd[10:], 510-16)
	sign(lvd, le.Uint32(lvd[12:]))

	check := func() {
		t.Helper()
		if got, err := open(t, img).ReadFile("ovf-env.xml"); err != nil || string(got) != "inside" {
			t.Errorf("%q, %v", got, err)
		}
	}
	check()
	whole := bytes.Clone(img)
	at(block + 1)[100]++ // the main file is damaged, so its mirror is read
	check()

	// A mirror with blocks of its own, as with duplicated metadata: any block
	// of either copy may be damaged, and the file entry of either copy.
	copy(img, whole)
	twin := free(v, img, m, 3)
	for i, b := range []uint32{fsd.block, v.root.block, block} {
		copy(at(twin+uint32(i)), at(b))
		le.PutUint32(ads[8*i+4:], twin+uint32(i))
	}
	fileEntryOf(at(block+2), block+2, 0, uint64(3*v.bs), ads)
	whole = bytes.Clone(img)
	for _, b := range []uint32{fsd.block, v.root.block, block, twin, twin + 1, twin + 2, block + 1, block + 2} {
		copy(img, whole)
		clear(at(b))
		check()
	}
	copy(img, whole)
	for _, b := range []uint32{fsd.block, twin + 1, block} { // one block of each
		clear(at(b))
	}
	check()
}

// A directory that contains itself must be detected.
func TestDirectoryLoop(t *testing.T) {
	img := unpack(t, "udf-2.01.img")
	v := opened(t, img)
	putFile(t, img, v, "again", v.root.block, v.root.part)
	f := open(t, img)
	if _, err := f.Stat("again/again/again"); !errors.Is(err, image.ErrBounds) {
		t.Errorf("%v", err)
	}
}

// Damage to any one block of the tables gives an error or no document, never a
// wrong one; the reserve sequence helps where it can.
func TestDamage(t *testing.T) {
	img := unpack(t, "genisoimage-bridge-small.img")
	want, err := open(t, img).ReadFile("ovf-env.xml")
	if err != nil {
		t.Fatal(err)
	}
	readable := 0
	for b := int64(16); b < int64(len(img))/2048; b++ {
		bad := bytes.Clone(img)
		for i := range 2048 {
			bad[b*2048+int64(i)] ^= 0x5a
		}
		f, err := Open(bytes.NewReader(bad), int64(len(bad)))
		if err != nil {
			continue
		}
		got, err := f.ReadFile("ovf-env.xml")
		if err == nil && bytes.Equal(got, want) {
			readable++
		}
	}
	if readable < int(len(img)/2048)/2 {
		t.Errorf("only %d of %d damaged images were readable", readable, len(img)/2048)
	}
}

package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// What a disk or a partition holds.
const (
	FSNone    = ""        // no signature, and zero at both ends
	FSNTFS    = "ntfs"    // as the platform delivers the disk
	FSExt     = "ext"     // ext2, ext3, ext4
	FSXFS     = "xfs"     //
	FSBtrfs   = "btrfs"   //
	FSSwap    = "swap"    //
	FSLUKS    = "luks"    // encrypted; never changed
	FSLVM     = "lvm"     // a physical volume; never changed
	FSRAID    = "raid"    // a member of an array; never changed
	FSFAT     = "fat"     //
	FSISO     = "iso9660" //
	FSUnknown = "data"    // bytes that are not zero, without a signature
)

// linux reports whether a file system can simply be mounted.
func linux(fs string) bool { return fs == FSExt || fs == FSXFS || fs == FSBtrfs }

// A Table is a partition table.
type Table struct {
	Kind  string // "mbr", "gpt" or empty
	Parts []Part
}

// A Part is an entry of a partition table, in bytes.
type Part struct {
	Number     int
	Start, Len int64
	Type       byte // MBR type; 0 with GPT
}

const sector = 512

// ReadTable reads the partition table of a disk of size bytes. A table that
// contradicts the size of the disk is an error.
func ReadTable(r io.ReaderAt, size int64) (Table, error) {
	b := make([]byte, 2*sector)
	if size < int64(len(b)) {
		return Table{}, nil
	}
	if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return Table{}, err
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		if bytes.Equal(b[sector:sector+8], []byte("EFI PART")) {
			return readGPT(r, size, b[sector:])
		}
		return Table{}, nil
	}
	// A boot sector of a file system has the same last bytes.
	if isNTFS(b) || isFAT(b) {
		return Table{}, nil
	}
	t := Table{Kind: "mbr"}
	for i := range 4 {
		e := b[446+16*i : 462+16*i]
		typ := e[4]
		if typ == 0 {
			continue
		}
		if typ == 0xee {
			return readGPT(r, size, b[sector:])
		}
		if e[0] != 0 && e[0] != 0x80 {
			return Table{}, errors.New("the partition table is damaged")
		}
		p := Part{Number: i + 1, Type: typ, Start: int64(binary.LittleEndian.Uint32(e[8:])) * sector, Len: int64(binary.LittleEndian.Uint32(e[12:])) * sector}
		if p.Start == 0 || p.Len == 0 || p.Start+p.Len > size {
			return Table{}, errors.New("the partition table does not fit the disk")
		}
		t.Parts = append(t.Parts, p)
	}
	return t, nil
}

func readGPT(r io.ReaderAt, size int64, h []byte) (Table, error) {
	if !bytes.Equal(h[:8], []byte("EFI PART")) {
		return Table{}, errors.New("the GPT header is missing")
	}
	at := int64(binary.LittleEndian.Uint64(h[72:]))
	n, each := int64(binary.LittleEndian.Uint32(h[80:])), int64(binary.LittleEndian.Uint32(h[84:]))
	if n > 128 || each < 128 || each > 4096 || at < 2 || at > size/sector || at*sector+n*each > size {
		return Table{}, errors.New("the GPT header is damaged")
	}
	b := make([]byte, n*each)
	if _, err := r.ReadAt(b, at*sector); err != nil && !errors.Is(err, io.EOF) {
		return Table{}, err
	}
	t := Table{Kind: "gpt"}
	for i := range n {
		e := b[i*each:]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if last < first || last >= uint64(size/sector) {
			return Table{}, errors.New("the GPT does not fit the disk")
		}
		t.Parts = append(t.Parts, Part{Number: int(i) + 1, Start: int64(first) * sector, Len: int64(last-first+1) * sector})
	}
	return t, nil
}

func isNTFS(b []byte) bool { return bytes.Equal(b[3:11], []byte("NTFS    ")) }

func isFAT(b []byte) bool {
	return bytes.HasPrefix(b[54:], []byte("FAT")) || bytes.HasPrefix(b[82:], []byte("FAT32"))
}

// signatures lists where well-known formats have their magic bytes.
func signatures() []struct {
	fs    string
	at    int64
	magic string
} {
	return []struct {
		fs    string
		at    int64
		magic string
	}{
		{FSNTFS, 3, "NTFS    "},
		{FSLUKS, 0, "LUKS\xba\xbe"},
		{FSLVM, 512 + 24, "LVM2 001"},
		{FSXFS, 0, "XFSB"},
		{FSExt, 1024 + 56, "\x53\xef"},
		{FSBtrfs, 65536 + 64, "_BHRfS_M"},
		{FSSwap, 4096 - 10, "SWAPSPACE2"},
		{FSSwap, 65536 - 10, "SWAPSPACE2"},
		{FSRAID, 4096, "\xfc\x4e\x2b\xa9"},
		{FSRAID, 0, "\xfc\x4e\x2b\xa9"},
		{FSISO, 32769, "CD001"},
		{FSFAT, 82, "FAT32"},
		{FSFAT, 54, "FAT1"},
	}
}

// probeLen is how many bytes at each end must be zero for a disk to be blank.
// It covers all signatures of the table above, and those of ZFS and RAID at
// the end.
const probeLen = 1 << 20

// Probe returns what a disk or a partition holds, one of the FS constants. It
// is FSNone only if both ends are zero.
func Probe(r io.ReaderAt, size int64) (string, error) {
	b := make([]byte, min(probeLen, size))
	if _, err := r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	for _, s := range signatures() {
		if end := s.at + int64(len(s.magic)); end <= int64(len(b)) && string(b[s.at:end]) == s.magic {
			return s.fs, nil
		}
	}
	if !zero(b) {
		return FSUnknown, nil
	}
	if _, err := r.ReadAt(b, size-int64(len(b))); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if !zero(b) {
		return FSUnknown, nil
	}
	return FSNone, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// ntfs is what is needed from an NTFS volume: its label and the names in its
// root directory. The volume is not mounted: many kernels do not support NTFS,
// and mounting a hostile volume is a risk.
type ntfs struct {
	Label string
	Root  []string // names in the root directory
	Files int      // files and directories without those of the file system itself
}

var errNTFS = errors.New("the NTFS volume is damaged")

const (
	mftRecords = 4096 // limit, many times the number of a factory-fresh volume
	mftRoot    = 5
	mftVolume  = 3
	mftFirst   = 24 // first record of an ordinary file
)

// readNTFS reads the master file table. A volume with more than mftRecords
// records is in use; only Files is set then.
func readNTFS(r io.ReaderAt) (ntfs, error) {
	var v ntfs
	g, err := readGeometry(r)
	if err != nil {
		return v, err
	}
	b := make([]byte, g.record)
	count := int64(1) // record 0 has the number of records
	for i := int64(0); i < count; i++ {
		used, err := g.read(r, i, b)
		if err != nil {
			return v, err
		}
		if !used {
			continue
		}
		if i == 0 {
			if count = tableLength(b, g.table, g.record); count < mftFirst {
				return v, errNTFS
			}
			if count > mftRecords {
				v.Files = int(count)
				return v, nil
			}
		}
		if err := v.add(i, b); err != nil {
			return v, err
		}
	}
	return v, nil
}

// geometry describes where the master file table is, from the boot sector.
type geometry struct {
	sector, cluster, record int64 // bytes
	table                   int64 // cluster in which the table begins
}

func readGeometry(r io.ReaderAt) (geometry, error) {
	boot := make([]byte, 512)
	if _, err := r.ReadAt(boot, 0); err != nil {
		return geometry{}, err
	}
	if !isNTFS(boot) {
		return geometry{}, errNTFS
	}
	g := geometry{sector: int64(binary.LittleEndian.Uint16(boot[11:])), table: int64(binary.LittleEndian.Uint64(boot[48:]))}
	perCluster := int64(boot[13])
	if perCluster > 128 {
		perCluster = 1 << (256 - perCluster) // large clusters are written as a negative power
	}
	g.cluster = g.sector * perCluster
	g.record = int64(int8(boot[64]))
	if g.record < 0 {
		g.record = 1 << -g.record
	} else {
		g.record *= g.cluster
	}
	if g.sector < 256 || g.sector > 4096 || g.cluster <= 0 || g.cluster > 2<<20 ||
		g.record < 512 || g.record > 16<<10 || g.table <= 0 || g.table > 1<<40 {
		return geometry{}, errNTFS
	}
	return g, nil
}

// read reads record i of the table into b, and reports whether it is in use.
func (g geometry) read(r io.ReaderAt, i int64, b []byte) (used bool, err error) {
	if n, err := r.ReadAt(b, g.table*g.cluster+i*g.record); err != nil && n < len(b) {
		return false, errNTFS
	}
	if string(b[:4]) != "FILE" {
		if i <= mftRoot {
			return false, errNTFS
		}
		return false, nil
	}
	if err := fixup(b, int(g.sector)); err != nil {
		return false, err
	}
	return binary.LittleEndian.Uint16(b[22:])&1 != 0, nil
}

// add evaluates record i: it counts files and keeps names in the root and the
// label.
func (v *ntfs) add(i int64, b []byte) error {
	if base := binary.LittleEndian.Uint64(b[32:]) & (1<<48 - 1); i >= mftFirst && base == 0 {
		v.Files++
	}
	return attributes(b, func(kind uint32, value []byte) {
		switch {
		case kind == 0x60 && i == mftVolume:
			v.Label = utf16le(value)
		case kind == 0x30 && i >= mftFirst && len(value) >= 66:
			parent := binary.LittleEndian.Uint64(value) & (1<<48 - 1)
			chars := int(value[64])
			// Name space 2 is the short DOS name of the same file.
			if parent == mftRoot && value[65] != 2 && len(value) >= 66+2*chars {
				v.Root = append(v.Root, utf16le(value[66:66+2*chars]))
			}
		}
	})
}

// tableLength returns the number of records of the table, from its own record
// b, if its data lies in one piece that begins at cluster lcn. A table in
// several pieces has grown, so the volume is in use; the result is larger than
// any limit then. 0 means that the table is damaged.
func tableLength(b []byte, lcn, rec int64) int64 {
	at := int(binary.LittleEndian.Uint16(b[20:]))
	for at+64 <= len(b) {
		kind, n := binary.LittleEndian.Uint32(b[at:]), int(binary.LittleEndian.Uint32(b[at+4:]))
		if kind == 0xffffffff || n < 64 && kind == 0x80 || n < 16 || at+n > len(b) {
			return 0
		}
		if kind == 0x80 && b[at+8] == 1 {
			a := b[at : at+n]
			size, runs := int64(binary.LittleEndian.Uint64(a[48:])), int(binary.LittleEndian.Uint16(a[32:]))
			if size <= 0 || runs+2 > n {
				return 0
			}
			// A run: the sizes of two numbers, then the numbers.
			l, o := int(a[runs]&15), int(a[runs]>>4)
			if l == 0 || l > 8 || o == 0 || o > 8 || runs+1+l+o >= n {
				return 0
			}
			var start int64
			for i := o - 1; i >= 0; i-- {
				start = start<<8 | int64(a[runs+1+l+i])
			}
			if start != lcn {
				return 0
			}
			if a[runs+1+l+o] != 0 {
				return 1 << 40
			}
			return size / rec
		}
		at += n
	}
	return 0
}

// fixup restores the two bytes at the end of each sector that NTFS replaces by
// a counter.
func fixup(b []byte, bps int) error {
	off, n := int(binary.LittleEndian.Uint16(b[4:])), int(binary.LittleEndian.Uint16(b[6:]))
	const stride = 512 // also where sectors are larger
	if n < 1 || off < 40 || off+2*n > len(b) || (n-1)*stride > len(b) {
		return errNTFS
	}
	_ = bps
	seq := b[off : off+2]
	for i := 1; i < n; i++ {
		end := i*stride - 2
		if b[end] != seq[0] || b[end+1] != seq[1] {
			return errNTFS
		}
		copy(b[end:end+2], b[off+2*i:off+2*i+2])
	}
	return nil
}

// attributes calls each with every resident attribute of a record.
func attributes(b []byte, each func(kind uint32, value []byte)) error {
	at := int(binary.LittleEndian.Uint16(b[20:]))
	for at+16 <= len(b) {
		kind := binary.LittleEndian.Uint32(b[at:])
		if kind == 0xffffffff {
			return nil
		}
		n := int(binary.LittleEndian.Uint32(b[at+4:]))
		if n < 16 || at+n > len(b) {
			return errNTFS
		}
		if b[at+8] == 0 && n >= 24 {
			size, off := int(binary.LittleEndian.Uint32(b[at+16:])), int(binary.LittleEndian.Uint16(b[at+20:]))
			if size < 0 || off+size > n {
				return errNTFS
			}
			each(kind, b[at+off:at+off+size])
		}
		at += n
	}
	return errNTFS
}

func utf16le(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// FactoryLabel is the label of the volume as the platform delivers it.
const FactoryLabel = "Temporary Storage"

// fresh returns why a volume is not as the platform delivers it; empty if it
// is.
func (v ntfs) fresh() string {
	if !strings.EqualFold(v.Label, FactoryLabel) {
		return fmt.Sprintf("its label is %q, not %q", v.Label, FactoryLabel)
	}
	for _, n := range v.Root {
		switch strings.ToLower(n) {
		case "dataloss_warning_readme.txt", "system volume information", "$recycle.bin", "$extend":
		default:
			return "it has files"
		}
	}
	// The names allowed above, and what Windows keeps below them.
	if v.Files > 64 {
		return "it has files"
	}
	return ""
}

package udf

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/azguest/azguest/ovf/internal/image"
)

// longAD is the address of an ICB or of an extent (ECMA-167 4/14.14.2).
type longAD struct {
	length uint32 // the two highest bits are the kind
	block  uint32
	part   uint16
}

func parseLongAD(b []byte) longAD {
	le := binary.LittleEndian
	return longAD{le.Uint32(b), le.Uint32(b[4:]), le.Uint16(b[8:])}
}

// File types of an ICB: ECMA-167 4/14.6.6.
const (
	typeUnknown  = 0
	typeDir      = 4
	typeRegular  = 5
	typeSymlink  = 12
	typeRealTime = 249
)

// inode loads the file or directory whose ICB is at the address.
func (v *volume) inode(at longAD) (*image.Node, error) {
	m, err := v.part(at.part)
	if err != nil {
		return nil, err
	}
	n, kind, err := v.load(m, at.block)
	if err != nil {
		return nil, err
	}
	n.ID = uint64(at.part)<<32 | uint64(at.block)
	perm := n.Mode
	switch kind {
	case typeDir:
		n.Mode = fs.ModeDir | perm
		n.List = func() ([]*image.Dirent, error) {
			l, err := v.list(n)
			if err == nil || m.mirror == nil {
				return l, err
			}
			// The content of a directory has no checksum of its own, so damage
			// is found only now; try the mirror.
			other, _, merr := v.load(m.mirror, at.block)
			if merr != nil {
				return nil, err
			}
			if ml, merr := v.list(other); merr == nil {
				return ml, nil
			}
			return nil, err
		}
	case typeRegular, typeUnknown, typeRealTime:
		n.Mode = perm
	case typeSymlink:
		n.Mode = fs.ModeSymlink | perm
	default:
		n.Mode = fs.ModeIrregular | perm
	}
	return n, nil
}

// load reads a file entry and its allocation descriptors. Mode has only the
// permissions; the second result is the ICB's file type.
func (v *volume) load(m *partition, block uint32) (*image.Node, byte, error) {
	le := binary.LittleEndian
	b, m, err := v.fileEntry(m, block)
	if err != nil {
		return nil, 0, fmt.Errorf("read file entry %d: %w", block, err)
	}
	size, stamp, ea, body := le.Uint64(b[56:]), b[84:96], 168, 176
	if le.Uint16(b) == tagExtendedFile {
		stamp, ea, body = b[92:104], 208, 216
	}
	lenEA, lenAD := int64(le.Uint32(b[ea:])), int64(le.Uint32(b[ea+4:]))
	if size > math.MaxInt64 || int64(body)+lenEA+lenAD > v.bs {
		return nil, 0, fmt.Errorf("%w: lengths in file entry %d", ErrCorrupt, block)
	}
	ads := b[int64(body)+lenEA:][:lenAD]
	p := le.Uint32(b[44:])
	n := &image.Node{
		Mode: fs.FileMode(p>>10&7<<6 | p>>5&7<<3 | p&7),
		Size: int64(size),
		Time: timestamp(stamp),
	}
	flags := le.Uint16(b[34:])
	if flags&7 == 3 {
		n.Inline = ads
		if len(ads) == 0 {
			n.Inline = []byte{}
		}
		return n, b[27], nil
	}
	if n.Data, err = v.extents(m, ads, flags&7); err != nil {
		return nil, 0, fmt.Errorf("extents of file entry %d: %w", block, err)
	}
	return n, b[27], nil
}

// fileEntry reads the entry at block. With ICB strategy 4096 an entry may be
// superseded by another, to which the block behind it points; the last one
// counts.
func (v *volume) fileEntry(m *partition, block uint32) ([]byte, *partition, error) {
	le := binary.LittleEndian
	for range maxTable {
		b, err := v.taggedIn(m, block, tagFile, tagExtendedFile)
		if err != nil {
			return nil, nil, err
		}
		if le.Uint16(b[20:]) != 4096 {
			return b, m, nil
		}
		ind, err := v.taggedIn(m, block+1, tagIndirect)
		if err != nil {
			return b, m, nil //nolint:nilerr // a terminal entry, or nothing written: this was the last one
		}
		next := parseLongAD(ind[36:52])
		if next.length&lengthMask == 0 {
			return b, m, nil
		}
		if m, err = v.part(next.part); err != nil {
			return nil, nil, err
		}
		block = next.block
	}
	return nil, nil, fmt.Errorf("%w: indirect ICBs", image.ErrBounds)
}

// The two highest bits of the length of an extent say what it is.
const (
	lengthMask   = 1<<30 - 1
	kindRecorded = 0
	kindNext     = 3 // the list goes on there; 1 and 2: not recorded, reads as zero
)

// extents turns allocation descriptors into extents of the image, and follows
// them through their continuations. The kind is 0 for short, 1 for long, 2 for
// extended descriptors.
func (v *volume) extents(m *partition, ads []byte, kind uint16) ([]image.Extent, error) {
	l := extentList{v: v, kind: kind}
	for range maxTable {
		next, err := l.add(m, ads)
		if err != nil {
			return nil, err
		}
		if next.length == 0 {
			return l.out, nil
		}
		if kind != 0 {
			if m, err = v.part(next.part); err != nil {
				return nil, err
			}
		}
		b, err := v.taggedIn(m, next.block, tagAllocationExtent)
		if err != nil {
			return nil, fmt.Errorf("read allocation extent: %w", err)
		}
		n := int64(binary.LittleEndian.Uint32(b[20:]))
		if n > v.bs-24 {
			return nil, fmt.Errorf("%w: allocation extent of %d bytes", ErrCorrupt, n)
		}
		ads = b[24 : 24+n]
	}
	return nil, fmt.Errorf("%w: allocation extents", image.ErrBounds)
}

// An extentList collects the extents of a file from its allocation
// descriptors, which are of one kind.
type extentList struct {
	v     *volume
	kind  uint16
	out   []image.Extent
	steps int // pieces of extents that were looked up, merged or not
}

// add adds the extents of these descriptors and returns where the list
// continues. If that has length 0, the list is complete.
func (l *extentList) add(m *partition, ads []byte) (next longAD, err error) {
	for width := []int{8, 16, 20}; len(ads) > 0; {
		if int(l.kind) >= len(width) {
			return next, fmt.Errorf("%w: allocation descriptors of type %d", ErrCorrupt, l.kind)
		}
		w := width[l.kind]
		if len(ads) < w {
			return next, nil // padding
		}
		at := l.parse(ads[:w])
		ads = ads[w:]
		n := int64(at.length & lengthMask)
		switch {
		case n == 0:
			return next, nil // ends the list
		case at.length>>30 == kindNext:
			return at, nil
		case at.length>>30 != kindRecorded:
			l.out = push(l.out, image.Extent{Off: image.Hole, Len: n})
			err = l.bounded()
		default:
			err = l.recorded(m, at, n)
		}
		if err != nil {
			return next, err
		}
	}
	return next, nil
}

// parse reads one descriptor. A short one does not name a partition.
func (l *extentList) parse(ad []byte) longAD {
	le := binary.LittleEndian
	at := longAD{length: le.Uint32(ad), block: le.Uint32(ad[4:])}
	switch l.kind {
	case 1:
		at = parseLongAD(ad)
	case 2:
		at.block, at.part = le.Uint32(ad[12:]), le.Uint16(ad[16:])
	}
	return at
}

// recorded adds n bytes that are on the medium, one contiguous run at a time.
func (l *extentList) recorded(in *partition, at longAD, n int64) (err error) {
	if l.kind != 0 {
		if in, err = l.v.part(at.part); err != nil {
			return err
		}
	}
	for block := at.block; n > 0; {
		off, run, err := in.at(block, l.v.bs)
		if err != nil {
			return err
		}
		run = min(run, n)
		l.out = push(l.out, image.Extent{Off: off, Len: run})
		l.steps++
		if err := l.bounded(); err != nil {
			return err
		}
		n -= run
		block += uint32((run + l.v.bs - 1) / l.v.bs)
	}
	return nil
}

func (l *extentList) bounded() error {
	if l.steps > maxSteps || len(l.out) > image.MaxExtents {
		return fmt.Errorf("%w: extents of a file", image.ErrBounds)
	}
	return nil
}

// push appends an extent, or lengthens the last one if they are contiguous.
func push(l []image.Extent, e image.Extent) []image.Extent {
	if n := len(l); n > 0 {
		last := &l[n-1]
		if last.Off == image.Hole && e.Off == image.Hole || last.Off != image.Hole && e.Off == last.Off+last.Len {
			last.Len += e.Len
			return l
		}
	}
	return append(l, e)
}

// list reads a directory: file identifier descriptors back to back
// (ECMA-167 4/14.4). Their CRC is not verified, as in Linux.
func (v *volume) list(n *image.Node) ([]*image.Dirent, error) {
	le := binary.LittleEndian
	b, err := image.ReadNode(v.r, n, image.MaxDirBytes)
	if err != nil {
		return nil, err
	}
	var out []*image.Dirent
	for len(b) >= 38 {
		if id := le.Uint16(b); id != tagFileIdentifier {
			return nil, fmt.Errorf("%w: descriptor %d in a directory", ErrCorrupt, id)
		}
		flags, nameLen, useLen := b[18], int(b[19]), int(le.Uint16(b[36:]))
		end := (38 + useLen + nameLen + 3) &^ 3
		if 38+useLen+nameLen > len(b) {
			return nil, fmt.Errorf("%w: directory entry beyond the directory", ErrCorrupt)
		}
		at := parseLongAD(b[20:36])
		name, ok := compressed(b[38+useLen : 38+useLen+nameLen])
		b = b[min(end, len(b)):]
		const isDir, deleted, parent = 2, 4, 8
		if flags&(deleted|parent) != 0 || !ok || at.length&lengthMask == 0 {
			continue
		}
		name = strings.Map(func(r rune) rune {
			if r == '/' || r == 0 {
				return '_' // as Linux shows them
			}
			return r
		}, name)
		if !image.ValidName(name) {
			continue
		}
		if len(out) == image.MaxEntries {
			return nil, fmt.Errorf("%w: directory entries", image.ErrBounds)
		}
		out = append(out, &image.Dirent{
			Name: name,
			Dir:  flags&isDir != 0,
			Load: func() (*image.Node, error) { return v.inode(at) },
		})
	}
	return out, nil
}

// compressed decodes OSTA CS0 (UDF 2.1.1): a byte with the number of bits per
// character, 8 or 16, then the characters. The result is false if b is not
// such a name.
func compressed(b []byte) (string, bool) {
	if len(b) < 2 {
		return "", false
	}
	switch b[0] {
	case 8:
		var s strings.Builder
		for _, c := range b[1:] {
			s.WriteRune(rune(c))
		}
		return s.String(), true
	case 16:
		u := make([]uint16, (len(b)-1)/2)
		for i := range u {
			u[i] = binary.BigEndian.Uint16(b[1+2*i:])
		}
		return string(utf16.Decode(u)), true
	}
	return "", false
}

// dstring decodes a field of fixed length: the last byte is the length used.
func dstring(b []byte) string {
	n := min(int(b[len(b)-1]), len(b)-1)
	s, _ := compressed(b[:n])
	return s
}

// timestamp decodes ECMA-167 1/7.3; fields out of range give the zero time.
func timestamp(b []byte) time.Time {
	zone := binary.LittleEndian.Uint16(b)
	year, month, day := int(int16(binary.LittleEndian.Uint16(b[2:]))), int(b[4]), int(b[5])
	if year < 1 || year > 9999 || month < 1 || month > 12 || day < 1 || day > 31 || b[6] > 23 || b[7] > 59 || b[8] > 60 {
		return time.Time{}
	}
	t := time.Date(year, time.Month(month), day, int(b[6]), int(b[7]), int(b[8]), 0, time.UTC)
	// Twelve bits, signed, minutes east; -2047 means not given.
	if off := int(int16(zone<<4) >> 4); zone>>12 == 1 && off > -1441 && off < 1441 {
		t = t.Add(-time.Duration(off) * time.Minute)
	}
	return t
}

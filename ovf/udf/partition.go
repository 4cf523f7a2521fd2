package udf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/azguest/azguest/ovf/internal/image"
)

// partition translates block numbers of one partition map to bytes of the
// image. Exactly one of vat, spare and file is set unless it is a plain one.
type partition struct {
	number uint16
	start  int64 // sparing table: first block of a packet in the partition -> its block of the image
	vat    []uint32
	spare  map[uint32]uint32 // first block of a packet, in the partition -> of the image
	packet uint32            // blocks in a packet of a sparable partition
	file   []image.Extent    // the metadata file
	ends   []int64           // where in that file each extent stops
	mirror *partition        // the same blocks in the metadata mirror file
}

// unmapped is a VAT entry without a block.
const unmapped = math.MaxUint32

// at translates a block to its offset in the image, and returns how many bytes
// are contiguous from there.
func (p *partition) at(block uint32, bs int64) (off, run int64, err error) {
	switch {
	case p.vat != nil:
		if int64(block) >= int64(len(p.vat)) || p.vat[block] == unmapped {
			return 0, 0, fmt.Errorf("%w: virtual block %d not in allocation table", ErrCorrupt, block)
		}
		return (p.start + int64(p.vat[block])) * bs, bs, nil
	case p.packet != 0:
		in := block % p.packet
		run = int64(p.packet-in) * bs
		if to, ok := p.spare[block-in]; ok {
			return int64(to)*bs + int64(in)*bs, run, nil
		}
		return (p.start + int64(block)) * bs, run, nil
	case p.file != nil:
		at := int64(block) * bs
		if i, _ := slices.BinarySearch(p.ends, at+1); i < len(p.ends) && p.file[i].Off != image.Hole {
			run = p.ends[i] - at
			return p.file[i].Off + p.file[i].Len - run, run, nil
		}
		return 0, 0, fmt.Errorf("%w: block %d not in metadata file", ErrCorrupt, block)
	}
	return (p.start + int64(block)) * bs, math.MaxInt64, nil
}

func (v *volume) part(ref uint16) (*partition, error) {
	if int(ref) >= len(v.maps) {
		return nil, fmt.Errorf("%w: partition reference %d of %d", ErrCorrupt, ref, len(v.maps))
	}
	return v.maps[ref], nil
}

// taggedIn reads the descriptor in a block of a partition. If it is damaged in
// a metadata file, the mirror is tried.
func (v *volume) taggedIn(m *partition, block uint32, ids ...uint16) ([]byte, error) {
	off, _, err := m.at(block, v.bs)
	if err == nil {
		var b []byte
		if b, err = v.tagged(off, block, ids...); err == nil {
			return b, nil
		}
	}
	if m.mirror != nil {
		if b, merr := v.taggedIn(m.mirror, block, ids...); merr == nil {
			return b, nil
		}
	}
	return nil, err
}

// partitions reads the partition map table (ECMA-167 3/10.7, UDF 2.2.8 to
// 2.2.10). Maps that build on another partition are completed in a second
// pass, because they may precede it.
func (v *volume) partitions(table []byte, n int, found map[uint16][]byte) error {
	le := binary.LittleEndian
	type later struct {
		p   *partition
		raw []byte
	}
	var virtual, metadata []later
	for i := range n {
		if len(table) < 2 || int(table[1]) < 6 || int(table[1]) > len(table) {
			return fmt.Errorf("%w: partition map %d", ErrCorrupt, i)
		}
		raw := table[:table[1]]
		table = table[table[1]:]
		p := &partition{}
		switch {
		case raw[0] == 1:
			p.number = le.Uint16(raw[4:])
		case raw[0] == 2 && len(raw) >= 64:
			p.number = le.Uint16(raw[38:])
			switch id := raw[5:28]; {
			case bytes.HasPrefix(id, []byte("*UDF Virtual Partition")):
				virtual = append(virtual, later{p, raw})
			case bytes.HasPrefix(id, []byte("*UDF Sparable Partition")):
				v.sparable(p, raw)
			case bytes.HasPrefix(id, []byte("*UDF Metadata Partition")):
				metadata = append(metadata, later{p, raw})
			default:
				return fmt.Errorf("%w: unknown partition type %q", ErrCorrupt, bytes.TrimRight(id, "\x00"))
			}
		default:
			return fmt.Errorf("%w: partition map of type %d", ErrCorrupt, raw[0])
		}
		d := found[p.number]
		if d == nil {
			return fmt.Errorf("%w: no descriptor of partition %d", ErrCorrupt, p.number)
		}
		p.start = int64(le.Uint32(d[188:]))
		v.maps = append(v.maps, p)
	}
	// UDF allows one of each. More would let a hostile image cause more work.
	if len(virtual) > 1 || len(metadata) > 1 {
		return fmt.Errorf("%w: virtual or metadata partitions", image.ErrBounds)
	}
	for _, l := range virtual {
		if err := v.virtual(l.p); err != nil {
			return err
		}
	}
	for _, l := range metadata {
		if err := v.metadata(l.p, l.raw); err != nil {
			return err
		}
	}
	return nil
}

// sparable reads the sparing table of a rewritable medium. If none of its
// copies can be read, the partition is used without one, as in Linux.
func (v *volume) sparable(p *partition, raw []byte) {
	le := binary.LittleEndian
	p.packet = max(1, uint32(le.Uint16(raw[40:])))
	p.spare = map[uint32]uint32{}
	for i := range min(4, int(raw[42])) {
		at := le.Uint32(raw[48+4*i:])
		b, err := v.tagged(int64(at)*v.bs, at, tagSparing)
		if err != nil || !bytes.HasPrefix(b[17:40], []byte("*UDF Sparing Table")) {
			continue
		}
		n := int(le.Uint16(b[48:]))
		t := make([]byte, 8*n)
		if err := image.ReadAt(v.r, v.size, t, int64(at)*v.bs+56); err != nil {
			continue
		}
		for ; len(t) > 0; t = t[8:] {
			if from := le.Uint32(t); from < 0xfffffff0 { // above: free or defective
				p.spare[from] = le.Uint32(t[4:])
			}
		}
		return
	}
}

// virtual finds the virtual allocation table: a file whose ICB is the last
// block that was written, or a few before it (UDF 2.2.11, and Linux).
func (v *volume) virtual(p *partition) error {
	flat := &partition{number: p.number, start: p.start}
	last := v.size/v.bs - 1
	var first error
	for at := last; at > last-16 && at >= p.start; at-- {
		vat, err := v.readVAT(flat, at)
		if err == nil {
			p.vat = vat
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return fmt.Errorf("find virtual allocation table: %w", first)
}

func (v *volume) readVAT(flat *partition, at int64) ([]uint32, error) {
	le := binary.LittleEndian
	if at-flat.start > math.MaxUint32 {
		return nil, ErrCorrupt
	}
	n, kind, err := v.load(flat, uint32(at-flat.start))
	if err != nil {
		return nil, err
	}
	b, err := image.ReadNode(v.r, n, maxTableBytes)
	if err != nil {
		return nil, err
	}
	switch {
	case kind == 248 && len(b) >= 152: // UDF 2.00: a header in front
		h := int(le.Uint16(b))
		if h > len(b) {
			return nil, fmt.Errorf("%w: virtual allocation table", ErrCorrupt)
		}
		b = b[h:]
	case kind == 0 && len(b) >= 36 && bytes.HasPrefix(b[len(b)-35:], []byte("*UDF Virtual Alloc Tbl")):
		b = b[:len(b)-36] // UDF 1.50: an identifier at the end
	default:
		return nil, fmt.Errorf("%w: no virtual allocation table", ErrCorrupt)
	}
	vat := make([]uint32, len(b)/4)
	for i := range vat {
		vat[i] = le.Uint32(b[4*i:])
	}
	return vat, nil
}

// metadata finds the extents of the metadata file and of its mirror (UDF
// 2.2.10, 2.2.13).
func (v *volume) metadata(p *partition, raw []byte) error {
	le := binary.LittleEndian
	i := slices.IndexFunc(v.maps, func(m *partition) bool {
		return m != p && m.number == p.number && m.vat == nil && m.file == nil
	})
	flat := &partition{number: p.number, start: p.start}
	if i >= 0 {
		flat = v.maps[i]
	}
	lies := func(block uint32) (*partition, error) {
		n, _, err := v.load(flat, block)
		if err == nil && len(n.Data) == 0 {
			err = fmt.Errorf("%w: empty metadata file", ErrCorrupt)
		}
		if err != nil {
			return nil, err
		}
		return &partition{number: p.number, file: n.Data, ends: image.Ends(n.Data)}, nil
	}
	first, err := lies(le.Uint32(raw[40:]))
	second, merr := lies(le.Uint32(raw[44:]))
	switch {
	case err != nil && merr != nil:
		return fmt.Errorf("read metadata file: %w", err)
	case err != nil:
		first, second = second, nil
	case merr != nil || slices.Equal(first.file, second.file):
		second = nil // a mirror that is not a copy names the same blocks
	}
	p.file, p.ends, p.mirror = first.file, first.ends, second
	return nil
}

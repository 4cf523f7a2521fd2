package udf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/azguest/azguest/ovf/internal/image"
)

// ErrNotUDF is in the chain of the error of Open if the image holds no UDF
// volume at all. Any other error means that it does, or may, and is damaged.
var ErrNotUDF = errors.New("not a UDF volume")

// ErrCorrupt is in the chain of errors about structures that contradict the
// standard or themselves.
var ErrCorrupt = errors.New("corrupt UDF structure")

const (
	maxVolumeDescriptors = 256  // in one volume descriptor sequence, with its continuations
	maxPartitions        = 8    // partition maps of the logical volume
	maxTable             = 1024 // links of one chain: allocation extents, indirect ICBs
	maxSteps             = 1 << 18
	maxTableBytes        = 2 << 20 // virtual allocation table
)

// Descriptor tags: ECMA-167 3/7.2.1 and 4/7.2.1.
const (
	tagSparing          = 0
	tagAnchor           = 2
	tagPointer          = 3
	tagPartition        = 5
	tagLogicalVolume    = 6
	tagTerminating      = 8
	tagFileSet          = 256
	tagFileIdentifier   = 257
	tagAllocationExtent = 258
	tagIndirect         = 248
	tagFile             = 261
	tagExtendedFile     = 266
)

// FS is a UDF volume. It implements fs.FS, fs.ReadDirFS, fs.ReadFileFS and
// fs.StatFS; ReadFile refuses files of more than 16 MiB.
type FS struct {
	*image.FS
	label     string
	blockSize int64
}

// Label is the logical volume identifier.
func (f *FS) Label() string { return f.label }

// BlockSize is the size of a logical block in bytes.
func (f *FS) BlockSize() int64 { return f.blockSize }

// volume is the state of an opened volume; it does not change after open.
type volume struct {
	r    io.ReaderAt
	size int64
	bs   int64
	maps []*partition
	root longAD
	name string
}

// Open finds the volume in an image of size bytes. The ReaderAt must stay
// usable as long as the FS is used.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	if err := recognise(r, size); err != nil {
		return nil, err
	}
	// The block size is written down only in a descriptor that cannot be
	// found without it, so try: optical media first.
	var first error
	for _, bs := range []int64{2048, 512, 4096, 1024, 8192, 16384, 32768} {
		v := &volume{r: r, size: size, bs: bs}
		err := v.open()
		if err == nil {
			root := func() (*image.Node, error) { return v.inode(v.root) }
			return &FS{FS: image.New(r, root, nil), label: v.name, blockSize: bs}, nil
		}
		if first == nil && !errors.Is(err, errNoAnchor) {
			first = fmt.Errorf("open UDF volume with blocks of %d bytes: %w", bs, err)
		}
	}
	if first != nil {
		return nil, first
	}
	return nil, fmt.Errorf("open UDF volume: %w: %w", ErrCorrupt, errNoAnchor)
}

var errNoAnchor = errors.New("no anchor volume descriptor pointer")

// recognise looks for NSR02 or NSR03 in the volume recognition area, which
// begins at 32 KiB and goes up in steps of 2 KiB (or of a larger block, which
// is a multiple). Unlike Linux it looks behind unknown descriptors too.
func recognise(r io.ReaderAt, size int64) error {
	const start, end = 32 << 10, 128 << 10
	var b [7]byte
	for off := int64(start); off < end; off += 2048 {
		if err := image.ReadAt(r, size, b[:], off); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			return fmt.Errorf("read volume recognition sequence: %w", err)
		}
		if id := b[1:6]; b[0] == 0 && (bytes.Equal(id, []byte("NSR02")) || bytes.Equal(id, []byte("NSR03"))) {
			return nil
		}
	}
	return ErrNotUDF
}

func (v *volume) open() error {
	blocks := v.size / v.bs
	places := []int64{256, blocks - 1, blocks - 257, blocks - 256, 512}
	err := errNoAnchor
	for _, at := range places {
		b, aerr := v.tagged(at*v.bs, uint32(at), tagAnchor)
		if aerr != nil || at <= 0 {
			continue
		}
		// The main and the reserve sequence, each an extent of absolute blocks.
		for _, ext := range [][]byte{b[16:24], b[24:32]} {
			if err = v.sequence(ext); err == nil {
				return nil
			}
		}
	}
	return err
}

// descriptors holds what is needed from a volume descriptor sequence; of each
// kind the one with the highest sequence number counts.
type descriptors struct {
	logical    []byte
	partitions map[uint16][]byte
}

// sequence reads a volume descriptor sequence and opens the volume it
// describes.
func (v *volume) sequence(ext []byte) error {
	d := descriptors{partitions: map[uint16][]byte{}}
	le := binary.LittleEndian
	at, left := int64(le.Uint32(ext[4:])), int64(le.Uint32(ext))/v.bs
	// The standard demands 16 blocks; some writers leave the length short.
	left = max(left, 1)
	for n := 0; left > 0; n++ {
		if n == maxVolumeDescriptors {
			return fmt.Errorf("%w: volume descriptor sequence", image.ErrBounds)
		}
		b, err := v.tagged(at*v.bs, uint32(at))
		if err != nil {
			break // as Linux: an unreadable block ends the sequence
		}
		at, left = at+1, left-1
		switch id := le.Uint16(b); id {
		case tagTerminating:
			left = 0
		case tagPointer:
			at, left = int64(le.Uint32(b[24:])), int64(le.Uint32(b[20:]))/v.bs
		case tagLogicalVolume:
			if d.logical == nil || le.Uint32(b[16:]) >= le.Uint32(d.logical[16:]) {
				d.logical = b
			}
		case tagPartition:
			num := le.Uint16(b[22:])
			if old := d.partitions[num]; old == nil && len(d.partitions) < maxPartitions || old != nil && le.Uint32(b[16:]) >= le.Uint32(old[16:]) {
				d.partitions[num] = b
			}
		}
	}
	if d.logical == nil {
		return fmt.Errorf("%w: no logical volume descriptor", ErrCorrupt)
	}
	return v.logical(d)
}

// logical opens the logical volume: partition maps, file set, root directory.
func (v *volume) logical(d descriptors) error {
	le := binary.LittleEndian
	b := d.logical
	if bs := int64(le.Uint32(b[212:])); bs != v.bs {
		return fmt.Errorf("%w: logical volume has blocks of %d bytes", ErrCorrupt, bs)
	}
	v.name, v.maps = dstring(b[84:212]), nil
	n, length := le.Uint32(b[268:]), int64(le.Uint32(b[264:]))
	if n > maxPartitions {
		return fmt.Errorf("%w: %d partition maps", image.ErrBounds, n)
	}
	if length > int64(len(b)-440) {
		return fmt.Errorf("%w: partition map table of %d bytes", ErrCorrupt, length)
	}
	if err := v.partitions(b[440:440+length], int(n), d.partitions); err != nil {
		return err
	}
	at := parseLongAD(b[248:264])
	m, err := v.part(at.part)
	if err != nil {
		return fmt.Errorf("file set: %w", err)
	}
	fsd, err := v.taggedIn(m, at.block, tagFileSet)
	if err != nil {
		return fmt.Errorf("read file set descriptor: %w", err)
	}
	v.root = parseLongAD(fsd[400:416])
	root, err := v.inode(v.root)
	if err != nil {
		return fmt.Errorf("read root directory: %w", err)
	}
	if !root.Mode.IsDir() {
		return fmt.Errorf("%w: root is not a directory", ErrCorrupt)
	}
	return nil
}

// tagged reads the block at off and verifies its descriptor tag. If ids are
// given it must be one of them.
func (v *volume) tagged(off int64, location uint32, ids ...uint16) ([]byte, error) {
	b := make([]byte, v.bs)
	if err := image.ReadAt(v.r, v.size, b, off); err != nil {
		return nil, fmt.Errorf("read block at byte %d: %w", off, err)
	}
	if err := checkTag(b, location, ids...); err != nil {
		return nil, fmt.Errorf("block at byte %d: %w", off, err)
	}
	return b, nil
}

// checkTag verifies a descriptor tag (ECMA-167 3/7.2) as Linux does: a CRC
// over more bytes than the block has is not checked.
func checkTag(b []byte, location uint32, ids ...uint16) error {
	le := binary.LittleEndian
	var sum byte
	for i, c := range b[:16] {
		if i != 4 {
			sum += c
		}
	}
	id, version, crc, n := le.Uint16(b), le.Uint16(b[2:]), le.Uint16(b[8:]), int(le.Uint16(b[10:]))
	switch {
	case sum != b[4]:
		return fmt.Errorf("%w: tag checksum", ErrCorrupt)
	case version != 2 && version != 3:
		return fmt.Errorf("%w: tag version %d", ErrCorrupt, version)
	case le.Uint32(b[12:]) != location:
		return fmt.Errorf("%w: tag of block %d in block %d", ErrCorrupt, le.Uint32(b[12:]), location)
	case n <= len(b)-16 && crc16(b[16:16+n]) != crc:
		return fmt.Errorf("%w: descriptor CRC", ErrCorrupt)
	}
	if slices.Contains(ids, id) {
		return nil
	}
	if len(ids) > 0 {
		return fmt.Errorf("%w: descriptor %d, want %d", ErrCorrupt, id, ids)
	}
	return nil
}

// crc16 is the CRC of ECMA-167 3/7.2.6: x^16+x^12+x^5+1, from zero, high bit
// first. Descriptors are small; a table would not pay.
func crc16(b []byte) uint16 {
	var crc uint16
	for _, c := range b {
		crc ^= uint16(c) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

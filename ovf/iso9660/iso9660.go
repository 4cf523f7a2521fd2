// Package iso9660 reads ISO 9660 (ECMA-119) volumes in user space, as an
// fs.FS over an io.ReaderAt: with Rock Ridge names if the volume has them,
// else with Joliet names, else with the plain ones in lower case and without
// their version, all as Linux shows them. It is the second reader for the
// provisioning DVD (provisioning/SPEC.md §4.6), after package udf.
//
// Files in several extents are read; interleaved and zisofs-compressed ones
// are shown and refused when they are opened. Symlinks are not followed.
//
// The image is taken to be hostile: every list and chain is bounded (constants
// here and in package image), and so is every allocation, whatever sizes the
// image claims. Nothing is cached.
package iso9660

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/azguest/azguest/ovf/internal/image"
)

// ErrNotISO9660 is in the chain of the error of Open if the image holds no
// ISO 9660 volume at all. Any other error means that it does, damaged.
var ErrNotISO9660 = errors.New("not an ISO 9660 volume")

// ErrCorrupt is in the chain of errors about structures that contradict the
// standard or themselves.
var ErrCorrupt = errors.New("corrupt ISO 9660 structure")

const (
	sector          = 2048 // of the volume descriptors and of directories, whatever the block size
	maxDescriptors  = 64   // volume descriptors
	maxParts        = 4096 // records of one file in several extents
	maxContinuation = 32   // continuation areas of one record
)

// FS is an ISO 9660 volume. It implements fs.FS, fs.ReadDirFS, fs.ReadFileFS
// and fs.StatFS; ReadFile refuses files of more than 16 MiB.
type FS struct {
	*image.FS
	label string
	names string
}

// Label is the volume identifier.
func (f *FS) Label() string { return f.label }

// Names says where names come from: "rockridge", "joliet" or "plain".
func (f *FS) Names() string { return f.names }

type volume struct {
	r    io.ReaderAt
	size int64
	bs   int64 // logical block, the unit of addresses

	joliet bool
	rock   bool
	skip   int // bytes in front of the system use entries (SP)
}

// Open finds the volume in an image of size bytes. The ReaderAt must stay
// usable as long as the FS is used.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	var primary, joliet []byte
	for i := range int64(maxDescriptors) {
		b := make([]byte, sector)
		err := image.ReadAt(r, size, b, (16+i)*sector)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("read volume descriptor: %w", err)
		}
		if err != nil || b[0] == 255 {
			break
		}
		if !bytes.Equal(b[1:6], []byte("CD001")) {
			continue // a bridge has UDF descriptors between
		}
		switch {
		case b[0] == 1 && primary == nil:
			primary = b
		case b[0] == 2 && joliet == nil && isJoliet(b):
			joliet = b
		}
	}
	if primary == nil && joliet == nil {
		return nil, ErrNotISO9660
	}
	v, root, err := choose(r, size, primary, joliet)
	if err != nil {
		return nil, fmt.Errorf("open ISO 9660 volume: %w", err)
	}
	f := &FS{names: "plain"}
	var fold func(string) string
	switch {
	case v.joliet:
		f.names = "joliet"
		f.label = strings.TrimRight(ucs2(joliet[40:72]), " \x00")
	case v.rock:
		f.names = "rockridge"
	default:
		fold = plain
	}
	if !v.joliet {
		f.label = strings.TrimRight(string(primary[40:72]), " \x00")
	}
	f.FS = image.New(r, func() (*image.Node, error) { return v.node(*root), nil }, fold)
	return f, nil
}

// isJoliet recognizes the three UCS-2 levels by their escape sequences.
func isJoliet(b []byte) bool {
	e := b[88:91]
	return e[0] == '%' && e[1] == '/' && (e[2] == '@' || e[2] == 'C' || e[2] == 'E')
}

// choose picks the tree as Linux does: Rock Ridge, else Joliet, else plain.
func choose(r io.ReaderAt, size int64, primary, joliet []byte) (*volume, *record, error) {
	var first error
	if primary != nil {
		v := &volume{r: r, size: size}
		root, err := v.open(primary)
		if err == nil && (v.rock || joliet == nil) {
			return v, root, nil
		}
		if err == nil {
			if jv, jroot, jerr := choose(r, size, nil, joliet); jerr == nil {
				return jv, jroot, nil
			}
			return v, root, nil
		}
		first = err
	}
	if joliet != nil {
		v := &volume{r: r, size: size, joliet: true}
		root, err := v.open(joliet)
		if err == nil {
			return v, root, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, first
}

// open reads one volume descriptor and tries its root directory.
func (v *volume) open(b []byte) (*record, error) {
	v.bs = int64(binary.LittleEndian.Uint16(b[128:]))
	if v.bs != 512 && v.bs != 1024 && v.bs != 2048 {
		return nil, fmt.Errorf("%w: logical blocks of %d bytes", ErrCorrupt, v.bs)
	}
	root, err := v.record(b[156:190])
	if err != nil {
		return nil, err
	}
	if root.flags&flagDir == 0 {
		return nil, fmt.Errorf("%w: root is not a directory", ErrCorrupt)
	}
	dot, err := v.dot(root.data[0].Off)
	if err != nil {
		return nil, fmt.Errorf("read root directory: %w", err)
	}
	// The root's own record starts with SP if it has SUSP entries. How Rock
	// Ridge is announced (RR, ER) is not uniform, so the entries themselves
	// decide, as in Linux.
	if s := dot.use; !v.joliet && len(s) >= 7 && string(s[:2]) == "SP" && s[4] == 0xbe && s[5] == 0xef {
		v.rock, v.skip = true, int(s[6])
	}
	return root, nil
}

// dot reads the first record of a directory, which is the directory itself.
func (v *volume) dot(off int64) (*record, error) {
	b := make([]byte, 256)
	if left := v.size - off; off >= 0 && left > 0 && left < 256 {
		b = b[:left]
	}
	if err := image.ReadAt(v.r, v.size, b, off); err != nil {
		return nil, err
	}
	if b[0] < 34 || int(b[0]) > len(b) {
		return nil, fmt.Errorf("%w: directory without . record", ErrCorrupt)
	}
	return v.record(b[:b[0]])
}

// plain returns a name as Linux shows it without extensions: lower case, no
// version, no dot at the end. It is applied to requested names too, so that
// OVF_ENV.XML;1 and ovf_env.xml are equal.
func plain(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.ToLower(strings.TrimSuffix(s, "."))
}

func ucs2(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

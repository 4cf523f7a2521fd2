package iso9660

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"

	"github.com/azguest/azguest/ovf/internal/image"
)

// Flags of a directory record: ECMA-119 9.1.6.
const (
	flagDir        = 0x02
	flagAssociated = 0x04
	flagMore       = 0x80 // not the last extent of the file
)

// record is a directory record, with what Rock Ridge adds to it.
type record struct {
	id     string // as recorded
	flags  byte
	data   []image.Extent
	size   int64
	time   time.Time
	err    error // why the content cannot be read
	use    []byte
	isDot  bool // the directory itself, or its parent
	name   string
	mode   fs.FileMode // from PX
	hasPX  bool
	link   bool   // SL
	child  uint32 // CL: first block of the relocated directory; 0 if none
	hidden bool   // RE: the place a relocated directory was moved to
}

// record parses the fixed part of the directory record in b.
func (v *volume) record(b []byte) (*record, error) {
	le := binary.LittleEndian
	n := int(b[32])
	if 33+n > len(b) {
		return nil, fmt.Errorf("%w: directory record", ErrCorrupt)
	}
	r := &record{
		id:    string(b[33 : 33+n]),
		flags: b[25],
		size:  int64(le.Uint32(b[10:])),
		time:  stamp(b[18:25]),
	}
	// An extended attribute record, if there is one, lies in front of the data.
	off := (int64(le.Uint32(b[2:])) + int64(b[1])) * v.bs
	r.data = []image.Extent{{Off: off, Len: r.size}}
	if b[26] != 0 || b[27] != 0 {
		r.err = errors.New("interleaved files are not supported")
	}
	r.isDot = n == 1 && b[33] <= 1
	if at := 33 + n + (n+1)&1; at < len(b) {
		r.use = b[at:]
	}
	return r, nil
}

// stamp decodes ECMA-119 9.1.5; fields out of range give the zero time.
func stamp(b []byte) time.Time {
	if b[1] < 1 || b[1] > 12 || b[2] < 1 || b[2] > 31 || b[3] > 23 || b[4] > 59 || b[5] > 60 {
		return time.Time{}
	}
	t := time.Date(1900+int(b[0]), time.Month(b[1]), int(b[2]), int(b[3]), int(b[4]), int(b[5]), 0, time.UTC)
	return t.Add(-time.Duration(int8(b[6])) * 15 * time.Minute)
}

// list reads a directory. Records do not cross sectors; the rest of a sector
// is zero.
func (v *volume) list(dir *image.Node) ([]*image.Dirent, error) {
	b, err := image.ReadNode(v.r, dir, image.MaxDirBytes)
	if err != nil {
		return nil, err
	}
	var out []*image.Dirent
	var open *record // a file of which more extents follow
	parts := 0
	for at := 0; at < len(b); {
		n := int(b[at])
		if n == 0 {
			at = (at/sector + 1) * sector
			continue
		}
		if n < 34 || at+n > len(b) {
			return nil, fmt.Errorf("%w: directory record of %d bytes", ErrCorrupt, n)
		}
		r, err := v.record(b[at : at+n])
		if err != nil {
			return nil, err
		}
		at += n
		if r.isDot || r.flags&flagAssociated != 0 {
			continue
		}
		if open != nil && open.id == r.id {
			if parts++; parts > maxParts {
				return nil, fmt.Errorf("%w: extents of a file", image.ErrBounds)
			}
			open.data = append(open.data, r.data...)
			open.size += r.size
			if open.err == nil {
				open.err = r.err
			}
			if r.flags&flagMore == 0 {
				open = nil
			}
			continue
		}
		open = nil
		v.describe(r)
		if r.flags&flagMore != 0 {
			open, parts = r, 1
		}
		if r.hidden || !image.ValidName(r.name) {
			continue
		}
		if len(out) == image.MaxEntries {
			return nil, fmt.Errorf("%w: directory entries", image.ErrBounds)
		}
		out = append(out, &image.Dirent{
			Name: r.name,
			Dir:  r.flags&flagDir != 0 || r.child != 0,
			Load: func() (*image.Node, error) { return v.load(r) },
		})
	}
	return out, nil
}

// load makes the inode of a record. The data of a relocated directory is at
// r.child.
func (v *volume) load(r *record) (*image.Node, error) {
	if r.child == 0 {
		return v.node(*r), nil
	}
	off := int64(r.child) * v.bs
	dot, err := v.dot(off)
	if err != nil {
		return nil, fmt.Errorf("read relocated directory: %w", err)
	}
	moved := *r
	moved.flags |= flagDir
	moved.size = dot.size
	moved.data = []image.Extent{{Off: off, Len: dot.size}}
	return v.node(moved), nil
}

func (v *volume) node(r record) *image.Node {
	n := &image.Node{Size: r.size, Time: r.time, Data: r.data, Err: r.err, ID: uint64(r.data[0].Off)}
	switch {
	case r.flags&flagDir != 0:
		n.Mode = fs.ModeDir | 0o555
		n.List = func() ([]*image.Dirent, error) { return v.list(n) }
	case r.link:
		n.Mode = fs.ModeSymlink | 0o777
	default:
		n.Mode = 0o444
	}
	if r.hasPX {
		n.Mode = n.Mode.Type() | r.mode
	}
	return n
}

// describe sets the name of the record and what Rock Ridge adds to it.
func (v *volume) describe(r *record) {
	switch {
	case v.joliet:
		r.name, _, _ = strings.Cut(ucs2([]byte(r.id)), ";")
	case v.rock:
		v.rockRidge(r)
	}
	if r.name == "" {
		r.name = plain(r.id)
	}
	r.use = nil // so that the bytes of the directory can be freed
}

// rockRidge reads the system use entries of a record (SUSP 1.12, RRIP 1.12)
// and of its continuation areas. It stops at a damaged entry. Without a Rock
// Ridge name the plain name is used.
func (v *volume) rockRidge(r *record) {
	le := binary.LittleEndian
	s := r.use
	s = s[min(v.skip, len(s)):]
	var name strings.Builder
	for range maxContinuation {
		next := make([]byte, 0)
		for len(s) >= 4 {
			n := int(s[2])
			if n < 4 || n > len(s) {
				break
			}
			e := s[:n]
			s = s[n:]
			switch sig := string(e[:2]); {
			case sig == "ST":
				s = nil
			case sig == "NM" && n >= 5 && e[4]&^1 == 0 && name.Len()+n <= math.MaxUint8+5:
				name.Write(e[5:])
			case sig == "PX" && n >= 12:
				r.mode, r.hasPX = fs.FileMode(le.Uint32(e[4:]))&0o777, true
			case sig == "SL":
				r.link = true
			case sig == "CL" && n >= 12:
				r.child = le.Uint32(e[4:])
			case sig == "RE":
				r.hidden = true
			case sig == "ZF":
				r.err = errors.New("compressed files (zisofs) are not supported")
			case sig == "CE" && n >= 28:
				next = make([]byte, min(le.Uint32(e[20:]), sector))
				if err := image.ReadAt(v.r, v.size, next, int64(le.Uint32(e[4:]))*v.bs+int64(le.Uint32(e[12:]))); err != nil {
					next = nil
				}
			}
		}
		if len(next) == 0 {
			break
		}
		s = next
	}
	r.name = name.String()
}

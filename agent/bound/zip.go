package bound

import (
	"archive/zip"
	"io"
	"path"
)

// Package are the limits of an archive that is unpacked.
type Package struct {
	// Directory are the bytes of the archive's own list of its entries, which
	// is read as a whole and of which each entry takes at least 46.
	Directory int64
	// Inodes are files and directories, those that are only part of a name
	// among them.
	Inodes int
	// Bytes are what the disk takes: whole blocks, inodes and names.
	Bytes int64
	// Ratio is how many times the archive's size Bytes may be, above Floor.
	Ratio, Floor int64
}

// Open reads the list of a zip's entries.
func (l Package) Open(f io.ReaderAt, size int64) (*zip.Reader, error) {
	const tail = 256 << 10 // where the list is, is looked for at the end
	r := &metered{r: f, left: l.Directory + tail, max: l.Directory}
	z, err := zip.NewReader(r, size)
	r.left = -1 // from now on it is files that are read
	if r.over {
		err = &Error{"bytes in the zip directory", l.Directory}
	}
	if err != nil {
		return nil, err
	}
	return z, nil
}

// metered ends reading when too much was read; a negative rest is no limit.
type metered struct {
	r         io.ReaderAt
	left, max int64
	over      bool
}

func (m *metered) ReadAt(p []byte, off int64) (int, error) {
	if m.left >= 0 {
		if m.left -= int64(len(p)); m.left < 0 {
			m.over, m.left = true, 0
			return 0, &Error{"bytes", m.max}
		}
	}
	return m.r.ReadAt(p, off)
}

// Disk counts what an archive takes on a disk when it is unpacked.
type Disk struct {
	l     Package
	size  int64
	bytes int64
	seen  map[string]bool
}

// Disk begins to count for an archive of so many bytes.
func (l Package) Disk(size int64) *Disk { return &Disk{l: l, size: size, seen: map[string]bool{}} }

// What files take besides their content: ext4 has inodes of 256 bytes, others
// more, and a name takes its length and some. A directory takes a block.
const (
	block     = 4096
	inodeSize = 512
	entrySize = 16
)

// Add counts a file of so many bytes, or a directory, with the directories
// above it that were not counted yet. The name is clean and separated by
// slashes.
func (d *Disk) Add(name string, dir bool, size int64) error {
	if dir {
		size = block
	}
	if size < 0 || size > d.l.Bytes {
		return &Error{"bytes on disk", d.l.Bytes}
	}
	for name != "." && name != "/" && !d.seen[name] {
		if len(d.seen) >= d.l.Inodes {
			return &Error{"files and directories", int64(d.l.Inodes)}
		}
		d.seen[name] = true
		d.bytes += (size+block-1)/block*block + inodeSize + entrySize + int64(len(path.Base(name)))
		if d.bytes > d.l.Bytes {
			return &Error{"bytes on disk", d.l.Bytes}
		}
		if d.bytes > d.l.Floor && d.bytes/d.l.Ratio > d.size {
			return &Error{"times its size on disk", d.l.Ratio}
		}
		name, size = path.Dir(name), block
	}
	return nil
}

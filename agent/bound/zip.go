package bound

import (
	"archive/zip"
	"io"
	"path"
)

// Package has the limits of an archive that is unpacked.
type Package struct {
	// Directory is the size in bytes of the archive's list of entries, which is
	// read as a whole; each entry takes at least 46.
	Directory int64
	// Inodes is the number of files and directories, including directories that
	// are only part of a name.
	Inodes int
	// Bytes is the space on disk: whole blocks, inodes and names.
	Bytes int64
	// Ratio is how many times larger than the archive its content on disk may
	// be, if that is more than Floor bytes.
	Ratio, Floor int64
}

// Open reads the list of entries of a zip, within the limit.
func (l Package) Open(f io.ReaderAt, size int64) (*zip.Reader, error) {
	const tail = 256 << 10 // the position of the list is searched for at the end
	r := &metered{r: f, left: l.Directory + tail, max: l.Directory}
	z, err := zip.NewReader(r, size)
	r.left = -1 // from now on, files are read
	if r.over {
		err = &Error{"bytes in the zip directory", l.Directory}
	}
	if err != nil {
		return nil, err
	}
	return z, nil
}

// metered makes reads fail after too much was read; if left is negative, there
// is no limit.
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

// Disk counts the space that an archive takes on disk when it is unpacked.
type Disk struct {
	l     Package
	size  int64
	bytes int64
	seen  map[string]bool
}

// Disk starts to count for an archive of size bytes.
func (l Package) Disk(size int64) *Disk { return &Disk{l: l, size: size, seen: map[string]bool{}} }

// Space that files take besides their content: ext4 has inodes of 256 bytes,
// others larger ones, and a name takes its length and some more. A directory
// takes a block.
const (
	block     = 4096
	inodeSize = 512
	entrySize = 16
)

// Add counts a file of size bytes, or a directory, and the directories above it
// that were not counted yet. The name is clean and separated by slashes.
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

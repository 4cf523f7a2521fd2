// Package image is the common part of packages udf and iso9660: it presents a
// volume, which may be hostile, as an fs.FS. It represents files as lists of
// extents and asks the reader for everything else, one inode at a time, so
// that memory does not grow with what the image claims to hold.
package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// Limits for every image, whatever it claims. The provisioning medium has two
// or three small files (provisioning/SPEC.md §4.7); the limits leave room for
// any real volume and keep a hostile one harmless.
const (
	MaxDirBytes = 2 << 20  // bytes of one directory that are read
	MaxEntries  = 8192     // entries of one directory
	MaxExtents  = 32768    // extents of one file
	MaxReadFile = 16 << 20 // bytes that FS.ReadFile returns at most
	maxDepth    = 32       // elements of a path
)

// ErrBounds is in the chain of every error about an image that exceeds a limit
// of its reader.
var ErrBounds = errors.New("image exceeds a limit of the reader")

// Hole is the offset of an extent whose bytes read as zero.
const Hole = -1

// An Extent is a run of bytes of a file.
type Extent struct {
	Off int64 // in the image, or Hole
	Len int64
}

// A Node is a loaded inode.
type Node struct {
	Mode   fs.FileMode
	Size   int64
	Time   time.Time
	Data   []Extent                  // in order; bytes that they do not cover are zero
	Inline []byte                    // the content itself, if it lies in the inode
	Err    error                     // why the content cannot be read; nil if it can
	List   func() ([]*Dirent, error) // of a directory
	ID     uint64                    // place of the inode, to recognize a directory that contains itself
}

// A Dirent names an inode that is not loaded yet.
type Dirent struct {
	Name string
	Dir  bool
	Load func() (*Node, error)
}

// FS is a volume as fs.FS. It is safe for concurrent use if the ReaderAt is.
type FS struct {
	r    io.ReaderAt
	root func() (*Node, error)
	fold func(string) string
}

// New makes an FS. If no entry has exactly the requested name, the first one
// that fold maps to the same text is used; fold may be nil.
func New(r io.ReaderAt, root func() (*Node, error), fold func(string) string) *FS {
	return &FS{r: r, root: root, fold: fold}
}

// Open implements fs.FS. Files it returns are also io.ReaderAt and io.Seeker.
func (f *FS) Open(name string) (fs.File, error) {
	n, err := f.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	st := info{base(name), n}
	switch {
	case n.Mode.IsDir():
		return &dir{info: st, node: n, path: name}, nil
	case n.Err != nil:
		return nil, &fs.PathError{Op: "open", Path: name, Err: n.Err}
	case !n.Mode.IsRegular():
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: %s is not a regular file", fs.ErrInvalid, n.Mode)}
	}
	return &file{info: st, SectionReader: io.NewSectionReader(&content{f.r, n, Ends(n.Data)}, 0, n.Size)}, nil
}

// ReadFile implements fs.ReadFileFS. It refuses files larger than MaxReadFile,
// because fs.ReadFile alone would allocate the size that the image claims.
func (f *FS) ReadFile(name string) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // files of an image hold no descriptor
	st, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a directory")}
	}
	if st.Size() > MaxReadFile {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrBounds, st.Size(), MaxReadFile)}
	}
	b := make([]byte, st.Size())
	if _, err := io.ReadFull(file, b); err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

// ReadDir implements fs.ReadDirFS.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	l, err := list(n)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return l, nil
}

// Stat implements fs.StatFS.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	n, err := f.find(name)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return info{base(name), n}, nil
}

func (f *FS) find(name string) (*Node, error) {
	if !fs.ValidPath(name) {
		return nil, fs.ErrInvalid
	}
	n, err := f.root()
	if err != nil || name == "." {
		return n, err
	}
	elems := strings.Split(name, "/")
	if len(elems) > maxDepth {
		return nil, fmt.Errorf("%w: path of %d elements", ErrBounds, len(elems))
	}
	above := []uint64{n.ID}
	for _, elem := range elems {
		if !n.Mode.IsDir() || n.List == nil {
			return nil, fs.ErrNotExist
		}
		entries, err := n.List()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(entries, func(e *Dirent) bool { return e.Name == elem })
		if i < 0 && f.fold != nil {
			want := f.fold(elem)
			i = slices.IndexFunc(entries, func(e *Dirent) bool { return f.fold(e.Name) == want })
		}
		if i < 0 {
			return nil, fs.ErrNotExist
		}
		if n, err = entries[i].Load(); err != nil {
			return nil, err
		}
		if n.Mode.IsDir() {
			if slices.Contains(above, n.ID) {
				return nil, fmt.Errorf("%w: directory contains itself", ErrBounds)
			}
			above = append(above, n.ID)
		}
	}
	return n, nil
}

func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// list sorts the entries by name, as io/fs requires, and drops all but the
// first of entries with the same name, as path look-up does.
func list(n *Node) ([]fs.DirEntry, error) {
	if !n.Mode.IsDir() || n.List == nil {
		return nil, errors.New("not a directory")
	}
	entries, err := n.List()
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(entries, func(a, b *Dirent) int { return strings.Compare(a.Name, b.Name) })
	entries = slices.CompactFunc(entries, func(a, b *Dirent) bool { return a.Name == b.Name })
	out := make([]fs.DirEntry, len(entries))
	for i, e := range entries {
		out[i] = dirent{e}
	}
	return out, nil
}

// ValidName reports whether a directory entry may have this name in an fs.FS.
func ValidName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

type dirent struct{ e *Dirent }

func (d dirent) Name() string { return d.e.Name }
func (d dirent) IsDir() bool  { return d.e.Dir }

func (d dirent) Type() fs.FileMode {
	if d.e.Dir {
		return fs.ModeDir
	}
	return 0
}

func (d dirent) Info() (fs.FileInfo, error) {
	n, err := d.e.Load()
	if err != nil {
		return nil, err
	}
	return info{d.e.Name, n}, nil
}

func (d dirent) String() string { return fs.FormatDirEntry(d) }

type info struct {
	name string
	n    *Node
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.n.Size }
func (i info) Mode() fs.FileMode          { return i.n.Mode }
func (i info) ModTime() time.Time         { return i.n.Time }
func (i info) IsDir() bool                { return i.n.Mode.IsDir() }
func (i info) Sys() any                   { return nil }
func (i info) Stat() (fs.FileInfo, error) { return i, nil }
func (i info) Close() error               { return nil }
func (i info) String() string             { return fs.FormatFileInfo(i) }

type file struct {
	info
	*io.SectionReader
}

// Size is defined because both embedded types have one; they agree.
func (f *file) Size() int64 { return f.n.Size }

type dir struct {
	info
	node *Node
	path string
	rest []fs.DirEntry
	read bool
}

func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.path, Err: errors.New("is a directory")}
}

func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		l, err := list(d.node)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.path, Err: err}
		}
		d.rest, d.read = l, true
	}
	if n <= 0 {
		out := d.rest
		d.rest = nil
		return out, nil
	}
	if len(d.rest) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.rest))
	out := d.rest[:n]
	d.rest = d.rest[n:]
	return out, nil
}

// content reads a node by offset.
type content struct {
	r    io.ReaderAt
	n    *Node
	ends []int64
}

// Ends returns the offset in the file at which each extent ends.
func Ends(data []Extent) []int64 {
	out := make([]int64, len(data))
	var sum int64
	for i, e := range data {
		sum += e.Len
		out[i] = sum
	}
	return out
}

func (c *content) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := c.some(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// some fills p from the one extent that contains off, as far as that extent
// goes.
func (c *content) some(p []byte, off int64) (int, error) {
	left := c.n.Size - off
	if left <= 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), left)]
	if c.n.Inline != nil {
		clear(p)
		if off < int64(len(c.n.Inline)) {
			copy(p, c.n.Inline[off:])
		}
		return len(p), nil
	}
	i, _ := slices.BinarySearch(c.ends, off+1) // the first extent that ends after off
	if i == len(c.ends) {
		clear(p)
		return len(p), nil
	}
	e := c.n.Data[i]
	in := off - (c.ends[i] - e.Len)
	p = p[:min(int64(len(p)), e.Len-in)]
	if e.Off == Hole {
		clear(p)
		return len(p), nil
	}
	n, err := c.r.ReadAt(p, e.Off+in)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the image is shorter than its tables claim
	}
	return n, err
}

// ReadNode reads a whole node of at most limit bytes: a directory, a table.
func ReadNode(r io.ReaderAt, n *Node, limit int64) ([]byte, error) {
	if n.Size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrBounds, n.Size, limit)
	}
	b := make([]byte, n.Size)
	c := content{r, n, Ends(n.Data)}
	if m, err := c.ReadAt(b, 0); m < len(b) {
		return nil, err
	}
	return b, nil
}

// ReadAt reads exactly len(p) bytes at off of an image of the given size.
func ReadAt(r io.ReaderAt, size int64, p []byte, off int64) error {
	if off < 0 || off > size-int64(len(p)) {
		return io.ErrUnexpectedEOF
	}
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

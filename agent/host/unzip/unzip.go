// Package unzip writes a zip file from an untrusted source into a directory:
// everything in it is checked before the first file is written (Check), and
// nothing in it can reach outside of the directory (Write). Whose package it
// is, and what has to be in it, is for the callers, extensions and
// agent/update. From this module it imports agent/bound, which has the limits,
// and agent/host. Begin with Rules.
package unzip

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/host"
)

// Rules are what a zip file may hold, and how it is written.
type Rules struct {
	// Limits bounds the disk space that is taken, and the bytes that are
	// written.
	Limits bound.Package
	// Name is the most bytes of a name, Depth the most slashes in it.
	Name, Depth int
	// Windows: a backslash separates directories; otherwise it is refused.
	Windows bool
	// Perm returns the mode of a file. hint is the mode in the zip file;
	// special bits and write permission for others should not be taken from it.
	Perm func(name string, hint fs.FileMode) fs.FileMode
	// Sync: files are on disk before the directory counts as written.
	Sync bool
}

// An InvalidError says that the zip file is at fault, and not the disk.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string { return e.Err.Error() }
func (e *InvalidError) Unwrap() error { return e.Err }

func invalid(format string, args ...any) error {
	return &InvalidError{fmt.Errorf(format, args...)}
}

// An Entry is a file or directory to write. Its name is local, clean and
// separated by slashes.
type Entry struct {
	Name string
	Dir  bool
	file *zip.File
}

// Check checks the entries of a zip file of size bytes: only files and
// directories with local names, each file once, within the limits. Entries for
// the root are left out.
func (r Rules) Check(z *zip.Reader, size int64) ([]Entry, error) {
	disk := r.Limits.Disk(size)
	isDir := map[string]bool{}
	var out []Entry
	for _, f := range z.File {
		name, err := r.local(f.Name)
		if err != nil {
			return nil, err
		}
		mode := f.Mode()
		if !mode.IsRegular() && !mode.IsDir() {
			return nil, invalid("%s has type %v, only files and directories are allowed", bound.Quote(f.Name), mode.Type())
		}
		dir := mode.IsDir()
		if name == "." {
			if !dir {
				return nil, invalid("invalid name %s", bound.Quote(f.Name))
			}
			continue
		}
		if was, twice := isDir[name]; twice && (!dir || !was) {
			return nil, invalid("duplicate entry %s", bound.Quote(f.Name))
		}
		isDir[name] = dir
		if err := disk.Add(name, dir, int64(min(f.UncompressedSize64, math.MaxInt64))); err != nil {
			return nil, invalid("it has %d bytes and unpacks to %w", size, err)
		}
		out = append(out, Entry{name, dir, f})
	}
	return out, nil
}

// local turns a name of the zip file into a clean local one, "." for its root.
func (r Rules) local(raw string) (string, error) {
	name := raw
	if r.Windows {
		name = strings.ReplaceAll(raw, `\`, "/")
	}
	bad := len(name) > r.Name || strings.ContainsAny(name, "\\\x00") || strings.HasPrefix(name, "/")
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == ".." || len(part) > 255
	}
	name = path.Clean(name)
	if bad || strings.Count(name, "/") > r.Depth || !filepath.IsLocal(name) {
		return "", invalid("invalid name %s", bound.Quote(raw))
	}
	return name, nil
}

// files takes complete paths.
const files = host.Root("")

// Write makes the directory dst and writes the entries into it, then calls
// finish on it. On failure dst is removed.
func (r Rules) Write(entries []Entry, dst string, perm fs.FileMode, finish func(*os.Root) error) (err error) {
	if err := files.Mkdir(dst, perm); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, files.RemoveAll(dst))
		}
	}()
	root, err := files.OpenRoot(dst)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	left := r.Limits.Bytes
	for _, e := range entries {
		dir := e.Name
		if !e.Dir {
			dir = path.Dir(e.Name) // many packages have no entries for directories
		}
		if dir != "." {
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return fault(e.Name, err)
			}
		}
		if e.Dir {
			continue
		}
		n, err := r.extract(root, e, left)
		if err != nil {
			return err
		}
		left -= n
	}
	return finish(root)
}

// fault classifies an error in creating name: the zip file is invalid if
// another of its entries has the name.
func fault(name string, err error) error {
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, unix.ENOTDIR) {
		return invalid("duplicate entry %s: %w", bound.Quote(name), err)
	}
	return fmt.Errorf("unpack %s: %w", name, err)
}

// extract writes a file of at most left bytes, and returns its size.
func (r Rules) extract(root *os.Root, e Entry, left int64) (n int64, err error) {
	in, err := e.file.Open()
	if err != nil {
		return 0, invalid("%s: %w", e.Name, err)
	}
	defer in.Close()
	perm := r.Perm(e.Name, e.file.Mode())
	out, err := root.OpenFile(e.Name, os.O_RDONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return 0, fault(e.Name, err)
	}
	defer func() {
		if cerr := out.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("unpack %s: %w", e.Name, cerr)
		}
	}()
	if err := out.Chmod(perm); err != nil {
		return 0, fmt.Errorf("unpack %s: %w", e.Name, err)
	}
	// WriteProgram, as the agent may start other programs meanwhile.
	n, err = host.WriteProgram(out, io.LimitReader(in, left+1))
	if err != nil {
		if _, ok := errors.AsType[*fs.PathError](err); ok { // not the zip file's fault: disk full
			return n, fmt.Errorf("unpack %s: %w", e.Name, err)
		}
		return n, invalid("%s: %w", e.Name, err)
	}
	if n > left {
		return n, invalid("unpacks to more than the declared size")
	}
	if r.Sync {
		if err := out.Sync(); err != nil {
			return n, fmt.Errorf("unpack %s: %w", e.Name, err)
		}
	}
	return n, nil
}

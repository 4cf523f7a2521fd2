package extensions

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/host"
)

// packageLimits are those of a package. Published ones reach 100 MB and a few
// thousand files. What is counted is what the disk gives for it: 500 KB of
// names can be a hundred thousand directories.
var packageLimits = bound.Package{Directory: 4 << 20, Inodes: 50_000, Bytes: maxUnpacked, Ratio: 200, Floor: 64 << 20}

const (
	maxUnpacked  = 4 << 30
	maxNameBytes = 1024
	maxDepth     = 64
)

// errBundle says that a package is not one we unpack. It is the package's
// fault: another address may have a better one.
var errBundle = because(causePackage, errors.New("invalid package"))

// unpack writes a package into dst, a directory it makes, and brings the
// manifest to its root. Nothing in the package can reach outside of dst:
// names are checked, links, devices and special files refused, special mode
// bits dropped, sizes counted while they are written. Every file becomes
// executable, because published packages carry no modes
// (extensions/SPEC.md §2.4). On failure dst is removed.
func unpack(src, dst string, limit int64) (err error) {
	z, closer, size, err := openBundle(src)
	if err != nil {
		return err
	}
	defer closer.Close()
	names, err := checkBundle(z, size, limit)
	if err != nil {
		return err
	}
	if err := top.Mkdir(dst, 0o755); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, top.RemoveAll(dst))
		}
	}()
	root, err := top.OpenRoot(dst)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer root.Close()
	var total int64
	manifest := ""
	for i, f := range z.File {
		name := names[i]
		if name == "" {
			continue
		}
		if f.FileInfo().IsDir() {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return fmt.Errorf("%w: %s: %w", errBundle, name, err)
			}
			continue
		}
		if dir := path.Dir(name); dir != "." { // many packages have no entries for directories
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("%w: %s: %w", errBundle, name, err)
			}
		}
		n, err := extract(root, f, name, limit-total)
		if err != nil {
			return err
		}
		total += n
		if path.Base(name) == manifestName && (manifest == "" || depth(name) < depth(manifest)) {
			manifest = name
		}
	}
	if manifest == "" {
		return fmt.Errorf("%w: %s not found", errBundle, manifestName)
	}
	return placeManifest(root, manifest)
}

func depth(name string) int { return strings.Count(name, "/") }

// openBundle reads the list of what is in a package.
func openBundle(src string) (z *zip.Reader, closer io.Closer, size int64, err error) {
	f, err := openFile(src)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open package: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open package: %w", errors.Join(err, f.Close()))
	}
	if z, err = packageLimits.Open(f, fi.Size()); err != nil {
		return nil, nil, 0, errors.Join(fmt.Errorf("%w: %w", errBundle, err), f.Close())
	}
	return z, f, fi.Size(), nil
}

// checkBundle looks at the directory of the package before anything is
// written, and returns the cleaned names, "" for what is to be left out.
func checkBundle(z *zip.Reader, size, limit int64) ([]string, error) {
	l := packageLimits
	l.Bytes = limit
	disk := l.Disk(size)
	names := make([]string, len(z.File))
	isDir := map[string]bool{}
	for i, f := range z.File {
		name, err := bundleName(f.Name)
		if err != nil {
			return nil, err
		}
		mode := f.Mode()
		if !mode.IsRegular() && !mode.IsDir() {
			return nil, fmt.Errorf("%w: %s has type %v, only files and directories are allowed", errBundle, bound.Quote(f.Name), mode.Type())
		}
		dir := mode.IsDir() || strings.HasSuffix(f.Name, "/")
		if name == "." {
			if !dir {
				return nil, fmt.Errorf("%w: invalid name %s", errBundle, bound.Quote(f.Name))
			}
			continue
		}
		if was, twice := isDir[name]; twice && (!dir || !was) {
			return nil, fmt.Errorf("%w: duplicate entry %s", errBundle, bound.Quote(f.Name))
		}
		isDir[name] = dir
		names[i] = name
		if err := disk.Add(name, dir, int64(min(f.UncompressedSize64, math.MaxInt64))); err != nil {
			return nil, fmt.Errorf("%w: %d bytes unpack to %w", errBundle, size, err)
		}
	}
	return names, nil
}

// bundleName is a name inside the package made local, "." for its root.
func bundleName(raw string) (string, error) {
	name := strings.ReplaceAll(raw, `\`, "/") // made on Windows
	if len(name) > maxNameBytes || strings.ContainsRune(name, 0) || strings.HasPrefix(name, "/") {
		return "", fmt.Errorf("%w: invalid name %s", errBundle, bound.Quote(raw))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." || len(part) > 255 {
			return "", fmt.Errorf("%w: invalid name %s", errBundle, bound.Quote(raw))
		}
	}
	name = path.Clean(name)
	if depth(name) > maxDepth || !filepath.IsLocal(name) {
		return "", fmt.Errorf("%w: invalid name %s", errBundle, bound.Quote(raw))
	}
	return name, nil
}

func extract(root *os.Root, f *zip.File, name string, left int64) (n int64, err error) {
	in, err := f.Open()
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %w", errBundle, name, err)
	}
	defer in.Close()
	// The modes of the package are dropped but for being executable by all;
	// setuid and world-writable files are nobody's business here.
	mode := fs.FileMode(0o744)
	if f.Mode()&0o011 != 0 {
		mode = 0o755
	}
	out, err := root.OpenFile(name, os.O_RDONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrInvalid) {
		return 0, fmt.Errorf("%w: duplicate entry %q", errBundle, name)
	}
	if err != nil {
		return 0, fmt.Errorf("unpack %s: %w", name, err)
	}
	defer func() {
		if cerr := out.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("unpack %s: %w", name, cerr)
		}
	}()
	if err := out.Chmod(mode); err != nil {
		return 0, fmt.Errorf("unpack %s: %w", name, err)
	}
	// Other handlers are started meanwhile.
	n, err = host.WriteProgram(out, io.LimitReader(in, left+1))
	if err != nil {
		if _, ok := errors.AsType[*fs.PathError](err); ok { // ours: disk full
			return n, fmt.Errorf("unpack %s: %w", name, err)
		}
		return n, fmt.Errorf("%w: %s: %w", errBundle, name, err)
	}
	if n > left {
		return n, fmt.Errorf("%w: unpacks to more than the declared size", errBundle)
	}
	return n, nil
}

// placeManifest puts the manifest, which may be anywhere in the package, at
// its root and without a byte order mark (extensions/SPEC.md §2.2).
func placeManifest(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	err = errors.Join(err, f.Close())
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if len(data) > maxManifest {
		return fmt.Errorf("%w: %s is too long", errBundle, name)
	}
	if name == manifestName && !bytes.HasPrefix(data, bom) {
		return nil
	}
	return root.WriteFile(manifestName, bytes.TrimPrefix(data, bom), 0o744)
}

package extensions

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/host/unzip"
	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
	"github.com/azguest/azguest/extensions/handler"
)

// packageLimits are the limits of a package. Published ones have up to 100 MB
// and a few thousand files. Inodes are limited, too, because 500 KB of names can
// unpack to a hundred thousand directories.
var packageLimits = bound.Package{Directory: 4 << 20, Inodes: 50_000, Bytes: maxUnpacked, Ratio: 200, Floor: 64 << 20}

const (
	maxUnpacked  = 4 << 30
	maxNameBytes = 1024
	maxDepth     = 64
)

// errBundle means that a package is invalid. Another address may have a valid
// copy.
var errBundle = fault.Because(fault.CausePackage, errors.New("invalid package"))

// errGarbled means that what was received is no zip file, or not a whole one.
// Its outlook depends on what it is instead (transfer.Want.Check).
var errGarbled = fmt.Errorf("%w", errBundle)

// unpack unpacks a package of at most limit bytes (unpacked) into dst, which it
// creates, and puts the manifest at the root. On failure dst is removed.
func unpack(src, dst string, limit int64) error {
	z, closer, size, err := openBundle(src)
	if err != nil {
		return err
	}
	defer closer.Close()
	rules := packageRules(limit)
	entries, err := rules.Check(z, size)
	if err != nil {
		return bundleFault(err)
	}
	manifest := ""
	for _, e := range entries {
		if !e.Dir && path.Base(e.Name) == handler.ManifestName && (manifest == "" || depth(e.Name) < depth(manifest)) {
			manifest = e.Name
		}
	}
	return bundleFault(rules.Write(entries, dst, 0o755, func(root *os.Root) error {
		if manifest == "" {
			return fmt.Errorf("%w: %s not found", errBundle, handler.ManifestName)
		}
		return placeManifest(root, manifest)
	}))
}

// packageRules are the rules for unpacking a package to at most limit bytes.
// Every file becomes executable for root, because published packages carry no
// modes (extensions/SPEC.md §2.4). If a file has a mode, it only decides whether
// others may execute it.
func packageRules(limit int64) unzip.Rules {
	r := unzip.Rules{Limits: packageLimits, Name: maxNameBytes, Depth: maxDepth, Windows: true, Perm: func(_ string, hint fs.FileMode) fs.FileMode {
		if hint&0o011 != 0 {
			return 0o755
		}
		return 0o744
	}}
	r.Limits.Bytes = limit
	return r
}

// bundleFault adds errBundle to errors about an invalid package.
func bundleFault(err error) error {
	if _, ok := errors.AsType[*unzip.InvalidError](err); ok {
		return fmt.Errorf("%w: %w", errBundle, err)
	}
	return err
}

func depth(name string) int { return strings.Count(name, "/") }

// openBundle opens a package and reads its directory of files.
func openBundle(src string) (z *zip.Reader, closer io.Closer, size int64, err error) {
	f, err := folder.OpenFile(src)
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open package: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, 0, fmt.Errorf("open package: %w", errors.Join(err, f.Close()))
	}
	if z, err = packageLimits.Open(f, fi.Size()); err != nil {
		what := errBundle
		if errors.Is(err, zip.ErrFormat) || errors.Is(err, io.ErrUnexpectedEOF) {
			what = errGarbled
		}
		return nil, nil, 0, errors.Join(fmt.Errorf("%w: %w", what, err), f.Close())
	}
	return z, f, fi.Size(), nil
}

// placeManifest copies the manifest, which may be in any folder of the package,
// to the root and removes a byte order mark (extensions/SPEC.md §2.2).
func placeManifest(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, handler.MaxManifest+1))
	err = errors.Join(err, f.Close())
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	if len(data) > handler.MaxManifest {
		return fmt.Errorf("%w: %s is too long", errBundle, name)
	}
	if name == handler.ManifestName && !bytes.HasPrefix(data, handler.Bom) {
		return nil
	}
	return root.WriteFile(handler.ManifestName, bytes.TrimPrefix(data, handler.Bom), 0o744)
}

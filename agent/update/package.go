package update

import (
	"archive/zip"
	"bytes"
	"debug/elf"
	"encoding/json"
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

// Limits of a package of the agent, far above what one needs.
const (
	// MaxPackage is the size of the zip in bytes.
	MaxPackage = 128 << 20

	maxUnpacked = 256 << 20
	maxManifest = 1 << 20

	manifestName = "HandlerManifest.json"

	packageType      = "azguest"
	packagePublisher = "Azguest"
)

// packageLimits count what the disk gives for a package.
var packageLimits = bound.Package{Directory: 256 << 10, Inodes: 500, Bytes: maxUnpacked, Ratio: 200}

// manifestLimits are those of the manifest, checked before it is decoded.
var manifestLimits = bound.Limits{Bytes: maxManifest, Nodes: 20_000, Depth: 64}

// identity is what a package says about itself.
type identity struct {
	Signing struct {
		Type      string `json:"type"`
		Publisher string `json:"publisher"`
		Version   string `json:"version"`
	} `json:"signingInfo"`
	Handler struct {
		Enable string `json:"enableCommand"`
	} `json:"handlerManifest"`
}

// open reads the directory of a package whose bytes were verified, and
// refuses what is not this version of this agent. Nothing is written.
func open(f io.ReaderAt, size int64, version string) (*zip.Reader, error) {
	z, err := packageLimits.Open(f, size)
	if err != nil {
		return nil, foreign("package is not a zip file: %w", err)
	}
	id, err := identify(z)
	if err != nil {
		return nil, err
	}
	s := id.Signing
	switch {
	case !strings.EqualFold(s.Type, packageType) || !strings.EqualFold(s.Publisher, packagePublisher):
		return nil, foreign("package contains another agent (publisher %q, type %q, command %.80q)", s.Publisher, s.Type, id.Handler.Enable)
	case Compare(s.Version, version) != 0 || !Valid(s.Version):
		return nil, refuse("package has version %q, not %s", s.Version, version)
	}
	return z, check(z, size)
}

// identify reads the manifest, which is an array of one object or the object.
func identify(z *zip.Reader) (identity, error) {
	var id identity
	f, err := z.Open(manifestName)
	if err != nil {
		return id, foreign("package has no %s", manifestName)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil || len(b) > maxManifest {
		return id, foreign("%s cannot be read", manifestName)
	}
	b = bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\ufeff")))
	if err := manifestLimits.JSON(b); err != nil {
		return id, foreign("%s has %w", manifestName, err)
	}
	list := []identity{{}}
	if bytes.HasPrefix(b, []byte("[")) {
		err = json.Unmarshal(b, &list)
	} else {
		err = json.Unmarshal(b, &list[0])
	}
	if err != nil || len(list) == 0 {
		return id, foreign("%s cannot be read", manifestName)
	}
	return list[0], nil
}

// check looks at every entry before the first is written: plain files with
// local names, each once, within the limits.
func check(z *zip.Reader, size int64) error {
	disk := packageLimits.Disk(size)
	seen := map[string]bool{}
	for _, f := range z.File {
		name := path.Clean(f.Name)
		mode := f.Mode()
		switch {
		case strings.ContainsAny(f.Name, "\\\x00") || !filepath.IsLocal(f.Name) || strings.Count(name, "/") > 16 || len(name) > 512:
			return foreign("package has an invalid entry %s", bound.Quote(f.Name))
		case !mode.IsRegular() && !mode.IsDir():
			return foreign("package has an entry of type %v, %q", mode.Type(), f.Name)
		case seen[name]:
			return foreign("package has duplicate entry %q", f.Name)
		}
		seen[name] = true
		if err := disk.Add(name, mode.IsDir(), int64(min(f.UncompressedSize64, math.MaxInt64))); err != nil {
			return foreign("package of %d bytes unpacks to %w", size, err)
		}
	}
	return nil
}

// files takes complete paths.
const files = host.Root("")

// unpack writes a checked package into dst, a directory it makes.
func unpack(z *zip.Reader, dst string) (err error) {
	if err := files.Mkdir(dst, 0o700); err != nil {
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
	left := int64(maxUnpacked)
	for _, f := range z.File {
		name := path.Clean(f.Name)
		if f.FileInfo().IsDir() {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return fmt.Errorf("unpack: %w", err)
			}
			continue
		}
		if dir := path.Dir(name); dir != "." {
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("unpack: %w", err)
			}
		}
		n, err := extract(root, f, name, left)
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

func extract(root *os.Root, f *zip.File, name string, left int64) (n int64, err error) {
	mode := fs.FileMode(0o644)
	if strings.HasPrefix(name, "bin/") {
		mode = 0o755
	}
	in, err := f.Open()
	if err != nil {
		return 0, foreign("unpack %s: %w", name, err)
	}
	defer in.Close()
	out, err := root.OpenFile(name, os.O_RDONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, fmt.Errorf("unpack: %w", err)
	}
	// Handlers are started meanwhile.
	n, err = host.WriteProgram(out, io.LimitReader(in, left+1))
	if err == nil {
		err = out.Chmod(mode)
	}
	if err == nil {
		// The old version is only left for this one; it must survive a
		// power cut.
		err = out.Sync()
	}
	err = errors.Join(err, out.Close())
	switch {
	case errors.Is(err, zip.ErrChecksum) || errors.Is(err, zip.ErrFormat) || errors.Is(err, zip.ErrAlgorithm):
		return n, foreign("unpack %s: %w", name, err)
	case err != nil:
		return n, fmt.Errorf("unpack %s: %w", name, err)
	case n > left:
		return n, foreign("package unpacks to more than the declared size")
	}
	return n, nil
}

// binary is the program in an unpacked package, for this architecture.
func binary(dir, arch string) (string, error) {
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "riscv64": elf.EM_RISCV}[arch]
	for _, name := range []string{"bin/azguest-" + arch, "bin/azguest"} {
		p := filepath.Join(dir, name)
		fi, err := files.Lstat(p)
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		e, err := elf.Open(p)
		if err != nil {
			return "", foreign("%s is not a program: %w", name, err)
		}
		got := e.Machine
		if err := e.Close(); err != nil {
			return "", fmt.Errorf("read %s: %w", name, err)
		}
		if machine != 0 && got != machine {
			return "", foreign("%s is for %v, this machine is %s", name, got, arch)
		}
		return p, nil
	}
	return "", foreign("package has no program for %s", arch)
}

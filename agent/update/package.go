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
	"os"
	"path/filepath"
	"strings"

	"github.com/azguest/azguest/agent/bound"
	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/unzip"
)

// Limits of a package of the agent; they are far above what is needed.
const (
	// MaxPackage is the size of the zip in bytes.
	MaxPackage = 128 << 20

	maxUnpacked = 256 << 20
	maxManifest = 1 << 20

	manifestName = "HandlerManifest.json"

	packageType      = "azguest"
	packagePublisher = "Azguest"
)

// packageLimits limit the disk space that a package may use.
var packageLimits = bound.Package{Directory: 256 << 10, Inodes: 500, Bytes: maxUnpacked, Ratio: 200}

// manifestLimits are the limits of the manifest, checked before it is decoded.
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
func open(f io.ReaderAt, size int64, version string) ([]unzip.Entry, error) {
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
	entries, err := packageRules.Check(z, size)
	return entries, packageFault(err)
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

// files opens files by absolute path.
const files = host.Root("")

// packageRules are the rules for unpacking a package. It is synced to disk,
// because the next version must survive a power cut.
var packageRules = unzip.Rules{Limits: packageLimits, Name: 512, Depth: 16, Sync: true, Perm: func(name string, _ fs.FileMode) fs.FileMode {
	if strings.HasPrefix(name, "bin/") {
		return 0o755
	}
	return 0o644
}}

// packageFault marks errors that the content of the package causes.
func packageFault(err error) error {
	if _, ok := errors.AsType[*unzip.InvalidError](err); ok {
		return foreign("package is not valid: %w", err)
	}
	return err
}

// unpack writes a checked package into dst, a directory it makes.
func unpack(entries []unzip.Entry, dst string) error {
	return packageFault(packageRules.Write(entries, dst, 0o700, func(*os.Root) error { return nil }))
}

// binary returns the path of the program for arch in an unpacked package.
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

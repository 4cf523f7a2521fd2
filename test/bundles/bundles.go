// Package bundles builds handler packages: zip files like those of extension
// publishers, including malformed ones, and a set of sample handlers written in
// shell.
//
// The packages go into a repository folder as Name__Version.zip, which the
// emulator serves and from which an agent can side-load packages.
package bundles

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Bundle is a version of a handler.
type Bundle struct {
	Name    string // Publisher.Type
	Version string
	// Commands of the handler manifest; an empty one is left out.
	Install, Enable, Disable, Update, Uninstall string
	// Flags of the handler manifest, verbatim: reportHeartbeat, updateMode,
	// continueOnUpdateFailure, supportsMultipleExtensions, resourceLimits, …
	// Values may have the wrong type on purpose.
	Flags map[string]any
	// Files by path inside the package. The manifest is added.
	Files map[string]string
	Odd   Oddities
}

// Oddities are deviations that real packages have, and some hostile ones.
type Oddities struct {
	// ExecBits marks files as executable; most published packages have no
	// modes at all, which is the default here.
	ExecBits bool
	// DirEntries adds an entry for each folder; by default there are none.
	DirEntries bool
	// BOM starts the manifest with a UTF-8 byte order mark.
	BOM bool
	// Nested puts the manifest into this folder instead of the root.
	Nested string
	// Backslashes separates paths with backslashes, as some tools on Windows
	// do.
	Backslashes bool
	// Stored leaves files uncompressed.
	Stored bool
	// StringVersion writes the manifest's version as a string.
	StringVersion bool
	// BareObject writes the manifest as an object instead of an array.
	BareObject bool
	// Manifest replaces HandlerManifest.json; "-" leaves it out.
	Manifest string
	// Raw adds entries under exactly these names, which may be hostile
	// ("../evil", "/abs"); Symlinks adds links by name and target.
	Raw, Symlinks map[string]string
	// Truncate cuts the zip file to this many bytes.
	Truncate int
}

// FileName is Name__Version.zip.
func (b Bundle) FileName() string { return b.Name + "__" + b.Version + ".zip" }

// Manifest returns the content of HandlerManifest.json.
func (b Bundle) Manifest() ([]byte, error) {
	if b.Odd.Manifest != "" {
		return []byte(b.Odd.Manifest), nil
	}
	inner := map[string]any{}
	for name, command := range map[string]string{
		"installCommand": b.Install, "enableCommand": b.Enable, "disableCommand": b.Disable,
		"updateCommand": b.Update, "uninstallCommand": b.Uninstall,
	} {
		if command != "" {
			inner[name] = command
		}
	}
	inner["rebootAfterInstall"], inner["reportHeartbeat"] = false, false
	outer := map[string]any{"name": b.Name, "version": 1.0, "handlerManifest": inner}
	if b.Odd.StringVersion {
		outer["version"] = b.Version
	}
	for name, value := range b.Flags {
		if name == "resourceLimits" || name == "signingInfo" {
			outer[name] = value
		} else {
			inner[name] = value
		}
	}
	var doc any = []any{outer}
	if b.Odd.BareObject {
		doc = outer
	}
	data, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest of %s: %w", b.Name, err)
	}
	if b.Odd.BOM {
		data = append([]byte("\ufeff"), data...)
	}
	return append(data, '\n'), nil
}

// Zip builds the package. The result is reproducible.
func (b Bundle) Zip() ([]byte, error) {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	when := time.Date(2024, 1, 2, 3, 4, 6, 0, time.UTC)
	add := func(name, content string, mode fs.FileMode) error {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: when}
		if b.Odd.Stored {
			h.Method = zip.Store
		}
		if mode != 0 {
			h.SetMode(mode)
		}
		w, err := z.CreateHeader(h)
		if err == nil {
			_, err = w.Write([]byte(content))
		}
		if err != nil {
			return fmt.Errorf("add %s to %s: %w", name, b.FileName(), err)
		}
		return nil
	}

	files := maps.Clone(b.Files)
	if files == nil {
		files = map[string]string{}
	}
	if b.Odd.Manifest != "-" {
		manifest, err := b.Manifest()
		if err != nil {
			return nil, err
		}
		name := "HandlerManifest.json"
		if b.Odd.Nested != "" {
			name = b.Odd.Nested + "/" + name
		}
		files[name] = string(manifest)
	}
	if b.Odd.DirEntries {
		dirs := map[string]bool{}
		for name := range files {
			for i, c := range name {
				if c == '/' {
					dirs[name[:i+1]] = true
				}
			}
		}
		for _, dir := range slices.Sorted(maps.Keys(dirs)) {
			if err := add(dir, "", fs.ModeDir|0o755); err != nil {
				return nil, err
			}
		}
	}
	var mode fs.FileMode
	if b.Odd.ExecBits {
		mode = 0o755
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		inside := name
		if b.Odd.Backslashes {
			inside = strings.ReplaceAll(name, "/", `\`)
		}
		if err := add(inside, files[name], mode); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Odd.Raw)) {
		if err := add(name, b.Odd.Raw[name], 0); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Odd.Symlinks)) {
		if err := add(name, b.Odd.Symlinks[name], fs.ModeSymlink|0o777); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("finish %s: %w", b.FileName(), err)
	}
	data := out.Bytes()
	if n := b.Odd.Truncate; n > 0 && n < len(data) {
		data = data[:n]
	}
	return data, nil
}

// Write puts the package into a folder and returns its path.
func (b Bundle) Write(dir string) (string, error) {
	data, err := b.Zip()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make folder for packages: %w", err)
	}
	path := filepath.Join(dir, b.FileName())
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return "", fmt.Errorf("write package: %w", err)
	}
	return path, nil
}

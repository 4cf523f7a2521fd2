package fabric

import (
	"archive/zip"
	"bytes"
	"crypto/sha1" //nolint:gosec // SHA-1 only makes a name here
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// handlerPackages are the published versions of one handler.
type handlerPackages struct {
	name     string // Publisher.Type as first seen
	versions map[string]*handlerPackage
}

type handlerPackage struct {
	version   string
	data      []byte // or
	file      string
	multi     bool   // supportsMultipleExtensions
	signature string // encodedSignature, base64
	internal  bool   // listed under InternalPlugins
}

// Packages are served by three accounts, so that a guest meets the platform's
// location, failover location and additional location.
const repositoryPrefix = "repo"

func repositoryAccounts() [3]string {
	return [3]string{repositoryPrefix + "a", repositoryPrefix + "b", repositoryPrefix + "c"}
}

// agentPackage is the family of the agent itself. Its manifest exists on every
// platform; WALinuxAgent since 2.12 fetches it before the first goal state
// even with updates switched off, and waits a minute where it does not.
const agentPackage = "WALinuxAgent"

// loadRepository publishes every Name__Version.zip of a folder. A file
// Name__Version.zip.sig beside it is its signature, DER or base64.
func (f *Fabric) loadRepository(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read repository: %w", err)
	}
	for _, e := range entries {
		name, version, ok := packageName(e.Name())
		if !ok || e.IsDir() {
			continue
		}
		if err := f.addPackage(&handlerPackage{version: version, file: filepath.Join(dir, e.Name())}, name); err != nil {
			return err
		}
	}
	return nil
}

// Rescan loads new packages from the repository folder.
func (f *Fabric) Rescan() error {
	if f.opts.Repository == "" {
		return nil
	}
	return f.loadRepository(f.opts.Repository)
}

// AddPackage publishes a version of a handler (Publisher.Type) from a zip file
// in memory. Unlike on a real platform, a version can be replaced.
func (f *Fabric) AddPackage(name, version string, zipFile []byte) error {
	if _, ok := parseVersion(version); !ok {
		return fmt.Errorf("add package %s: version %q is not numbers and dots", name, version)
	}
	return f.addPackage(&handlerPackage{version: version, data: zipFile}, name)
}

// AddSigned is AddPackage with a detached CMS signature (DER).
func (f *Fabric) AddSigned(name, version string, zipFile, signature []byte) error {
	return f.addPackage(&handlerPackage{version: version, data: zipFile, signature: base64.StdEncoding.EncodeToString(signature)}, name)
}

func (f *Fabric) addPackage(p *handlerPackage, name string) error {
	if !strings.Contains(name, ".") && !strings.HasPrefix(name, agentPackage) {
		return fmt.Errorf("add package %s: name is not Publisher.Type", name)
	}
	p.multi = p.supportsMultiple()
	if p.file != "" && p.signature == "" {
		sig, err := os.ReadFile(p.file + ".sig")
		switch {
		case errors.Is(err, fs.ErrNotExist): // most packages have no signature
		case err != nil:
			return fmt.Errorf("read signature of %s: %w", name, err)
		case bytes.HasPrefix(sig, []byte("MII")):
			p.signature = strings.Join(strings.Fields(string(sig)), "")
		default:
			p.signature = base64.StdEncoding.EncodeToString(sig)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := strings.ToLower(name)
	h := f.packages[key]
	if h == nil {
		h = &handlerPackages{name: name, versions: map[string]*handlerPackage{}}
		f.packages[key] = h
	}
	h.versions[p.version] = p
	return nil
}

// packageName splits a file name of the form Name__Version.zip.
func packageName(file string) (name, version string, ok bool) {
	stem, zipped := strings.CutSuffix(file, ".zip")
	i := strings.LastIndex(stem, "__")
	if !zipped || i <= 0 {
		return "", "", false
	}
	if _, ok := parseVersion(stem[i+2:]); !ok {
		return "", "", false
	}
	return stem[:i], stem[i+2:], true
}

// supportsMultiple reports what the handler manifest inside the package says. A
// package that cannot be read counts as single-config; its fault is left to the
// guest to find.
func (p *handlerPackage) supportsMultiple() bool {
	data := p.data
	if data == nil {
		var err error
		if data, err = os.ReadFile(p.file); err != nil {
			return false
		}
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return false
	}
	for _, file := range z.File {
		if path.Base(strings.ReplaceAll(file.Name, `\`, "/")) != "HandlerManifest.json" {
			continue
		}
		r, err := file.Open()
		if err != nil {
			return false
		}
		defer r.Close()
		var manifest []struct {
			HandlerManifest struct {
				Multiple any `json:"supportsMultipleExtensions"`
			} `json:"handlerManifest"`
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(http.MaxBytesReader(nil, r, 1<<20)); err != nil {
			return false
		}
		if json.Unmarshal(bytes.TrimPrefix(b.Bytes(), []byte("\ufeff")), &manifest) != nil || len(manifest) == 0 {
			return false
		}
		return strings.EqualFold(fmt.Sprint(manifest[0].HandlerManifest.Multiple), "true")
	}
	return false
}

func repositoryFolder(name string) string {
	sum := sha1.Sum([]byte(strings.ToLower(name)))
	return hex.EncodeToString(sum[:16])
}

// manifestURLs returns the locations of a handler's manifest.
func (f *Fabric) manifestURLs(name string) (location, failover string, additional []string) {
	var urls [3]string
	for i, account := range repositoryAccounts() {
		urls[i] = accountURL(f.opts.BlobURL, account) + "/" + repositoryFolder(name) + "/" + name + "_manifest.xml"
	}
	return urls[0], urls[1], urls[2:]
}

// repositoryBlob serves manifests and packages.
func (f *Fabric) repositoryBlob(r *request, blobPath string) *answer {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return blobError(http.StatusForbidden, "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation.")
	}
	file := path.Base(blobPath)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.packages {
		if path.Dir(blobPath) != "/"+repositoryFolder(h.name) {
			continue
		}
		if strings.EqualFold(file, h.name+"_manifest.xml") {
			a := reply(http.StatusOK, "application/xml", []byte(f.manifestXML(h)))
			return a.note("manifest", h.name)
		}
		for _, p := range h.versions {
			if strings.EqualFold(file, h.name+"__"+p.version+".zip") {
				a := reply(http.StatusOK, "application/zip", p.data).note("package", h.name+" "+p.version)
				a.header.Set("Accept-Ranges", "bytes")
				if a.file = p.file; a.file == "" {
					// A package that is published once more under the same name has
					// another ETag, if its content differs.
					sum := sha1.Sum(p.data)
					a.header.Set("ETag", `"0x`+strings.ToUpper(hex.EncodeToString(sum[:8]))+`"`)
					return cutToRange(a, r)
				}
				return a
			}
			// A detached signature is also served beside the package, for
			// clients that find none in goal state and manifest.
			if p.signature != "" && strings.EqualFold(file, h.name+"__"+p.version+".zip.sig") {
				sig, err := base64.StdEncoding.DecodeString(p.signature)
				if err != nil {
					return blobError(http.StatusInternalServerError, "InternalError", err.Error())
				}
				return reply(http.StatusOK, "application/octet-stream", sig).note("signature", h.name+" "+p.version)
			}
		}
	}
	if strings.EqualFold(blobPath, "/"+repositoryFolder(agentPackage)+"/"+agentPackage+"_manifest.xml") {
		a := reply(http.StatusOK, "application/xml", []byte(f.manifestXML(&handlerPackages{name: agentPackage})))
		return a.note("manifest", agentPackage)
	}
	return blobError(http.StatusNotFound, "BlobNotFound", "The specified blob does not exist.")
}

func (f *Fabric) manifestXML(h *handlerPackages) string {
	var b strings.Builder
	b.WriteString(xmlHead + `<PluginVersionManifest xmlns:i="http://www.w3.org/2001/XMLSchema-instance">` + "\n")
	versions := sortedKeys(h.versions)
	slices.SortFunc(versions, compareVersions)
	section := func(name string, internal bool) {
		fmt.Fprintf(&b, "  <%s>\n", name)
		for _, version := range versions {
			if h.versions[version].internal != internal {
				continue
			}
			fmt.Fprintf(&b, "    <Plugin>\n      <Version>%s</Version>\n      <Uris>\n", version)
			for _, account := range repositoryAccounts() {
				fmt.Fprintf(&b, "        <Uri>%s/%s/%s__%s.zip</Uri>\n",
					esc(accountURL(f.opts.BlobURL, account)), repositoryFolder(h.name), esc(h.name), version)
			}
			b.WriteString("      </Uris>\n    </Plugin>\n")
		}
		fmt.Fprintf(&b, "  </%s>\n", name)
	}
	section("Plugins", false)
	if slices.ContainsFunc(versions, func(v string) bool { return h.versions[v].internal }) {
		section("InternalPlugins", true)
	}
	b.WriteString("</PluginVersionManifest>")
	return b.String()
}

func parseVersion(s string) ([]int, bool) {
	var out []int
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 0 || part[0] == '+' {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}

// compareVersions compares by number; a missing part counts as 0.
func compareVersions(a, b string) int {
	x, _ := parseVersion(a)
	y, _ := parseVersion(b)
	for len(x) < len(y) {
		x = append(x, 0)
	}
	for len(y) < len(x) {
		y = append(y, 0)
	}
	return slices.Compare(x, y)
}

// choose selects the version for a goal state: the newest of the requested
// major.minor, or with autoUpgrade of the major (extensions/SPEC.md §17.7).
func (h *handlerPackages) choose(requested string, autoUpgrade bool) (string, bool) {
	want, ok := parseVersion(requested)
	if !ok {
		return "", false
	}
	best := ""
	for version := range h.versions {
		have, _ := parseVersion(version)
		if len(have) == 0 || have[0] != want[0] {
			continue
		}
		if len(want) > 1 {
			minor := 0
			if len(have) > 1 {
				minor = have[1]
			}
			if minor < want[1] || minor > want[1] && !autoUpgrade {
				continue
			}
		}
		if best == "" || compareVersions(version, best) > 0 {
			best = version
		}
	}
	return best, best != ""
}

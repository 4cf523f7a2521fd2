package extlab

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// A Bundle is a handler package on disk.
type Bundle struct {
	File     string
	Data     []byte
	Name     string // Publisher.Type; may be empty
	Version  string // may be empty
	Manifest []byte // HandlerManifest.json as it is; nil if there is none
	where    string // path of the manifest in the package
	entries  []entry
}

type entry struct {
	f    *zip.File
	name string // with forward slashes
}

// maxPackage is the maximum size of a package, in bytes: it is read into
// memory.
const maxPackage = 1 << 30

var (
	fileNames = []*regexp.Regexp{
		regexp.MustCompile(`^(.+)__([0-9][0-9.]*)\.zip$`),
		regexp.MustCompile(`^(.+)-([0-9][0-9.]*)\.zip$`),
	}
	errNoZip = errors.New("not a valid zip file")
)

// Open reads a package. It takes handler name and version from the file name,
// from manifest.xml, or from the handler manifest.
func Open(file string) (*Bundle, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	if fi.IsDir() {
		return nil, fmt.Errorf("open package: %s is a directory; pack its contents into a zip file", file)
	}
	if fi.Size() > maxPackage {
		return nil, fmt.Errorf("open package: %d bytes, the limit is %d", fi.Size(), maxPackage)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	b := &Bundle{File: file, Data: data}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return b, fmt.Errorf("%s (%d bytes): %w", file, len(data), errNoZip)
	}
	for _, f := range z.File {
		b.entries = append(b.entries, entry{f, strings.ReplaceAll(f.Name, `\`, "/")})
	}
	for _, e := range b.entries {
		if path.Base(e.name) != "HandlerManifest.json" || b.Manifest != nil && strings.Count(e.name, "/") >= strings.Count(b.where, "/") {
			continue
		}
		if m, err := read(e.f, 1<<20); err == nil {
			b.Manifest, b.where = m, e.name
		}
	}
	b.identify()
	return b, nil
}

func read(f *zip.File, limit int64) ([]byte, error) {
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, limit))
	return data, errors.Join(err, r.Close())
}

func (b *Bundle) identify() {
	for _, re := range fileNames {
		if m := re.FindStringSubmatch(filepath.Base(b.File)); m != nil {
			b.Name, b.Version = m[1], m[2]
			return
		}
	}
	for _, e := range b.entries {
		if path.Base(e.name) != "manifest.xml" {
			continue
		}
		data, err := read(e.f, 1<<20)
		if err != nil {
			continue
		}
		var x struct {
			Provider string `xml:"ProviderNameSpace"`
			Type     string
			Version  string
		}
		if xml.Unmarshal(data, &x) == nil && x.Provider != "" && x.Type != "" {
			b.Name, b.Version = strings.TrimSpace(x.Provider)+"."+strings.TrimSpace(x.Type), strings.TrimSpace(x.Version)
			return
		}
	}
	var list []struct {
		Name    string
		Version json.RawMessage
		Signing struct{ Publisher, Type, Version string } `json:"signingInfo"`
	}
	if json.Unmarshal(bytes.TrimPrefix(b.Manifest, bom), &list) != nil || len(list) == 0 {
		return
	}
	if s := list[0].Signing; s.Publisher != "" && s.Type != "" {
		b.Name, b.Version = s.Publisher+"."+s.Type, s.Version
		return
	}
	b.Name, b.Version = list[0].Name, strings.Trim(string(list[0].Version), `"`)
}

var bom = []byte("\xef\xbb\xbf")

// file returns the entry of a name, which may be separated by slashes or
// backslashes.
func (b *Bundle) file(name string) *zip.File {
	for _, e := range b.entries {
		if path.Clean(e.name) == path.Clean(name) {
			return e.f
		}
	}
	return nil
}

package metadata

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/azguest/azguest/agent/host"
)

// The files for every user of the machine. They are gone after a reboot.
const (
	CacheFile = "/run/azguest/metadata.json"
	UnitFile  = "/run/azguest/metadata.env"
)

const (
	fileMode   = 0o644
	schema     = 1
	maxOmitted = 1000 // paths of values that are not in the cache
	// maxCache is more than the largest document has in the cache: JSON may have
	// escapes where the service has none.
	maxCache = 8 << 20
)

// A Cache is the document as it was fetched at some time, without what is not
// for everybody.
type Cache struct {
	Fetched  time.Time
	Omitted  []string // paths that the document had
	Document *Node
}

// cacheFile is the form of the file.
type cacheFile struct {
	Schema   int             `json:"schema_version"`
	Fetched  time.Time       `json:"fetched"`
	Omitted  []string        `json:"omitted,omitempty"`
	Document json.RawMessage `json:"document"`
}

// Hides reports whether the cache may lack what is at a path only because it is
// not for everybody.
func (c *Cache) Hides(path string) bool {
	want := strings.ToLower(strings.Join(Split(path), "/")) + "/"
	return slices.ContainsFunc(c.Omitted, func(o string) bool { return strings.HasPrefix(want, strings.ToLower(o)+"/") })
}

// ReadCache reads the cache. Without one, the error is fs.ErrNotExist.
func ReadCache(root host.Root) (*Cache, error) {
	b, err := root.ReadBounded(CacheFile, maxCache)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(b)) == 0 { // after a crash of the machine
		return nil, fs.ErrNotExist
	}
	var f cacheFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%s: not JSON", CacheFile)
	}
	if f.Schema != schema {
		return nil, fmt.Errorf("%s: version %d, not %d", CacheFile, f.Schema, schema)
	}
	l := limits
	l.Bytes = maxCache
	doc, err := parse(f.Document, l)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CacheFile, err)
	}
	return &Cache{f.Fetched, f.Omitted[:min(len(f.Omitted), maxOmitted)], doc}, nil
}

// WriteCache replaces the cache with the public part of a document.
func WriteCache(root host.Root, doc *Node, now time.Time) error {
	public, omitted := doc.Public()
	text, err := public.MarshalJSON()
	if err != nil {
		return err
	}
	b, err := json.Marshal(cacheFile{schema, now.UTC().Truncate(time.Second), omitted[:min(len(omitted), maxOmitted)], text})
	if err != nil {
		return fmt.Errorf("write %s: %w", CacheFile, err)
	}
	return root.WriteFileLazy(CacheFile, append(b, '\n'), fileMode)
}

// WriteUnit replaces the file for units of systemd if the public part of the
// document has changed.
func WriteUnit(root host.Root, doc *Node) error {
	public, _ := doc.Public()
	vars, _ := public.Variables(nil)
	text := Unit(vars)
	if old, err := root.ReadBounded(UnitFile, 2*maxUnitPerFile); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return root.WriteFileLazy(UnitFile, text, fileMode)
}

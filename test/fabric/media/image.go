package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Positions in sectors. UDF's anchor is at 256 on any medium.
const (
	sector = 2048 // bytes

	mainVDS        = 32
	reserveVDS     = 48
	integrityVDS   = 64
	isoTables      = 70 // path tables, directories, continuation area
	anchor         = 256
	partitionStart = 257
)

// An Image describes a disc image with files in its root directory.
type Image struct {
	Files        map[string][]byte // by name; at most 100
	Label        string
	Time         time.Time // of the files
	UDF, ISO9660 bool      // one of them, or both over the same data
}

// Build makes the image: whole sectors, at most 1 GiB.
func (i Image) Build() ([]byte, error) {
	if !i.UDF && !i.ISO9660 {
		return nil, errors.New("build image: neither udf nor iso9660 asked for")
	}
	m := &writer{label: i.Label, when: i.Time.UTC()}
	if err := m.place(i.Files); err != nil {
		return nil, err
	}
	m.buf = make([]byte, m.total*sector)
	for _, f := range m.files {
		copy(m.buf[f.at*sector:], f.data)
	}
	recognition := 16
	if i.ISO9660 {
		recognition = m.writeISO()
	}
	if i.UDF {
		m.writeUDF(recognition)
	}
	return m.buf, nil
}

type file struct {
	name string
	data []byte
	at   int // first sector of the data
}

// A writer holds an image under construction.
type writer struct {
	buf   []byte
	label string
	when  time.Time
	files []file
	total int // sectors
}

// place assigns sectors to every file. Order within the partition: file set,
// its terminator, root entry, directory, file entries, data.
func (m *writer) place(files map[string][]byte) error {
	names := slices.Sorted(maps.Keys(files))
	if len(names) > 100 {
		return fmt.Errorf("build image: %d files, at most 100", len(names))
	}
	data := partitionStart + 3 + m.directorySectors(names) + len(names)
	for _, name := range names {
		if name == "" || strings.ContainsAny(name, "/\x00") || len(name) > 100 {
			return fmt.Errorf("build image: %q cannot be the name of a file", name)
		}
		m.files = append(m.files, file{name: name, data: files[name], at: data})
		data += (len(files[name]) + sector - 1) / sector
	}
	m.total = data + 1 // the last sector is an anchor
	if m.total > 1<<19 {
		return fmt.Errorf("build image: %d sectors are more than 1 GiB", m.total)
	}
	return nil
}

func (m *writer) at(n int) []byte { return m.buf[n*sector : (n+1)*sector] }

func put16(b []byte, at, v int) { binary.LittleEndian.PutUint16(b[at:], uint16(v)) }
func put32(b []byte, at, v int) { binary.LittleEndian.PutUint32(b[at:], uint32(v)) }
func put64(b []byte, at, v int) { binary.LittleEndian.PutUint64(b[at:], uint64(v)) }

func both16(b []byte, at, v int) {
	binary.LittleEndian.PutUint16(b[at:], uint16(v))
	binary.BigEndian.PutUint16(b[at+2:], uint16(v))
}

func both32(b []byte, at, v int) {
	binary.LittleEndian.PutUint32(b[at:], uint32(v))
	binary.BigEndian.PutUint32(b[at+4:], uint32(v))
}

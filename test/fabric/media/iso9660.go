package media

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// isoDirectory is one of the two directory trees: plain with Rock Ridge, and
// Joliet.
type isoDirectory struct {
	joliet bool
	sector int // of the root directory
	size   int // bytes, whole sectors
	path   int // sector of the little-endian path table; the big-endian one follows
}

// writeISO writes the ISO 9660 structures and returns the sector after the
// volume descriptors.
func (m *writer) writeISO() int {
	plain := isoDirectory{path: isoTables}
	joliet := isoDirectory{path: isoTables + 2, joliet: true}
	continuation := isoTables + 4
	plain.sector = continuation + 1
	m.isoRoot(&plain, continuation)
	joliet.sector = plain.sector + plain.size/sector
	m.isoRoot(&joliet, 0)

	for i, d := range []isoDirectory{plain, joliet} {
		m.isoVolume(16+i, d)
		for j, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			b := m.at(d.path + j)
			b[0] = 1
			order.PutUint32(b[2:], uint32(d.sector))
			order.PutUint16(b[6:], 1)
		}
	}
	end := m.at(18)
	end[0] = 255
	copy(end[1:], "CD001\x01")
	return 19
}

func (m *writer) isoVolume(at int, d isoDirectory) {
	b := m.at(at)
	text := func(at, size int, s string) {
		field := b[at : at+size]
		if d.joliet {
			for i := 0; i+1 < size; i += 2 {
				field[i], field[i+1] = 0, ' '
			}
			if size%2 == 1 {
				field[size-1] = 0
			}
			for i, u := range utf16.Encode([]rune(s)) {
				if 2*i+1 < size {
					field[2*i], field[2*i+1] = byte(u>>8), byte(u)
				}
			}
			return
		}
		copy(field, s+strings.Repeat(" ", size))
	}
	b[0] = 1
	if d.joliet {
		b[0] = 2
		copy(b[88:], "%/E")
	}
	copy(b[1:], "CD001\x01")
	text(8, 32, "LINUX")
	text(40, 32, m.label)
	both32(b, 80, m.total)
	both16(b, 120, 1)
	both16(b, 124, 1)
	both16(b, 128, sector)
	both32(b, 132, 10)
	binary.LittleEndian.PutUint32(b[140:], uint32(d.path))
	binary.BigEndian.PutUint32(b[148:], uint32(d.path+1))
	copy(b[156:190], m.isoRecord("\x00", d.sector, d.size, true, nil))
	for _, field := range [][2]int{{190, 128}, {318, 128}, {446, 128}, {702, 37}, {739, 37}, {776, 37}} {
		text(field[0], field[1], "")
	}
	text(574, 128, "FABRIC")
	for i := range 4 {
		stamp := "0000000000000000"
		if i < 2 {
			stamp = m.when.Format("20060102150405") + "00"
		}
		copy(b[813+17*i:], stamp)
	}
	b[881] = 1
}

// isoRoot writes a root directory.
func (m *writer) isoRoot(d *isoDirectory, continuation int) {
	var records [][]byte
	self := func(name string) []byte {
		var rock []byte
		if !d.joliet {
			if name == "\x00" {
				rock = append(rock, "SP\x07\x01\xbe\xef\x00"...)
			}
			rock = append(rock, rockPX(0o040555, 2)...)
			if name == "\x00" {
				er := rockER()
				copy(m.at(continuation), er)
				ce := make([]byte, 28)
				copy(ce, "CE\x1c\x01")
				both32(ce, 4, continuation)
				both32(ce, 20, len(er))
				rock = append(rock, ce...)
			}
		}
		return m.isoRecord(name, d.sector, 0, true, rock)
	}
	records = append(records, self("\x00"), self("\x01"))
	for i, f := range m.files {
		if d.joliet {
			var name []byte
			for _, u := range utf16.Encode([]rune(f.name)) {
				name = append(name, byte(u>>8), byte(u))
			}
			records = append(records, m.isoRecord(string(name), f.at, len(f.data), false, nil))
			continue
		}
		rock := rockPX(0o100444, 1)
		rock = append(rock, 'N', 'M', byte(5+len(f.name)), 1, 0)
		rock = append(rock, f.name...)
		records = append(records, m.isoRecord(isoName(f.name, i), f.at, len(f.data), false, rock))
	}
	at, used := d.sector, 0
	for _, r := range records {
		if used+len(r) > sector {
			at, used = at+1, 0
		}
		copy(m.at(at)[used:], r)
		used += len(r)
	}
	d.size = (at - d.sector + 1) * sector
	// The size of the directory is known only now; set it in the two entries
	// for the directory itself.
	b := m.at(d.sector)
	both32(b, 10, d.size)
	both32(b[len(records[0]):], 10, d.size)
}

func (m *writer) isoRecord(name string, at, size int, dir bool, system []byte) []byte {
	n := 33 + len(name)
	n += n % 2
	head := n
	n += len(system)
	n += n % 2
	b := make([]byte, n)
	b[0] = byte(n)
	both32(b, 2, at)
	both32(b, 10, size)
	t := m.when
	b[18], b[19], b[20], b[21], b[22], b[23] = byte(t.Year()-1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second())
	if dir {
		b[25] = 2
	}
	both16(b, 28, 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	copy(b[head:], system)
	return b
}

// isoName makes a level 1 name; n makes shortened names unique.
func isoName(name string, n int) string {
	clean := func(s string, size int) string {
		s = strings.Map(func(r rune) rune {
			if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return '_'
		}, strings.ToUpper(s))
		return s[:min(len(s), size)]
	}
	stem, ext := name, ""
	if i := strings.LastIndex(name, "."); i > 0 {
		stem, ext = name[:i], name[i+1:]
	}
	short := clean(stem, 8)
	if len(stem) > 8 {
		short = clean(stem, 5) + fmt.Sprintf("%03d", n)
	}
	return short + "." + clean(ext, 3) + ";1"
}

func rockPX(mode, links int) []byte {
	b := make([]byte, 36)
	copy(b, "PX\x24\x01")
	both32(b, 4, mode)
	both32(b, 12, links)
	return b
}

func rockER() []byte {
	id := "RRIP_1991A"
	description := "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS"
	source := "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION."
	b := []byte{'E', 'R', 0, 1, byte(len(id)), byte(len(description)), byte(len(source)), 1}
	b = append(append(append(b, id...), description...), source...)
	b[2] = byte(len(b))
	return b
}

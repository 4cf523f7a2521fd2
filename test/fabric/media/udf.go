package media

import (
	"fmt"
	"hash/fnv"
	"time"
	"unicode/utf16"
)

const udfRevision = 0x0102

func (m *writer) writeUDF(recognition int) {
	for i, id := range []string{"BEA01", "NSR02", "TEA01"} {
		b := m.at(recognition + i)
		copy(b[1:], id)
		b[6] = 1
	}
	for _, start := range []int{mainVDS, reserveVDS} {
		m.volumeDescriptors(start)
	}
	m.integrity()
	for _, at := range []int{anchor, m.total - 1} {
		b := m.at(at)
		put32(b, 16, 16*sector)
		put32(b, 20, mainVDS)
		put32(b, 24, 16*sector)
		put32(b, 28, reserveVDS)
		tag(b, 2, at, 512)
	}
	m.fileSet()
}

// partitionLength excludes the anchor at the end.
func (m *writer) partitionLength() int { return m.total - 1 - partitionStart }

func (m *writer) volumeDescriptors(start int) {
	b := m.at(start) // primary volume descriptor
	put32(b, 16, 0)
	dstring(b[24:56], m.label)
	put16(b, 56, 1)
	put16(b, 58, 1)
	put16(b, 60, 2)
	put16(b, 62, 3)
	put32(b, 64, 1)
	put32(b, 68, 1)
	// The first 16 characters of the set identifier shall be unique.
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, m.label, m.when.UnixNano(), m.total)
	dstring(b[72:200], fmt.Sprintf("%016X%s", h.Sum64(), m.label))
	charset(b[200:])
	charset(b[264:])
	udfTime(b[376:], m.when)
	implementation(b[388:])
	tag(b, 1, start, 512)

	b = m.at(start + 1) // implementation use volume descriptor
	put32(b, 16, 1)
	regid(b[20:], "*UDF LV Info", udfSuffix(0))
	charset(b[52:])
	dstring(b[116:244], m.label)
	implementation(b[352:])
	tag(b, 4, start+1, 512)

	b = m.at(start + 2) // partition descriptor
	put32(b, 16, 2)
	put16(b, 20, 1)
	regid(b[24:], "+NSR02", nil)
	put32(b, 184, 1) // read-only
	put32(b, 188, partitionStart)
	put32(b, 192, m.partitionLength())
	implementation(b[196:])
	tag(b, 5, start+2, 512)

	b = m.at(start + 3) // logical volume descriptor
	put32(b, 16, 3)
	charset(b[20:])
	dstring(b[84:212], m.label)
	put32(b, 212, sector)
	regid(b[216:], "*OSTA UDF Compliant", udfSuffix(3))
	longAD(b[248:], 2*sector, 0, 0)
	put32(b, 264, 6)
	put32(b, 268, 1)
	implementation(b[272:])
	put32(b, 432, 2*sector)
	put32(b, 436, integrityVDS)
	b[440], b[441] = 1, 6 // partition map of type 1
	put16(b, 442, 1)
	tag(b, 6, start+3, 446)

	b = m.at(start + 4) // unallocated space descriptor: there is none
	put32(b, 16, 4)
	tag(b, 7, start+4, 24)

	tag(m.at(start+5), 8, start+5, 512)
}

func (m *writer) integrity() {
	b := m.at(integrityVDS)
	udfTime(b[16:], m.when)
	put32(b, 28, 1) // closed
	put64(b, 40, 16+len(m.files))
	put32(b, 72, 1)
	put32(b, 76, 46)
	put32(b, 84, m.partitionLength())
	implementation(b[88:])
	put32(b, 120, len(m.files))
	put32(b, 124, 1)
	for _, at := range []int{128, 130, 132} {
		put16(b, at, udfRevision)
	}
	tag(b, 9, integrityVDS, 134)
	tag(m.at(integrityVDS+1), 8, integrityVDS+1, 512)
}

// fileSet writes the first blocks of the partition: 0 file set descriptor, 1
// its terminator, 2 the root's file entry, 3… the root directory, then one file
// entry per file.
func (m *writer) fileSet() {
	b := m.at(partitionStart)
	udfTime(b[16:], m.when)
	put16(b, 28, 3)
	put16(b, 30, 3)
	put32(b, 32, 1)
	put32(b, 36, 1)
	charset(b[48:])
	dstring(b[112:240], m.label)
	charset(b[240:])
	dstring(b[304:336], m.label)
	longAD(b[400:], sector, 2, 0)
	regid(b[416:], "*OSTA UDF Compliant", udfSuffix(3))
	tag(b, 256, 0, 512)
	tag(m.at(partitionStart+1), 8, 1, 512)

	var names []string
	for _, f := range m.files {
		names = append(names, f.name)
	}
	dirBlocks := m.directorySectors(names)
	firstEntry := 3 + dirBlocks
	var dir []byte
	add := func(name string, characteristics byte, block, unique int) {
		id := []byte{}
		if name != "" {
			id = compressed(name)
		}
		n := (38 + len(id) + 3) &^ 3
		e := make([]byte, n)
		put16(e, 16, 1)
		e[18], e[19] = characteristics, byte(len(id))
		longAD(e[20:], sector, block, unique)
		copy(e[38:], id)
		tag(e, 257, 3+len(dir)/sector, n)
		dir = append(dir, e...)
	}
	add("", 0x0a, 2, 0) // the parent of the root is the root
	for i, f := range m.files {
		add(f.name, 0, firstEntry+i, 16+i)
	}
	copy(m.buf[(partitionStart+3)*sector:], dir)
	m.fileEntry(2, true, len(dir), 3, 0)
	for i, f := range m.files {
		m.fileEntry(firstEntry+i, false, len(f.data), f.at-partitionStart, 16+i)
	}
}

// directorySectors is the size of the root directory.
func (m *writer) directorySectors(names []string) int {
	n := 40
	for _, name := range names {
		n += (38 + len(compressed(name)) + 3) &^ 3
	}
	return (n + sector - 1) / sector
}

func (m *writer) fileEntry(block int, dir bool, size, data, unique int) {
	b := m.at(partitionStart + block)
	put16(b, 20, 4) // strategy
	put16(b, 24, 1)
	const read, execute = 4 | 4<<5 | 4<<10, 1 | 1<<5 | 1<<10
	b[27] = 5
	permissions := read
	if dir {
		b[27] = 4
		permissions = read | execute
	}
	put32(b, 36, 0xffffffff) // no owner
	put32(b, 40, 0xffffffff)
	put32(b, 44, permissions)
	put16(b, 48, 1)
	put64(b, 56, size)
	put64(b, 64, (size+sector-1)/sector)
	for _, at := range []int{72, 84, 96} {
		udfTime(b[at:], m.when)
	}
	put32(b, 108, 1)
	implementation(b[128:])
	put64(b, 160, unique)
	// One short allocation descriptor holds less than 1 GiB, which is the
	// limit of the whole image.
	n := 0
	if size > 0 {
		n = 8
		put32(b, 176, size)
		put32(b, 180, data)
	}
	put32(b, 172, n)
	tag(b, 261, block, 176+n)
}

// tag completes a descriptor: identifier, location, checksums.
func tag(b []byte, id, location, size int) {
	put16(b, 0, id)
	put16(b, 2, 2) // NSR02
	put16(b, 8, int(crcCCITT(b[16:size])))
	put16(b, 10, size-16)
	put32(b, 12, location)
	b[4] = 0
	var sum byte
	for i := range 16 {
		sum += b[i]
	}
	b[4] = sum
}

func crcCCITT(b []byte) uint16 {
	var crc uint16
	for _, c := range b {
		crc ^= uint16(c) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// compressed encodes OSTA compressed Unicode: one byte per character where that
// is sufficient, otherwise two.
func compressed(s string) []byte {
	wide := false
	for _, r := range s {
		wide = wide || r > 0xff
	}
	if !wide {
		out := []byte{8}
		for _, r := range s {
			out = append(out, byte(r))
		}
		return out
	}
	out := []byte{16}
	for _, u := range utf16.Encode([]rune(s)) {
		out = append(out, byte(u>>8), byte(u))
	}
	return out
}

// dstring fills a field of fixed length, whose last byte is the number of bytes
// used.
func dstring(field []byte, s string) {
	c := compressed(s)
	if len(c) > len(field)-1 {
		c = c[:len(field)-1]
	}
	copy(field, c)
	field[len(field)-1] = byte(len(c))
}

func charset(b []byte) { copy(b[1:64], "OSTA Compressed Unicode") }

func regid(b []byte, id string, suffix []byte) {
	copy(b[1:24], id)
	copy(b[24:32], suffix)
}

// udfSuffix returns the suffix of a domain or UDF identifier: revision, and for
// domains the flags 1 (hard) and 2 (soft write protection).
func udfSuffix(flags byte) []byte {
	return []byte{udfRevision & 0xff, udfRevision >> 8, flags}
}

func implementation(b []byte) { regid(b, "*azguest fabric", []byte{4}) } // operating system class: UNIX

func longAD(b []byte, size, block, unique int) {
	put32(b, 0, size)
	put32(b, 4, block)
	put16(b, 8, 0)
	put32(b, 12, unique)
}

func udfTime(b []byte, t time.Time) {
	put16(b, 0, 1<<12) // local time, offset 0
	put16(b, 2, t.Year())
	b[4], b[5], b[6], b[7], b[8] = byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second())
	micro := t.Nanosecond() / 1000
	b[9], b[10], b[11] = byte(micro/10000), byte(micro/100%100), byte(micro%100)
}

package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"path"

	"github.com/azguest/azguest/agent/host"
)

// A file system that was being made when the power failed looks like user
// data, and the disk would never be used again. Two cases are therefore
// recognized: a disk that is blank except for parts of the partition table
// that writeGPT writes, and a partition for which a note on the OS disk says
// that a file system was being made on it.

// A making is this note.
type making struct {
	Dev  string `json:"dev"`  // /dev/sdb1
	Disk string `json:"disk"` // identifier in the partition table of its disk
}

func readMaking(r host.Root, name string) (m making) {
	if name == "" {
		return m
	}
	b, err := r.ReadFile(name)
	if err != nil || json.Unmarshal(b, &m) != nil {
		return making{}
	}
	return m
}

// begin writes the note. A disk without an identifier gets none. If the note
// cannot be written, only the repair after a power cut is lost.
func (m making) begin(r host.Root, name string) {
	if name == "" || m.Disk == "" {
		return
	}
	if b, err := json.Marshal(m); err == nil && r.MkdirAll(path.Dir(name), 0o700) == nil {
		_ = r.WriteFile(name, append(b, '\n'), 0o600)
	}
}

// madeWhole removes the note. It is emptied first, because a power cut could
// undo the removal.
func madeWhole(r host.Root, name string) error {
	if name == "" || !r.Exists(name) {
		return nil
	}
	return errors.Join(r.WriteFile(name, nil, 0o600), r.Remove(name))
}

// diskID is the identifier in the partition table (disk GUID or MBR
// signature), in hex; empty if there is none. A disk that the platform
// attached instead has another one.
func diskID(r io.ReaderAt) string {
	b := make([]byte, 2*sector)
	if _, err := r.ReadAt(b, 0); err != nil {
		return ""
	}
	id := b[440:444]
	if bytes.Equal(b[sector:sector+8], []byte("EFI PART")) {
		id = b[sector+56 : sector+72]
	}
	if zero(id) {
		return ""
	}
	return hex.EncodeToString(id)
}

// interrupted reports whether a node is what our own interrupted mkfs left:
// data without a signature, or a damaged NTFS volume.
func (d *Disk) interrupted(n Node) bool {
	if d.making.Dev != n.Dev || d.making.Disk == "" || d.making.Disk != d.id {
		return false
	}
	return n.FS == FSUnknown || n.FS == FSNTFS && d.ntfs != nil && *d.ntfs == unreadable
}

const unreadable = "it cannot be read"

// blank reports whether a disk is empty except for parts of the table that
// writeGPT writes.
func blank(r io.ReaderAt, size int64) (bool, error) {
	fs, err := Probe(r, size)
	if err != nil || fs == FSNone {
		return err == nil, err
	}
	return fs == FSUnknown && halfGPT(r, size), nil
}

// halfGPT recognizes what an interrupted writeGPT leaves: some of its five
// parts, nothing else in the places of the others, and an empty partition.
func halfGPT(r io.ReaderAt, size int64) bool {
	last := size/sector - 1
	first, end := gptRange(size)
	if end <= first || size < 4*probeLen {
		return false
	}
	head, tail := make([]byte, probeLen), make([]byte, probeLen)
	if _, err := r.ReadAt(head, 0); err != nil {
		return false
	}
	if _, err := r.ReadAt(tail, (last+1)*sector-probeLen); err != nil {
		return false
	}
	seen, missing := 0, 0
	part := func(b []byte, same func([]byte) bool) bool {
		if zero(b) {
			missing++
			return true
		}
		seen++
		ok := same(b)
		clear(b)
		return ok
	}
	table := func(b []byte) bool {
		return string(b[:16]) == linuxData && int64(binary.LittleEndian.Uint64(b[32:])) == first && int64(binary.LittleEndian.Uint64(b[40:])) == end && zero(b[48:])
	}
	header := func(b []byte) bool {
		return bytes.HasPrefix(b, []byte("EFI PART")) && int64(binary.LittleEndian.Uint64(b[48:])) == last-1-gptSectors && zero(b[92:])
	}
	at := func(sectors int64) []byte { return tail[probeLen-sectors*sector:] }
	ok := part(head[:sector], func(b []byte) bool { return zero(b[:446]) && b[450] == 0xee && zero(b[462:510]) }) &&
		part(head[sector:2*sector], header) &&
		part(head[2*sector:(2+gptSectors)*sector], table) &&
		part(at(1), header) &&
		part(at(1 + gptSectors)[:gptSectors*sector], table)
	if !ok || seen == 0 || missing == 0 || !zero(head) || !zero(tail) {
		return false
	}
	fs, err := Probe(io.NewSectionReader(r, first*sector, (end-first+1)*sector), (end-first+1)*sector)
	return err == nil && fs == FSNone
}

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

// What a power cut leaves in the middle of the work looks like somebody's
// data, and would be left alone for as long as the disk lives. Two things are
// known again: a partition table that is whole but for parts of it, on a disk
// that is blank otherwise, and a partition of which a note on the system's
// disk says that a file system was being made on it.

// A making is that note.
type making struct {
	Dev  string `json:"dev"`  // /dev/sdb1
	Disk string `json:"disk"` // what the partition table calls its disk
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

// begin writes the note. A disk without an identity gets none. Where it can't
// be written, on a full disk, nothing is lost but the repair after a cut.
func (m making) begin(r host.Root, name string) {
	if name == "" || m.Disk == "" {
		return
	}
	if b, err := json.Marshal(m); err == nil && r.MkdirAll(path.Dir(name), 0o700) == nil {
		_ = r.WriteFile(name, append(b, '\n'), 0o600)
	}
}

// madeWhole ends the note, for good: a removal alone can be lost.
func madeWhole(r host.Root, name string) error {
	if name == "" || !r.Exists(name) {
		return nil
	}
	return errors.Join(r.WriteFile(name, nil, 0o600), r.Remove(name))
}

// diskID is the number in the partition table; empty if there is none. A disk
// that the platform put in its place has another one.
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

// interrupted says that a node is what our own mkfs left: bytes that no
// format claims, or the ruins of the volume that was there before.
func (d *Disk) interrupted(n Node) bool {
	if d.making.Dev != n.Dev || d.making.Disk == "" || d.making.Disk != d.id {
		return false
	}
	return n.FS == FSUnknown || n.FS == FSNTFS && d.ntfs != nil && *d.ntfs == unreadable
}

const unreadable = "it cannot be read"

// blank reports whether nothing is on a disk, but for parts of the table that
// writeGPT was writing.
func blank(r io.ReaderAt, size int64) (bool, error) {
	fs, err := Probe(r, size)
	if err != nil || fs == FSNone {
		return err == nil, err
	}
	return fs == FSUnknown && halfGPT(r, size), nil
}

// halfGPT recognizes what writeGPT leaves when it is cut off: some of its five
// parts, a partition over everything among them, none with anything else, and
// blanks in the partition.
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

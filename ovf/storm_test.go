package ovf

import (
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/azguest/azguest/ovf/iso9660"
	"github.com/azguest/azguest/ovf/udf"
	"github.com/azguest/azguest/test/peak"
)

// Limits for reading one damaged medium.
const (
	stormTime   = 5 * time.Minute // long, because a loaded machine is slow; only an endless loop exceeds it
	stormMemory = 64 << 20
)

// TestStorm damages all kinds of media at random places, from a seed: bits,
// numbers, exchanged blocks, truncated ends. Then it corrects the checksums,
// so that the damage is not simply rejected. Every medium must be read or
// refused, in limited time and memory.
func TestStorm(t *testing.T) {
	names, err := filepath.Glob("testdata/images/*.gz")
	if err != nil || len(names) == 0 {
		t.Fatal(err)
	}
	rounds := 40
	if testing.Short() || peak.Race { // scripts/test runs it without the detector as well
		rounds = 10
	}
	for i, name := range names {
		name = strings.TrimSuffix(filepath.Base(name), ".gz")
		whole := imageBytes(t, name)
		for round := range rounds {
			r := rand.New(rand.NewPCG(uint64(i), uint64(round))) //nolint:gosec // repeatable test data from a seed
			img := damaged(r, whole)
			done := make(chan uint64, 1)
			go func() {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				readAll(img)
				runtime.ReadMemStats(&after)
				done <- after.TotalAlloc - before.TotalAlloc
			}()
			select {
			case n := <-done:
				if n > stormMemory {
					t.Errorf("%s, round %d: %d MiB", name, round, n>>20)
				}
			case <-time.After(stormTime):
				t.Fatalf("%s, round %d: not read after %v", name, round, stormTime)
			}
		}
	}
}

// readAll reads an image as Load reads a device.
func readAll(img []byte) {
	var volumes []fs.FS
	if f, err := udf.Open(bytes.NewReader(img), int64(len(img))); err == nil {
		volumes = append(volumes, f)
	}
	if f, err := iso9660.Open(bytes.NewReader(img), int64(len(img))); err == nil {
		volumes = append(volumes, f)
	}
	for _, f := range volumes {
		for _, name := range []string{documentName, customDataName, "sub/file", "empty"} {
			var c *carved
			err := readMember(f, name, func(r io.Reader, size int64) (err error) {
				c, err = carve(r, size)
				return err
			})
			if err != nil {
				_ = whyMissing(f, err)
				continue
			}
			raw := c.rest.Bytes()
			if env, err := Parse(raw); err == nil {
				_, _ = Redacted(raw)
				_ = env
			}
		}
	}
}

// damaged returns a copy with one to sixteen faults, most of them in blocks
// that are not empty, because images consist mostly of zeros.
func damaged(r *rand.Rand, whole []byte) []byte {
	const block = 512
	img := bytes.Clone(whole)
	var used []int
	for at := 0; at+block <= len(img); at += block {
		if len(bytes.Trim(img[at:at+block], "\x00")) > 0 {
			used = append(used, at)
		}
	}
	signed := tags(img)
	for range 1 + r.IntN(16) {
		at := used[r.IntN(len(used))] + r.IntN(block-8)
		if len(signed) > 0 && r.IntN(2) == 0 {
			at = signed[r.IntN(len(signed))] + 16 + r.IntN(block-24)
		}
		switch r.IntN(7) {
		case 0:
			img[at] ^= 1 << r.IntN(8)
		case 1:
			img[at] = byte(r.Uint32())
		case 2:
			binary.LittleEndian.PutUint32(img[at&^3:], []uint32{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 30, uint32(r.IntN(len(img) / 2048))}[r.IntN(7)])
		case 3:
			binary.LittleEndian.PutUint16(img[at&^1:], []uint16{0, 1, 1<<15 - 1, 1 << 15, 1<<16 - 1, 7}[r.IntN(6)])
		case 4:
			binary.LittleEndian.PutUint64(img[at&^7:], []uint64{1 << 42, 1<<63 - 1, 1 << 63, 1<<64 - 1}[r.IntN(4)])
		case 5:
			copy(img[at&^(block-1):], whole[used[r.IntN(len(used))]:][:block])
		case 6:
			if r.IntN(8) == 0 {
				return img[:1+r.IntN(len(img))]
			}
			copy(img[at:], img[at+1+r.IntN(4):min(len(img), at+64)])
		}
	}
	for _, at := range signed {
		sign(img[at:])
	}
	return img
}

// tags finds the descriptors of UDF by the checksum of their tag.
func tags(img []byte) []int {
	var found []int
	for at := 0; at+512 <= len(img); at += 512 {
		if v := binary.LittleEndian.Uint16(img[at+2:]); (v == 2 || v == 3) && img[at+4] == sum(img[at:]) {
			found = append(found, at)
		}
	}
	return found
}

func sum(tag []byte) (s byte) {
	for i, c := range tag[:16] {
		if i != 4 {
			s += c
		}
	}
	return s
}

// sign corrects the checksums of a descriptor.
func sign(b []byte) {
	n := int(binary.LittleEndian.Uint16(b[10:]))
	if len(b) < 16+n {
		return
	}
	var crc uint16
	for _, c := range b[16 : 16+n] {
		crc ^= uint16(c) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	binary.LittleEndian.PutUint16(b[8:], crc)
	b[4] = sum(b)
}

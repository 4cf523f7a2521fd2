package udf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/azguest/azguest/ovf/internal/image"
	"github.com/azguest/azguest/test/peak"
)

// walk visits the files of an image, up to a limit.
func walk(r io.ReaderAt, size int64) {
	f, err := Open(r, size)
	if err != nil {
		return
	}
	n := 0
	_ = fs.WalkDir(f, ".", func(p string, d fs.DirEntry, err error) error {
		if n++; n > 300 || strings.Count(p, "/") > 8 {
			return fs.SkipAll
		}
		if err != nil {
			return nil //nolint:nilerr // errors are allowed, crashes are not
		}
		if _, err := d.Info(); err == nil && !d.IsDir() {
			_, _ = f.ReadFile(p)
		}
		return nil
	})
}

// A sparse image of 4 GiB whose root directory claims a directory of 4 GiB, a
// file of 4 GiB, and a file with more extents than are followed. All steps
// together must allocate at most 64 MiB.
func TestHostileSparseImage(t *testing.T) {
	const size = 4 << 30
	img := unpack(t, "udf-2.01.img")
	v := opened(t, img)
	m := v.maps[0]
	block := free(v, img, m, 4)
	at := func(i uint32) []byte {
		off, _, _ := m.at(block+i, v.bs)
		return img[off : off+v.bs]
	}
	ad := make([]byte, 8)
	le.PutUint32(ad, 1<<30-1)
	fileEntryOf(at(0), block, 0, size-1, bytes.Repeat(ad, 4))
	putFile(t, img, v, "zeros", block, 0)
	dir := at(1)
	fileEntryOf(dir, block+1, 0, size-1, bytes.Repeat(ad, 4))
	dir[27] = typeDir
	sign(dir, block+1)
	putFile(t, img, v, "dir", block+1, 0)
	// Two blocks that refer to each other as their continuation, full of
	// extents that cannot be merged.
	tiny := make([]byte, 16)
	le.PutUint32(tiny, 1)
	le.PutUint32(tiny[8:], 1)
	le.PutUint32(tiny[12:], 7)
	list := bytes.Repeat(tiny, 120)
	next := make([]byte, 8)
	le.PutUint32(next, uint32(v.bs)|3<<30)
	le.PutUint32(next[4:], block+3)
	fileEntryOf(at(2), block+2, 0, size-1, next)
	aed := at(3)
	le.PutUint32(aed[20:], uint32(len(list)+8))
	copy(aed[24:], append(list, next...))
	newTag(aed, tagAllocationExtent, 24)
	sign(aed, block+3)
	putFile(t, img, v, "extents", block+2, 0)

	name := filepath.Join(t.TempDir(), "sparse.img")
	if err := os.WriteFile(name, img, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f, err := Open(file, size)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"zeros", "extents"} {
		if _, err := f.ReadFile(p); !errors.Is(err, image.ErrBounds) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if _, err := f.ReadDir("dir"); !errors.Is(err, image.ErrBounds) {
		t.Errorf("dir: %v", err)
	}
	walk(file, size)
	runtime.ReadMemStats(&after)
	// TotalAlloc counts all allocations, which is stricter than memory in use.
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
		t.Errorf("allocated %d MiB", n>>20)
	}
}

// Every number in the tables is set to its extremes in turn. The checksums are
// corrected, so that the code behind them is reached.
func TestHostileNumbers(t *testing.T) {
	for _, name := range []string{"udf-2.01.img", "udf-dvdr-vat2.img", "udf-cdrw-sparable.img", "udf-worm-4096.img", "udf-long.img"} {
		img := unpack(t, name)
		bs := opened(t, img).bs
		for off := int64(16) * bs; off+bs <= int64(len(img)); off += bs {
			b := img[off : off+bs]
			id, loc := le.Uint16(b), le.Uint32(b[12:])
			if len(bytes.Trim(b, "\x00")) == 0 || checkTag(b, loc) != nil {
				continue
			}
			orig := bytes.Clone(b)
			limit := 480
			if id == tagSparing {
				limit = 64
			}
			for at := 16; at+4 <= limit; at += 4 {
				for _, x := range []uint32{0, math.MaxUint32, 3<<30 | 2048} {
					binary.LittleEndian.PutUint32(b[at:], x)
					sign(b, loc)
					walk(bytes.NewReader(img), int64(len(img)))
					copy(b, orig)
				}
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, n := range []string{"genisoimage-bridge-small.img", "udf-bs512.img", "udf-worm-4096.img", "udf-bdr-2.60.img", "udf-cdrw-sparable.img"} {
		f.Add(squeeze(unpack(f, n)))
	}
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) {
		img := expand(b)
		walk(bytes.NewReader(img), int64(len(img)))
	}))
}

// squeeze keeps the blocks of an image that are not empty, each after its
// number, so that a fuzzer works on structures instead of zeros. expand is its
// inverse and corrects the checksums of every descriptor; otherwise no change
// would pass the CRC.
func squeeze(img []byte) []byte {
	out := le.AppendUint16(nil, uint16(len(img)/512))
	for i := 64; i < len(img)/512 && len(out) < 64<<10; i++ {
		if b := img[i*512 : (i+1)*512]; len(bytes.Trim(b, "\x00")) > 0 {
			out = le.AppendUint16(out, uint16(i))
			out = append(out, b...)
		}
	}
	return out
}

func expand(b []byte) []byte {
	if len(b) < 2 {
		return nil
	}
	n := min(int(le.Uint16(b)), 16<<10)
	img := make([]byte, n*512)
	for b = b[2:]; len(b) >= 514; b = b[514:] {
		if i := int(le.Uint16(b)); i < n {
			copy(img[i*512:], b[2:514])
		}
	}
	for i := range n {
		d := img[i*512:]
		if v := le.Uint16(d[2:]); (v == 2 || v == 3) && int(le.Uint16(d[10:]))+16 <= len(d) {
			sign(d, le.Uint32(d[12:]))
		}
	}
	return img
}

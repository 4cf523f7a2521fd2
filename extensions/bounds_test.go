package extensions

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/azguest/azguest/extensions/handler"
)

// rawZip makes a zip file with the entries that add writes, without file modes.
func rawZip(t testing.TB, add func(z *zip.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create(handler.ManifestName)
	if err == nil {
		_, err = w.Write([]byte("[]"))
	}
	if err := errors.Join(err, add(z), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// entries adds n empty entries.
func entries(n int, name func(i int) string) func(z *zip.Writer) error {
	return func(z *zip.Writer) error {
		for i := range n {
			if _, err := z.CreateHeader(&zip.FileHeader{Name: name(i)}); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestSEC7PackagesAreCountedAsTheDiskDoes: everything that needs a block or an
// inode counts towards the limits, which are checked before anything is written.
func TestSEC7PackagesAreCountedAsTheDiskDoes(t *testing.T) {
	t.Parallel()
	chain := func(i, levels int) string { return strings.Repeat(fmt.Sprintf("%x/", i), levels) + "x" }
	for name, tc := range map[string]struct {
		pack  func(z *zip.Writer) error
		limit int64
		want  string
	}{
		"implied directories":         {entries(1500, func(i int) string { return chain(i, 63) }), maxUnpacked, "200 times its size"},
		"implied, below the ratio":    {entries(3000, func(i int) string { return strings.Repeat("longer than a byte", 10) + chain(i, 20) }), maxUnpacked, "50000 files and directories"},
		"directories":                 {entries(50_001, func(i int) string { return fmt.Sprintf("%x/", i) }), maxUnpacked, "50000 files and directories"},
		"empty files":                 {entries(50_001, func(i int) string { return fmt.Sprintf("%x", i) }), maxUnpacked, "50000 files and directories"},
		"blocks of small files":       {small(1000), 4 << 20, "4194304 bytes on disk"},
		"blocks of directories":       {entries(1000, func(i int) string { return fmt.Sprintf("%x/", i) }), 4 << 20, "4194304 bytes on disk"},
		"names":                       {entries(30_000, func(i int) string { return fmt.Sprintf("%0250x", i) }), 4 << 20, "bytes in the zip directory"},
		"a directory of its own":      {entries(100_000, func(i int) string { return fmt.Sprintf("%x", i%7) }), maxUnpacked, "bytes in the zip directory"},
		"a file of more than it says": {lie(1, 1<<20), maxUnpacked, "not a valid zip"},
		"a size that is none":         {lie(1<<63, 10), maxUnpacked, "bytes on disk"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			data := rawZip(t, tc.pack)
			writeFile(t, dir+"/p.zip", string(data))
			err := unpack(dir+"/p.zip", dir+"/out", tc.limit)
			if !errors.Is(err, errBundle) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("a package of %d KiB: %v, want %q", len(data)>>10, err, tc.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("%v is left", left)
			}
			if hm, err := manifestInside(dir + "/p.zip"); err == nil && strings.Contains(tc.want, "directory") && strings.Contains(tc.want, "zip") {
				t.Errorf("looked into it: %+v", hm)
			}
		})
	}
}

// small adds n files of one byte.
func small(n int) func(z *zip.Writer) error {
	return func(z *zip.Writer) error {
		for i := range n {
			w, err := z.Create(fmt.Sprintf("%x", i))
			if err == nil {
				_, err = w.Write([]byte("x"))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// lie adds a file whose header has a wrong size.
func lie(says uint64, has int) func(z *zip.Writer) error {
	return func(z *zip.Writer) error {
		w, err := z.CreateRaw(&zip.FileHeader{Name: "x", Method: zip.Store, UncompressedSize64: says, CompressedSize64: uint64(has)})
		if err == nil {
			_, err = w.Write(make([]byte, has))
		}
		return err
	}
}

package udf

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// unpack reads an image that the script testdata/images/make has made.
func unpack(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("../testdata/images", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pure removes the ISO 9660 part of a bridge image (provisioning/SPEC.md §4.5:
// the platform's medium is UDF only).
func pure(b []byte) []byte {
	b = bytes.Clone(b)
	for s := 16; s < 32; s++ {
		clear(b[s*2048 : (s+1)*2048])
	}
	for i, id := range []string{"BEA01", "NSR02", "TEA01"} {
		copy(b[(16+i)*2048:], "\x00"+id+"\x01")
	}
	return b
}

func open(t testing.TB, b []byte) *FS {
	t.Helper()
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestBridgeAndPure(t *testing.T) {
	bridge := unpack(t, "genisoimage-bridge.img")
	for name, img := range map[string][]byte{"bridge": bridge, "pure": pure(bridge)} {
		t.Run(name, func(t *testing.T) {
			f := open(t, img)
			if f.Label() != "AZBRIDGE" || f.BlockSize() != 2048 {
				t.Errorf("label %q, blocks of %d", f.Label(), f.BlockSize())
			}
			long := strings.Repeat("long", 50)
			if err := fstest.TestFS(f, "ovf-env.xml", "CustomData.bin", "empty",
				"Sub Directory/a/b/c/d/e/f/g/h/deep file.txt", "Sub Directory/Größe-€.txt",
				"Sub Directory/numbers.txt", "Sub Directory/a/file number 59 of many.txt"); err != nil {
				t.Error(err)
			}
			b, err := f.ReadFile("CustomData.bin")
			if err != nil || string(b) != "custom\x00data\n" {
				t.Errorf("CustomData.bin: %q, %v", b, err)
			}
			var want strings.Builder
			for i := range 4000 {
				fmt.Fprintln(&want, i+1)
			}
			if b, err = f.ReadFile("Sub Directory/numbers.txt"); err != nil || string(b) != want.String() {
				t.Errorf("numbers.txt: %d bytes, %v", len(b), err)
			}
			es, err := f.ReadDir("Sub Directory")
			if err != nil || len(es) != 4 {
				t.Errorf("Sub Directory: %v, %v", es, err)
			}
			found := false
			for _, e := range es {
				// genisoimage cuts long names; most of the name must be read
				// back.
				found = found || strings.HasPrefix(long, e.Name()) && len(e.Name()) > 100
			}
			if !found {
				t.Errorf("no long name in %v", es)
			}
			st, err := f.Stat("ovf-env.xml")
			if err != nil {
				t.Fatal(err)
			}
			if got := st.ModTime(); !got.Equal(time.Unix(1700000000, 0)) {
				t.Errorf("time %v", got)
			}
			if _, err := f.Open("missing"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("missing file: %v", err)
			}
		})
	}
}

// Volumes that mkudffs made have a root directory that is empty, or has only
// "lost+found" with some media types.
func TestEmptyVolumes(t *testing.T) {
	names, err := filepath.Glob("../testdata/images/udf-*.img.gz")
	if err != nil || len(names) < 15 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, name := range names {
		name = strings.TrimSuffix(filepath.Base(name), ".gz")
		t.Run(name, func(t *testing.T) {
			f := open(t, unpack(t, name))
			if f.Label() != "AZüdf" {
				t.Errorf("label %q", f.Label())
			}
			var got []string
			err := fs.WalkDir(f, ".", func(p string, d fs.DirEntry, err error) error {
				if err == nil {
					_, err = d.Info()
				}
				got = append(got, p)
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(".", got[0]); diff != "" || len(got) > 2 {
				t.Errorf("%v", got)
			}
		})
	}
}

// A volume that mkudffs made for a rewritable CD and to which the UDF driver
// of Linux 6.1 has written: files made, removed and renamed, many in one
// directory, a hole, a name that needs 16 bits per character.
func TestWrittenByLinux(t *testing.T) {
	f := open(t, unpack(t, "linux-cdrw.img"))
	if err := fstest.TestFS(f, "ovf-env.xml", "CustomData.bin", "sparse", "Größe-€.xml", "dir/some file 39"); err != nil {
		t.Error(err)
	}
	doc, err := f.ReadFile("ovf-env.xml")
	if err != nil || !bytes.HasPrefix(doc, []byte("<?xml")) || !bytes.HasSuffix(doc, []byte("</Environment>\n")) {
		t.Errorf("ovf-env.xml: %d bytes, %v", len(doc), err)
	}
	if b, err := f.ReadFile("Größe-€.xml"); err != nil || !bytes.Equal(b, doc) {
		t.Errorf("its copy: %d bytes, %v", len(b), err)
	}
	if b, err := f.ReadFile("CustomData.bin"); err != nil || len(b) != 70000 {
		t.Errorf("CustomData.bin: %d bytes, %v", len(b), err)
	}
	if b, err := f.ReadFile("sparse"); err != nil || len(b) != 3000004 || strings.Trim(string(b[:3000000]), "\x00") != "" || string(b[3000000:]) != "end\n" {
		t.Errorf("sparse: %d bytes, %v", len(b), err)
	}
	for _, gone := range []string{"old", "x", "dir/some file 1", "dir/some file 31"} {
		if _, err := f.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	es, err := f.ReadDir("dir")
	if err != nil || len(es) != 27 {
		t.Errorf("dir has %d entries, %v", len(es), err)
	}
	for _, e := range es {
		if b, err := f.ReadFile("dir/" + e.Name()); err != nil || "some file "+strings.TrimSpace(string(b)) != e.Name() {
			t.Errorf("%s: %q, %v", e.Name(), b, err)
		}
	}
}

package iso9660

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/ovf/internal/image"
	"github.com/azguest/azguest/test/peak"
)

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

func open(t testing.TB, b []byte) *FS {
	t.Helper()
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestExtensions(t *testing.T) {
	long := strings.Repeat("long", 50)
	for _, tc := range []struct {
		img, label, names, long string
	}{
		{"genisoimage-bridge.img", "AZBRIDGE", "rockridge", long},
		{"genisoimage-rock.img", "AZROCK", "rockridge", long},
		{"xorriso.img", "XORROCK", "rockridge", long},
		{"genisoimage-joliet.img", "AZJOLIET", "joliet", long[:103]},
	} {
		t.Run(tc.img, func(t *testing.T) {
			f := open(t, unpack(t, tc.img))
			if f.Label() != tc.label || f.Names() != tc.names {
				t.Errorf("label %q, names %q", f.Label(), f.Names())
			}
			if err := fstest.TestFS(f, "ovf-env.xml", "CustomData.bin", "empty",
				"Sub Directory/a/b/c/d/e/f/g/h/deep file.txt", "Sub Directory/Größe-€.txt",
				"Sub Directory/numbers.txt", "Sub Directory/a/file number 59 of many.txt"); err != nil {
				t.Error(err)
			}
			var want strings.Builder
			for i := range 4000 {
				fmt.Fprintln(&want, i+1)
			}
			if b, err := f.ReadFile("Sub Directory/numbers.txt"); err != nil || string(b) != want.String() {
				t.Errorf("numbers.txt: %d bytes, %v", len(b), err)
			}
			if b, err := f.ReadFile("Sub Directory/a/b/c/d/e/f/g/h/deep file.txt"); err != nil || string(b) != "deep\n" {
				t.Errorf("relocated file: %q, %v", b, err)
			}
			es, err := f.ReadDir("Sub Directory")
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(es, func(e fs.DirEntry) bool { return e.Name() == tc.long }) {
				t.Errorf("no long name in %v", es)
			}
		})
	}
}

func TestPlain(t *testing.T) {
	for _, tc := range []struct {
		img  string
		want []string
	}{
		{"genisoimage-plain.img", []string{"customda.bin", "ovf_env.xml"}},
		{"genisoimage-bridge-small.img", []string{"customda.bin", "ovf_env.xml"}},
		{"xorriso-plain.img", []string{"customdata.bin", "ovf_env.xml"}},
	} {
		f := open(t, unpack(t, tc.img))
		var got []string
		es, err := f.ReadDir(".")
		for _, e := range es {
			got = append(got, e.Name())
		}
		if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", tc.img, err, diff)
		}
		for _, name := range []string{"OVF_ENV.XML;1", "OVF_ENV.XML", "ovf_env.xml"} {
			if b, err := f.ReadFile(name); err != nil || !bytes.Contains(b, []byte("anna")) {
				t.Errorf("%s: %s: %q, %v", tc.img, name, b, err)
			}
		}
	}
}

// patch changes the record of a plain name in its directory.
func patch(t *testing.T, b []byte, name string, f func(rec []byte)) []byte {
	t.Helper()
	b = bytes.Clone(b)
	at := bytes.Index(b, []byte(name)) - 33
	if at < 0 {
		t.Fatalf("no %s", name)
	}
	f(b[at:])
	return b
}

func TestRefusals(t *testing.T) {
	img := unpack(t, "genisoimage-plain.img")
	f := open(t, patch(t, img, "OVF_ENV.XML;1", func(r []byte) { r[26], r[27] = 1, 1 }))
	if _, err := f.Open("ovf_env.xml"); err == nil || !strings.Contains(err.Error(), "interleaved") {
		t.Errorf("interleaved file: %v", err)
	}
	f = open(t, patch(t, img, "OVF_ENV.XML;1", func(r []byte) { copy(r[10:], "\xff\xff\xff\xff") }))
	if _, err := f.ReadFile("ovf_env.xml"); !errors.Is(err, image.ErrBounds) {
		t.Errorf("file of 4 GiB: %v", err)
	}
	if file, err := f.Open("ovf_env.xml"); err != nil {
		t.Error(err)
	} else if _, err := io.Copy(io.Discard, file); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("file beyond the image: %v", err)
	}
	if _, err := Open(bytes.NewReader(nil), 0); !errors.Is(err, ErrNotISO9660) {
		t.Errorf("nothing: %v", err)
	}
	if _, err := Open(bytes.NewReader(img[:17*2048]), 17*2048); err == nil || errors.Is(err, ErrNotISO9660) {
		t.Errorf("cut image: %v", err)
	}
	for n := 0; n < len(img); n += 1000 { // a cut anywhere must not panic
		walk(img[:n])
	}
}

// walk visits the files of an image, up to a limit.
func walk(b []byte) {
	f, err := Open(bytes.NewReader(b), int64(len(b)))
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

// A file in two extents is one file.
func TestMultiExtent(t *testing.T) {
	img := bytes.Clone(unpack(t, "genisoimage-plain.img"))
	at := bytes.Index(img, []byte("OVF_ENV.XML;1")) - 33
	rec := bytes.Clone(img[at : at+int(img[at])])
	want, err := open(t, img).ReadFile("ovf_env.xml")
	if err != nil {
		t.Fatal(err)
	}
	// The first half stays in place, the second is appended to the image in a
	// block of its own.
	const half = 100
	size := uint32(len(want))
	put := func(r []byte, block, n uint32) {
		for i := range 4 {
			r[2+i], r[10+i] = byte(block>>(8*i)), byte(n>>(8*i))
		}
	}
	second := bytes.Clone(rec)
	block := uint32(len(img) / 2048)
	put(second, block, size-half)
	first := img[at:]
	orig := uint32(rec[2]) | uint32(rec[3])<<8
	put(first, orig, half)
	first[25] |= flagMore
	copy(img[at+len(rec):], second)
	img = append(img, want[half:]...)
	img = append(img, make([]byte, 2048)...)
	got, err := open(t, img).ReadFile("ovf_env.xml")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzOpen(f *testing.F) {
	for _, n := range []string{"genisoimage-plain.img", "xorriso-plain.img", "genisoimage-rock.img", "genisoimage-joliet.img"} {
		// The rest of the image is only file content.
		b := unpack(f, n)
		f.Add(bytes.TrimRight(b[32768:min(len(b), 200<<10)], "\x00"))
	}
	f.Fuzz(peak.Target(func(_ *testing.T, b []byte) {
		// The system area has no meaning; without it the fuzzer has less to
		// change.
		walk(append(make([]byte, 32768), b...))
	}))
}

package ovf

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/azguest/azguest/agent/host"
)

func imageBytes(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata/images", name+".gz"))
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

// put writes a file below a root, with its directories.
func put(t testing.TB, root host.Root, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(root.Path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root.Path(name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Plain files stand in for devices, so that no loop device is needed.
func TestSearch(t *testing.T) {
	bridge := imageBytes(t, "genisoimage-bridge-small.img")
	plain := imageBytes(t, "genisoimage-plain.img")
	empty := imageBytes(t, "udf-2.01.img")
	large := append(append([]byte{}, bridge...), make([]byte, maxSeed)...)
	type files = map[string][]byte
	for _, tc := range []struct {
		name  string
		path  string
		files files
		want  Source
	}{
		{"drive by name", "", files{"/dev/sr0": bridge}, Source{"/dev/sr0", "userspace", "udf", true}},
		{"iso without extensions", "", files{"/dev/sr0": plain}, Source{"/dev/sr0", "userspace", "iso9660", true}},
		{"second drive", "", files{"/dev/sr0": empty, "/dev/sr1": bridge}, Source{"/dev/sr1", "userspace", "udf", true}},
		{"sr2 before sr10", "", files{"/dev/sr10": bridge, "/dev/sr2": bridge}, Source{"/dev/sr2", "userspace", "udf", true}},
		{"drive by sysfs", "", files{
			"/sys/block/sda/size": nil, "/dev/sda": bridge,
			"/sys/block/sdb/device/type": []byte("5\n"), "/dev/sdb": plain,
		}, Source{"/dev/sdb", "userspace", "iso9660", true}},
		{"small disk", "", files{"/sys/block/vdb/size": nil, "/dev/vdb": bridge}, Source{"/dev/vdb", "userspace", "udf", false}},
		{"small disk, no sysfs", "", files{"/dev/vdb": bridge}, Source{"/dev/vdb", "userspace", "udf", false}},
		{"read-only disk", "", files{"/sys/block/vdb/ro": []byte("1\n"), "/dev/vdb": large}, Source{"/dev/vdb", "userspace", "udf", false}},
		{"named disk", "/dev/vdb", files{"/dev/vdb": large}, Source{"/dev/vdb", "userspace", "udf", false}},
		{"named image", "/x/a.iso", files{"/x/a.iso": bridge, "/dev/sr0": plain}, Source{"/x/a.iso", "userspace", "udf", false}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := host.Root(t.TempDir())
			for n, b := range tc.files {
				put(t, root, n, b)
			}
			d, err := Load(t.Context(), DVD{Root: root, Path: tc.path})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, d.Source); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if d.UserName != "anna" || d.Password.Reveal() != "pw" || !strings.HasPrefix(d.Raw.Reveal(), "<Environment") {
				t.Errorf("%+v", d.Environment)
			}
			if b := d.CustomDataFile; !b.Set() || b.Reveal() != "custom\x00data\n" {
				t.Errorf("CustomData.bin: %q", b.Reveal())
			}
			if err := Eject(root, d.Source); err != nil {
				t.Errorf("eject: %v", err)
			}
		})
	}
}

func TestDirectory(t *testing.T) {
	root := host.Root(t.TempDir())
	put(t, root, "/seed/ovf-env.xml", []byte(linux("<UserName>u</UserName>")))
	for _, m := range []Media{DVD{Root: root, Path: "/seed"}, Dir(root.Path("/seed"))} {
		d, err := Load(t.Context(), m)
		if err != nil || d.UserName != "u" || d.Source.Method != MethodDir {
			t.Errorf("%+v, %v", d, err)
		}
	}
	put(t, root, "/scvmm/linuxosconfiguration.xml", nil)
	for path, want := range map[string]string{
		"/scvmm": "System Center VMM", "/none": "no such file", "/dev": "no such file",
	} {
		_, err := Load(t.Context(), DVD{Root: root, Path: path})
		if e, ok := errors.AsType[*MediaError](err); !ok || !strings.Contains(e.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Errors about an unusable medium name each device.
func TestDiagnosis(t *testing.T) {
	bridge := imageBytes(t, "genisoimage-bridge-small.img")
	cut := append([]byte{}, bridge...)
	clear(cut[256*2048:]) // the anchor and everything after it
	for n := 16; n < 20; n++ {
		if string(cut[n*2048+1:n*2048+6]) == "CD001" {
			clear(cut[n*2048 : n*2048+6])
		}
	}
	large := append(append([]byte{}, bridge...), make([]byte, maxSeed)...)
	for _, tc := range []struct {
		name   string
		files  map[string][]byte
		absent bool
		want   []string
	}{
		{"nothing", nil, true, []string{"no suitable device"}},
		{"data disk", map[string][]byte{"/dev/vdb": large}, true, []string{"/dev/vdb: open: writable disk"}},
		{"no document", map[string][]byte{"/dev/sr0": imageBytes(t, "udf-2.01.img")}, false, []string{"/dev/sr0: read udf: no file ovf-env.xml"}},
		{"empty drive", map[string][]byte{"/dev/sr0": nil}, true, []string{"/dev/sr0: open: no medium"}},
		{"damaged", map[string][]byte{"/dev/sr0": cut}, false, []string{"no anchor volume descriptor pointer", "mount udf"}},
		{"rubbish", map[string][]byte{"/dev/sr0": []byte(strings.Repeat("x", 1<<20))}, false, []string{"neither UDF nor ISO 9660", "mount iso9660"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := host.Root(t.TempDir())
			for n, b := range tc.files {
				put(t, root, n, b)
			}
			_, err := Load(t.Context(), DVD{Root: root})
			e, ok := errors.AsType[*MediaError](err)
			if !ok || e.Absent() != tc.absent || e.Code() != "AZ-PROV-MEDIA" {
				t.Fatalf("absent %v: %v", ok && e.Absent(), err)
			}
			for _, w := range tc.want {
				if !strings.Contains(e.Error(), w) {
					t.Errorf("no %q in %v", w, e)
				}
			}
		})
	}
}

// A foreign OVF document does not count as a provisioning document; a damaged
// one is reported as damaged.
func TestForeignDocument(t *testing.T) {
	root := host.Root(t.TempDir())
	img := imageBytes(t, "genisoimage-plain.img")
	put(t, root, "/dev/sr0", []byte(strings.Replace(string(img), "ProvisioningSection ", "PropertySection     ", 1)))
	put(t, root, "/dev/sr1", []byte(strings.Replace(string(img), "<HostName>", "<HostNama>", 1)))
	_, err := Load(t.Context(), DVD{Root: root})
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != KindMalformed {
		t.Errorf("%v", err)
	}
}

func TestForbidden(t *testing.T) {
	root := host.Root(t.TempDir())
	put(t, root, "/etc/modprobe.d/cis.conf", []byte("# hardening\ninstall  udf /bin/true\nblacklist vfat\n"))
	for kind, want := range map[string]string{
		"udf":     `, disabled by "install udf /bin/true" in /etc/modprobe.d/cis.conf line 2`,
		"vfat":    `, disabled by "blacklist vfat" in /etc/modprobe.d/cis.conf line 3`,
		"iso9660": "",
	} {
		if got := forbidden(root, kind); got != want {
			t.Errorf("%s: %q", kind, got)
		}
	}
}

func TestMountinfo(t *testing.T) {
	got := parseMounts([]byte(`22 1 8:1 / / rw - ext4 /dev/sda1 rw
36 22 11:0 / /run/media/my\040disc rw,nosuid shared:1 master:2 - udf /dev/sr0 ro
rubbish
37 22 11:0 /sub /mnt\134x ro - iso9660 /dev/sr0 ro
`))
	want := []mountPoint{
		{11, 0, "/sub", `/mnt\x`, "iso9660"},
		{11, 0, "/", "/run/media/my disc", "udf"},
		{8, 1, "/", "/", "ext4"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mountPoint{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// An existing mount is used, but symlinks that lead out of it are not
// followed.
func TestMounted(t *testing.T) {
	root := host.Root(t.TempDir())
	put(t, root, "/media/a b/OVF_ENV.XML", []byte(linux("<UserName>u</UserName>")))
	put(t, root, "/proc/self/mountinfo", []byte("36 22 11:0 / /media/a\\040b ro - iso9660 /dev/sr0 ro\n"))
	tr := &trial{root: root}
	d := &device{candidate: candidate{name: "/dev/sr0", optical: true}, major: 11}
	m := tr.mounted(d)
	if m == nil {
		t.Fatalf("%v", tr.tried)
	}
	if c, err := readDocument(m.FS); err != nil || c.rest.Len() == 0 {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	put(t, root, "/secret", []byte(linux("<UserName>u</UserName>")))
	if err := os.Remove(root.Path("/media/a b/OVF_ENV.XML")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../secret", root.Path("/media/a b/ovf-env.xml")); err != nil {
		t.Fatal(err)
	}
	if m := tr.mounted(d); m != nil {
		t.Error("followed a symlink out of the medium")
	}
}

// A drive that appears late is found. Without one the wait ends, and so it
// does with the context.
func TestWait(t *testing.T) {
	img := imageBytes(t, "genisoimage-bridge-small.img")
	synctest.Test(t, func(t *testing.T) {
		root := host.Root(t.TempDir())
		go func() {
			time.Sleep(3 * time.Second)
			put(t, root, "/dev/tmp", img)
			_ = os.Rename(root.Path("/dev/tmp"), root.Path("/dev/sr0"))
		}()
		start := time.Now()
		if _, err := Load(t.Context(), DVD{Root: root, Wait: time.Minute}); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("found after %v", d)
		}
		none := host.Root(t.TempDir())
		start = time.Now()
		_, err := Load(t.Context(), DVD{Root: none, Wait: time.Minute})
		if d := time.Since(start); err == nil || d != time.Minute {
			t.Errorf("%v after %v", err, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Load(ctx, DVD{Root: none, Wait: time.Minute}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// A special file with the name of the document is refused and not opened.
func TestSpecialFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, documentName), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := readDocument(os.DirFS(dir)); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

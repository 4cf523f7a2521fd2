package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/agent/host/hosttest"
	"github.com/azguest/azguest/test/peak"
)

const mib = 1 << 20

// ntfsImage makes the parts of an NTFS volume that readNTFS reads: boot sector
// and master file table.
func ntfsImage(label string, root ...string) []byte {
	const rec, cluster = 1024, 4096
	b := make([]byte, 8*mib)
	copy(b[3:], "NTFS    ")
	binary.LittleEndian.PutUint16(b[11:], 512)
	b[13] = cluster / 512
	binary.LittleEndian.PutUint64(b[48:], 4)
	b[64] = 0xf6 // 2^10
	b[510], b[511] = 0x55, 0xaa
	mft := b[4*cluster:]
	u16 := func(s string) []byte {
		var out []byte
		for _, u := range utf16.Encode([]rune(s)) {
			out = binary.LittleEndian.AppendUint16(out, u)
		}
		return out
	}
	record := func(n int, kind uint32, value []byte) {
		r := mft[n*rec : (n+1)*rec]
		copy(r, "FILE")
		binary.LittleEndian.PutUint16(r[4:], 48)
		binary.LittleEndian.PutUint16(r[6:], 3)
		binary.LittleEndian.PutUint16(r[20:], 56)
		binary.LittleEndian.PutUint16(r[22:], 1)
		a := r[56:]
		n2 := (24 + len(value) + 7) / 8 * 8
		binary.LittleEndian.PutUint32(a, kind)
		binary.LittleEndian.PutUint32(a[4:], uint32(n2))
		binary.LittleEndian.PutUint32(a[16:], uint32(len(value)))
		binary.LittleEndian.PutUint16(a[20:], 24)
		copy(a[24:], value)
		binary.LittleEndian.PutUint32(a[n2:], 0xffffffff)
		// The update sequence: counter 1 at the end of both sectors, the
		// original bytes in the array.
		r[48] = 1
		copy(r[50:], r[510:512])
		copy(r[52:], r[1022:1024])
		r[510], r[511], r[1022], r[1023] = 1, 0, 1, 0
	}
	for n := range 16 {
		record(n, 0x10, make([]byte, 48))
	}
	// The table's own record: 64 records in one run of 16 clusters from
	// cluster 4.
	own := mft[56:]
	copy(own, make([]byte, 200))
	binary.LittleEndian.PutUint32(own, 0x80)
	binary.LittleEndian.PutUint32(own[4:], 72)
	own[8] = 1
	binary.LittleEndian.PutUint16(own[32:], 64)
	binary.LittleEndian.PutUint64(own[48:], 64*rec)
	copy(own[64:], "\x11\x10\x04\x00")
	binary.LittleEndian.PutUint32(own[72:], 0xffffffff)
	record(mftVolume, 0x60, u16(label))
	for i, name := range root {
		v := make([]byte, 66)
		binary.LittleEndian.PutUint64(v, 5|5<<48)
		v[64], v[65] = byte(len([]rune(name))), 1
		record(mftFirst+i, 0x30, append(v, u16(name)...))
	}
	return b
}

// fragmented gives the master file table a second run.
func fragmented(b []byte) []byte {
	copy(b[4*4096+56+64:], "\x11\x10\x04\x11\x01\x01")
	return b
}

func withMBR(typ byte, part []byte) []byte {
	b := make([]byte, mib+len(part)+mib)
	e := b[446:]
	e[4] = typ
	binary.LittleEndian.PutUint32(e[8:], mib/512)
	binary.LittleEndian.PutUint32(e[12:], uint32(len(part)/512))
	b[510], b[511] = 0x55, 0xaa
	copy(b[mib:], part)
	return b
}

func extImage() []byte {
	b := make([]byte, 2*mib)
	copy(b[1080:], "\x53\xef")
	return b
}

// machine makes a root with one resource disk.
func machine(t *testing.T, content []byte, more map[string]string) host.Root {
	t.Helper()
	r := host.Root(t.TempDir())
	files := map[string]string{
		"/sys/bus/vmbus/devices/a/device_id":                             "{f8b3781a-1e82-4818-a1c3-63d806ec15bb}\n",
		"/sys/bus/vmbus/devices/a/host0/target0:0:0/0:0:0:0/block/sda/x": "",
		"/sys/bus/vmbus/devices/a/host0/target0:0:0/0:0:0:1/block/sdb/x": "",
		"/sys/block/sdb/size": itoa(len(content) / 512), "/sys/block/sdb/dev": "8:16\n", "/sys/block/sdb/ro": "0\n",
		"/sys/block/sdb/sdb1/dev": "8:17\n", "/sys/block/sda/size": "100\n", "/sys/block/sda/dev": "8:0\n",
		"/proc/self/mountinfo": "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", "/proc/swaps": "Filename Type Size Used Priority\n",
		"/dev/sdb": string(content), "/dev/sda": "",
	}
	maps.Copy(files, more)
	for name, text := range files {
		if text == "-" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(r.Path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func itoa(n int) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b) + "\n"
}

func opts() Options {
	return Options{Format: true, FileSystem: "ext4", MountPoint: "/mnt/resource", Swap: true, SwapMiB: 1}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	blank := make([]byte, 8*mib)
	data := bytes.Clone(blank)
	data[5*mib] = 1
	early := bytes.Clone(blank)
	early[100] = 1
	const mount, mk = "mount /dev/sdb1 on /mnt/resource", "make ext4 on /dev/sdb1"
	const tail = "; write data loss warning to /mnt/resource; swap file of 1 MiB in /mnt/resource"
	full := "partition /dev/sdb; " + mk + "; " + mount + tail
	for _, tc := range []struct {
		name    string
		content []byte
		more    map[string]string
		change  func(*Options)
		want    string
	}{
		{"blank", blank, nil, nil, full},
		{"as delivered", withMBR(7, ntfsImage(FactoryLabel, "DATALOSS_WARNING_README.txt", "System Volume Information")), nil, nil, "mark the partition of /dev/sdb as Linux; " + mk + "; " + mount + tail},
		{"as delivered, empty", withMBR(7, ntfsImage("TEMPORARY STORAGE")), nil, nil, "mark the partition of /dev/sdb as Linux; " + mk + "; " + mount + tail},
		{"with a user's file", withMBR(7, ntfsImage(FactoryLabel, "thesis.docx")), nil, nil, "not changed: it has an NTFS volume that is not factory-fresh: it has files"},
		{"another label", withMBR(7, ntfsImage("DATA")), nil, nil, "not changed: it has an NTFS volume that is not factory-fresh: its label is \"DATA\", not \"Temporary Storage\""},
		{"damaged NTFS", withMBR(7, ntfsImage(FactoryLabel)[:4096+2]), nil, nil, "not changed: it has an NTFS volume that is not factory-fresh: it cannot be read"},
		{"a table in two pieces", withMBR(7, fragmented(ntfsImage(FactoryLabel))), nil, nil, "not changed: it has an NTFS volume that is not factory-fresh: its label is \"\", not \"Temporary Storage\""},
		{"NTFS on the whole disk", ntfsImage(FactoryLabel), nil, nil, "not changed: it contains ntfs"},
		{"our own of the last boot", withMBR(0x83, extImage()), nil, nil, mount + tail},
		{"another Linux file system", withMBR(0x83, append([]byte("XFSB"), make([]byte, 2*mib)...)[:2*mib]), nil, nil, mount + tail},
		{"encrypted", withMBR(0x83, append([]byte("LUKS\xba\xbe"), make([]byte, 2*mib)...)[:2*mib]), nil, nil, "not changed: it contains luks"},
		{"raw data in a partition", withMBR(0x83, append([]byte("hello"), make([]byte, 2*mib)...)[:2*mib]), nil, nil, "not changed: it contains data"},
		{"raw data on the disk", early, nil, nil, "not changed: it contains data"},
		{"mounted there", withMBR(0x83, extImage()), map[string]string{"/proc/self/mountinfo": "1 0 8:17 / /mnt/resource rw - ext4 /dev/sdb1 rw\n"}, nil, strings.TrimPrefix(tail, "; ")},
		{"mounted elsewhere", withMBR(0x83, extImage()), map[string]string{"/proc/self/mountinfo": "1 0 8:17 / /mnt rw - ext4 /dev/sdb1 rw\n"}, nil, "not changed: it is mounted on /mnt"},
		{"held by LVM", blank, map[string]string{"/sys/block/sdb/holders/dm-0/x": ""}, nil, "not changed: it is part of dm-0"},
		{"is swap", blank, map[string]string{"/proc/swaps": "Filename\n/dev/sdb partition 1 0 -2\n"}, nil, "not changed: it is swap"},
		{"read-only", blank, map[string]string{"/sys/block/sdb/ro": "1\n"}, nil, "not changed: it is read-only"},
		{"no resource disk", blank, map[string]string{"/sys/bus/vmbus/devices/a/device_id": "{other}\n"}, nil, "no resource disk found"},
		{"off", blank, nil, func(o *Options) { o.Format = false }, "ResourceDisk.Format is off"},
		{"hostile file system", blank, nil, func(o *Options) { o.FileSystem = "../x" }, "file system \"../x\" is not supported"},
		{"hostile mount point", blank, nil, func(o *Options) { o.MountPoint = "/boot/" }, "\"/boot/\" is not a valid mount point: it is a directory of the system, and a mount would hide what is in it; set ResourceDisk.MountPoint to a directory of its own, such as /mnt/resource"},
		{"no swap", blank, nil, func(o *Options) { o.Swap = false }, "partition /dev/sdb; " + mk + "; " + mount + "; write data loss warning to /mnt/resource"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := machine(t, tc.content, tc.more)
			o := opts()
			if tc.change != nil {
				tc.change(&o)
			}
			disks, err := Look(r, o)
			if err != nil {
				t.Fatal(err)
			}
			actions, reason := Plan(disks, o)
			var texts []string
			for _, a := range actions {
				texts = append(texts, a.String())
			}
			got := strings.Join(texts, "; ")
			if reason != "" {
				got = strings.TrimPrefix(reason, "/dev/sdb is ")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNVMeAndManyDisks(t *testing.T) {
	t.Parallel()
	if got := partition("nvme0n1", 1) + " " + partition("sdaa", 2); got != "nvme0n1p1 sdaa2" {
		t.Errorf("partition names %s", got)
	}
	r := machine(t, make([]byte, 8*mib), map[string]string{
		"/sys/bus/vmbus/devices/a/device_id": "{other}\n",
		"/sys/class/nvme/nvme0/model":        "MSFT NVMe Accelerator v1.0\n",
		"/sys/class/nvme/nvme1/model":        "Microsoft NVMe Direct Disk v2  \n",
		"/sys/block/nvme1n1/size":            "16384\n", "/sys/block/nvme1n1/dev": "259:0\n", "/sys/block/nvme0n1/size": "16384\n",
		"/dev/nvme1n1": string(make([]byte, 8*mib)),
	})
	disks, err := Look(r, opts())
	if err != nil || len(disks) != 1 || disks[0].Name != "nvme1n1" {
		t.Fatalf("%+v, %v", disks, err)
	}
	actions, reason := Plan(disks, opts())
	if len(actions) == 0 || actions[1].Dev != "/dev/nvme1n1p1" {
		t.Errorf("%v %s", actions, reason)
	}
}

func TestGPTIsOneThatOthersRead(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 64 * mib
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := writeGPT(f, size); err != nil {
		t.Fatal(err)
	}
	got, err := ReadTable(f, size)
	want := Table{Kind: "gpt", Parts: []Part{{Number: 1, Start: mib, Len: 62 * mib}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	tool, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Skip("no sfdisk to ask")
	}
	out, err := exec.Command(tool, "--verify", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No errors detected") {
		t.Errorf("sfdisk: %v\n%s", err, out)
	}
}

func TestApplyOnARealFile(t *testing.T) {
	t.Parallel()
	r := machine(t, withMBR(7, ntfsImage(FactoryLabel)), nil)
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}
	disks, err := Look(r, opts())
	if err != nil {
		t.Fatal(err)
	}
	actions, reason := Plan(disks, opts())
	if reason != "" {
		t.Fatal(reason)
	}
	if err := os.WriteFile(r.Path("/dev/sdb1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Apply(t.Context(), r, run, actions[2:], nil); err != nil && !strings.Contains(err.Error(), "mount point is not empty") {
			t.Fatal(err)
		}
	}
	if err := Apply(t.Context(), r, run, actions[:2], nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(r.Path("/dev/sdb"))
	if err != nil || b[450] != 0x83 {
		t.Errorf("type %x, %v", b[450], err)
	}
	var st unix.Stat_t
	if err := unix.Stat(r.Path("/mnt/resource/swapfile"), &st); err != nil || st.Mode&0o777 != 0o600 || st.Size != mib || st.Blocks*512 < mib {
		t.Errorf("swap file: %v mode %o size %d blocks %d", err, st.Mode, st.Size, st.Blocks)
	}
	if out, err := exec.Command("blkid", "-p", "-o", "value", "-s", "TYPE", r.Path("/mnt/resource/swapfile")).Output(); err == nil && strings.TrimSpace(string(out)) != "swap" {
		t.Errorf("blkid calls it %q", out)
	}
}

func TestADiskThatIsNotBlankAnyMore(t *testing.T) {
	t.Parallel()
	r := machine(t, make([]byte, 8*mib), nil)
	disks, err := Look(r, opts())
	if err != nil {
		t.Fatal(err)
	}
	actions, _ := Plan(disks, opts())
	if err := os.WriteFile(r.Path("/dev/sdb"), extImage(), 0o600); err != nil {
		t.Fatal(err)
	}
	err = Apply(t.Context(), r, &hosttest.Runner{}, actions, nil)
	if err == nil || !strings.Contains(err.Error(), "no longer blank") {
		t.Errorf("error %v", err)
	}
	if b, _ := os.ReadFile(r.Path("/dev/sdb")); !bytes.Equal(b, extImage()) {
		t.Error("a disk that is no longer blank was written")
	}
}

func FuzzDisk(f *testing.F) {
	f.Add(withMBR(7, ntfsImage(FactoryLabel, "a.txt"))[:2*mib])
	f.Add(ntfsImage("x", "y")[:64<<10])
	f.Add(extImage())
	f.Fuzz(peak.Target(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		d := Disk{Name: "sdb", Size: int64(len(b))}
		_ = d.read(r)
		_, _ = Plan([]Disk{d}, opts())
		if v, err := readNTFS(r); err == nil {
			_ = v.fresh()
		}
	}))
}

// writeSome performs only some of the writes, by the bits of some.
type writeSome struct {
	f    *os.File
	some uint
	n    int
}

func (w *writeSome) WriteAt(b []byte, at int64) (int, error) {
	w.n++
	if w.some>>(w.n-1)&1 == 0 {
		return len(b), nil
	}
	return w.f.WriteAt(b, at)
}

func planned(t *testing.T, r host.Root, o Options) ([]Action, string) {
	t.Helper()
	disks, err := Look(r, o)
	if err != nil {
		t.Fatal(err)
	}
	actions, reason := Plan(disks, o)
	text := []string{}
	for _, a := range actions {
		text = append(text, a.String())
	}
	return actions, strings.Join(text, "; ") + reason
}

// TestPowerCutWithinThePartitionTable: any of the parts of the table may have
// reached the disk.
func TestPowerCutWithinThePartitionTable(t *testing.T) {
	t.Parallel()
	const size = 8 * mib
	r := machine(t, make([]byte, size), nil)
	_, want := planned(t, r, opts())
	for some := range uint(1<<5 - 1) {
		for _, user := range []bool{false, true} {
			f, err := os.OpenFile(r.Path("/dev/sdb"), os.O_RDWR|os.O_TRUNC, 0)
			if err == nil {
				err = f.Truncate(size)
			}
			if err == nil {
				err = writeGPT(&writeSome{f: f, some: some}, size)
			}
			if err == nil && user {
				_, err = f.WriteAt([]byte("data"), mib+4096)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, got := planned(t, r, opts())
			if !user && got != want {
				t.Errorf("parts %05b: %s", some, got)
			}
			if user && some != 0 && strings.Contains(got, "partition /dev") {
				t.Errorf("parts %05b: somebody's data is overwritten: %s", some, got)
			}
			if !user {
				err = withDisk(r, "sdb", func(f *os.File, size int64) error {
					if empty, err := blank(f, size); err != nil || !empty {
						t.Errorf("parts %05b: not blank, %v", some, err)
					}
					return nil
				})
			}
			if err = errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPowerCutWithinMkfs: what an interrupted mkfs has written is neither a
// file system nor user data, but only on the same disk and until mkfs has
// completed.
func TestPowerCutWithinMkfs(t *testing.T) {
	t.Parallel()
	content := withMBR(7, ntfsImage(FactoryLabel))
	copy(content[440:], "\x01\x02\x03\x04")
	r := machine(t, content, map[string]string{"/dev/sdb1": "", "/var/lib/waagent/azguest/x": ""})
	o := opts()
	o.Note = "/var/lib/waagent/azguest/disk.json"
	write := func(at int64, text string) {
		t.Helper()
		f, err := os.OpenFile(r.Path("/dev/sdb"), os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt([]byte(text), at)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	const left = "/dev/sdb is not changed: it contains data"
	actions, _ := planned(t, r, o)
	half := strings.Repeat("\x00", 4096) + "half a file system"
	run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"mkfs.ext4": {Code: -1, Do: func(host.Cmd) error { write(mib, half); return nil }}}}
	if err := Apply(t.Context(), r, run, actions, nil); err == nil {
		t.Fatal("not interrupted")
	}
	write(440, "\x01\x02\x03\x05")
	kept, _ := r.ReadFile(o.Note)
	if _, got := planned(t, r, o); got != left {
		t.Errorf("another disk with data: %s", got)
	}
	write(440, "\x01\x02\x03\x04")
	if err := r.WriteFile(o.Note, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	actions, got := planned(t, r, o)
	if !strings.HasPrefix(got, "make ext4 on /dev/sdb1; mount") {
		t.Fatal(got)
	}
	run.Answers["mkfs.ext4"] = hosttest.Answer{Do: func(host.Cmd) error { write(mib, string(extImage()[:8192])); return nil }}
	if err := Apply(t.Context(), r, run, actions[:1], nil); err != nil || r.Exists(o.Note) {
		t.Errorf("%v, note left: %v", err, r.Exists(o.Note))
	}
	// The agent ended after mkfs and before it removed the note.
	if err := r.WriteFile(o.Note, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, got := planned(t, r, o); !strings.HasPrefix(got, "mount /dev/sdb1") || r.Exists(o.Note) {
		t.Errorf("whole: %s, note left: %v", got, r.Exists(o.Note))
	}
	write(mib, half)
	if _, got := planned(t, r, o); got != left {
		t.Errorf("data that came later: %s", got)
	}
}

// TestIN18MountPoint: only data keeps the disk from being mounted, and what is
// wrong with a mount point is said.
func TestIN18MountPoint(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		make    func(r host.Root) error
		refused string
	}{
		"missing":                   {func(host.Root) error { return nil }, ""},
		"empty directories":         {func(r host.Root) error { return r.MkdirAll("/mnt/resource/app/cache", 0o755) }, ""},
		"the warning of an attempt": {func(r host.Root) error { return r.WriteFile("/mnt/resource/"+readme, []byte(warning), 0o644) }, ""},
		"another file of that name": {func(r host.Root) error { return r.WriteFile("/mnt/resource/"+readme, []byte("x"), 0o644) }, readme},
		"a file in a directory":     {func(r host.Root) error { return r.WriteFile("/mnt/resource/app/data", nil, 0o644) }, "app/data"},
		"a link":                    {func(r host.Root) error { return r.Symlink("/x", "/mnt/resource/l") }, "contains l"},
		"a mount below it": {func(r host.Root) error {
			return r.WriteFile("/proc/self/mountinfo", []byte("30 1 8:1 / /mnt/resource/x rw - ext4 /dev/sda1 rw\n"), 0o644)
		}, "mounted on /mnt/resource/x"},
	} {
		r := host.Root(t.TempDir())
		err := r.MkdirAll("/mnt/resource/app", 0o755)
		for _, d := range []string{"/proc/self", "/dev"} {
			err = errors.Join(err, r.MkdirAll(d, 0o755))
		}
		if name == "missing" {
			err = errors.Join(err, r.RemoveAll("/mnt"))
		}
		if err := errors.Join(err, r.WriteFile("/dev/sdb1", nil, 0o600), tc.make(r)); err != nil {
			t.Fatal(err)
		}
		run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}
		err = Apply(t.Context(), r, run, []Action{{Kind: Mount, Dev: "/dev/sdb1", Dir: "/mnt/resource"}}, nil)
		if tc.refused == "" && (err != nil || len(run.Commands()) != 1) || tc.refused != "" && (err == nil || !strings.Contains(err.Error(), tc.refused) || len(run.Commands()) != 0) {
			t.Errorf("%s: %v, commands %q, want %q", name, err, run.Commands(), tc.refused)
		}
	}
	for dir, want := range map[string]string{"/tmp": "running programs", "/tmp/": "running programs", "/usr": "directory of the system", "mnt": "begin with /"} {
		o := opts()
		o.MountPoint = dir
		if _, reason := Plan([]Disk{{Name: "sdb"}}, o); !strings.Contains(reason, want) || !strings.Contains(reason, "ResourceDisk.MountPoint") {
			t.Errorf("%s: %q", dir, reason)
		}
	}
}

// TestIN18NamesOfTheKernel: the tables of mounts and of swap have names without
// links, and with blanks in octal. A disk that is mounted, and swap that is on,
// are found by them when the agent starts again.
func TestIN18NamesOfTheKernel(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ point, real, kernel string }{
		"plain":                          {"/mnt/resource", "/mnt/resource", "/mnt/resource"},
		"a link":                         {"/mnt/resource", "/srv/data", "/srv/data"},
		"a slash":                        {"/mnt/resource/", "/srv/data", "/srv/data"},
		"a blank":                        {"/mnt/my disk", "/mnt/my disk", `/mnt/my\040disk`},
		"below a link, with a backslash": {`/mnt/resource/a\b`, `/srv/data/a\b`, `/srv/data/a\134b`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := machine(t, withMBR(0x83, extImage()), map[string]string{"/proc/self/mountinfo": "1 0 8:17 / " + tc.kernel + " rw - ext4 /dev/sdb1 rw\n"})
			err := r.MkdirAll(tc.real, 0o755)
			if strings.HasPrefix(tc.real, "/srv/data") {
				err = errors.Join(err, r.MkdirAll("/mnt", 0o755), r.Symlink("/srv/data", "/mnt/resource"))
			}
			swaps := "Filename Type Size Used Priority\n" + strings.ReplaceAll(r.Path(tc.kernel)+"/swapfile", " ", `\040`) + " file 1020 0 -2\n"
			if err := errors.Join(err, r.WriteFile("/proc/swaps", []byte(swaps), 0o600), makeSwap(r, tc.real+"/swapfile", mib)); err != nil {
				t.Fatal(err)
			}
			o := opts()
			o.MountPoint = tc.point
			disks, err := Look(r, o)
			if err != nil || len(disks) != 1 || disks[0].Mounted != tc.real {
				t.Fatalf("%v %+v", err, disks)
			}
			actions, reason := Plan(disks, o)
			run := &hosttest.Runner{Answers: map[string]hosttest.Answer{"*": {}}}
			if err := Apply(t.Context(), r, run, actions, nil); err != nil || reason != "" || len(run.Commands()) != 0 {
				t.Errorf("%v, %q, commands %q", err, reason, run.Commands())
			}
			// Before it was mounted: what is mounted below it is seen.
			if err := errors.Join(r.Remove(tc.real+"/swapfile"), r.Remove(tc.real+"/"+readme), r.WriteFile("/proc/self/mountinfo", []byte("1 0 8:33 / "+tc.kernel+"/x rw - ext4 /dev/sdc1 rw\n"), 0o600)); err != nil {
				t.Fatal(err)
			}
			if err := hidesNothing(r, path.Clean(tc.point)); err == nil || !strings.Contains(err.Error(), "mounted on "+tc.real+"/x") {
				t.Errorf("a mount below: %v", err)
			}
		})
	}
}

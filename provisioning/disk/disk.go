// Package disk prepares the resource disk: the temporary disk of a VM, which
// comes NTFS-formatted, is empty after every move to another host, and may
// become a mounted file system with a swap file on it
// (provisioning/SPEC.md §12).
//
// It is off unless configured. A disk is touched only if the platform's own
// marks say that it is the resource disk, and formatted only if it is blank or
// exactly as the platform delivers it. Anything else counts as user data: the
// disk is left alone and the reason is returned. A mount that fails never
// leads to formatting.
//
// Begin with [Plan], which is pure; probe.go and ntfs.go read what is on a
// disk, apply.go carries out the plan. The package imports only agent/host.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/azguest/azguest/agent/host"
)

// Options is what the configuration asks for.
type Options struct {
	Format       bool   // ResourceDisk.Format: off means not even mounted
	FileSystem   string // ext4, ext3, ext2, xfs or btrfs
	MountPoint   string
	MountOptions string // as for mount -o
	Swap         bool
	SwapMiB      int
	Note         string // path of the note about a file system that is being made; empty: no note is kept
}

// A Disk is a candidate with everything that Plan needs to know about it.
type Disk struct {
	Name  string // sdb, nvme0n1
	Found string // how it was found
	Size  int64  // bytes

	Busy    string  // why it must not be written: mounted elsewhere, has holders
	Mounted string  // where its partition is mounted, if at the wanted place
	Table   Table   //
	Nodes   []Node  // what holds data: the partitions, or the disk itself
	Problem string  // why it could not be examined
	id      string  // identifier in the partition table
	making  making  // content of the note at Options.Note
	ntfs    *string // why the only node's NTFS volume is not factory-fresh, empty if it is; nil: no NTFS
}

// A Node is a block device that can hold a file system.
type Node struct {
	Dev    string // /dev/sdb1
	Number int    // of the partition, 0 for the whole disk
	FS     string
}

// Kind is what an action does.
type Kind string

const (
	Partition Kind = "partition" // a GPT with one partition over all of it
	Retype    Kind = "retype"    // the MBR type of partition 1 becomes Linux
	Mkfs      Kind = "mkfs"
	Mount     Kind = "mount"
	Readme    Kind = "readme"
	Swap      Kind = "swap"
)

// An Action is one thing to do.
type Action struct {
	Kind    Kind   `json:"kind"`
	Disk    string `json:"disk,omitempty"`
	Dev     string `json:"dev,omitempty"`
	FS      string `json:"fs,omitempty"`
	Dir     string `json:"dir,omitempty"`
	Options string `json:"options,omitempty"`
	MiB     int    `json:"mib,omitempty"`
	Note    string `json:"note,omitempty"`
}

func (a Action) String() string {
	switch a.Kind {
	case Partition:
		return "partition /dev/" + a.Disk
	case Retype:
		return "mark the partition of /dev/" + a.Disk + " as Linux"
	case Mkfs:
		return "make " + a.FS + " on " + a.Dev
	case Mount:
		return "mount " + a.Dev + " on " + a.Dir
	case Readme:
		return "write data loss warning to " + a.Dir
	case Swap:
	}
	return fmt.Sprintf("swap file of %d MiB in %s", a.MiB, a.Dir)
}

// Plan decides what to do. It is pure. Without actions it returns the reason.
func Plan(disks []Disk, o Options) (actions []Action, reason string) {
	if !o.Format {
		return nil, "ResourceDisk.Format is off"
	}
	if !slices.Contains([]string{"ext2", "ext3", "ext4", "xfs", "btrfs"}, o.FileSystem) {
		return nil, fmt.Sprintf("file system %q is not supported", o.FileSystem)
	}
	if why := badMountPoint(o.MountPoint); why != "" {
		return nil, fmt.Sprintf("%q is not a valid mount point: %s", o.MountPoint, why)
	}
	if len(disks) == 0 {
		return nil, "no resource disk found"
	}
	d := disks[0]
	dir := path.Clean(o.MountPoint)
	after := []Action{{Kind: Readme, Dir: dir}}
	if o.Swap && o.SwapMiB > 0 {
		after = append(after, Action{Kind: Swap, Dir: dir, MiB: o.SwapMiB})
	}
	leave := func(format string, args ...any) ([]Action, string) {
		return nil, "/dev/" + d.Name + " is not changed: " + fmt.Sprintf(format, args...)
	}
	switch {
	case d.Problem != "":
		return leave("%s", d.Problem)
	case d.Mounted != "":
		return after, ""
	case d.Busy != "":
		return leave("%s", d.Busy)
	case len(d.Nodes) > 1:
		return leave("it has %d partitions", len(d.Nodes))
	}
	mount := func(dev, fs string) []Action {
		return append([]Action{{Kind: Mount, Dev: dev, Dir: dir, FS: fs, Options: o.MountOptions}}, after...)
	}
	mkfs := func(dev string) Action {
		return Action{Kind: Mkfs, Disk: d.Name, Dev: dev, FS: o.FileSystem, Note: o.Note}
	}
	first := "/dev/" + partition(d.Name, 1)
	if len(d.Nodes) == 0 || (d.Nodes[0].Number == 0 && d.Nodes[0].FS == FSNone) {
		return append([]Action{{Kind: Partition, Disk: d.Name}, mkfs(first)}, mount(first, o.FileSystem)...), ""
	}
	n := d.Nodes[0]
	switch {
	case linux(n.FS):
		return mount(n.Dev, ""), ""
	case n.FS == FSNone, d.interrupted(n):
		return append([]Action{mkfs(n.Dev)}, mount(n.Dev, o.FileSystem)...), ""
	case n.FS == FSNTFS && d.ntfs != nil && *d.ntfs == "" && n.Number > 0:
		out := []Action{mkfs(n.Dev)}
		if d.Table.Kind == "mbr" {
			out = append([]Action{{Kind: Retype, Disk: d.Name}}, out...)
		}
		return append(out, mount(n.Dev, o.FileSystem)...), ""
	case n.FS == FSNTFS && d.ntfs != nil:
		return leave("it has an NTFS volume that is not factory-fresh: %s", *d.ntfs)
	}
	return leave("it contains %s", n.FS)
}

// badMountPoint returns why the disk is not mounted on a directory; empty if it
// may be.
func badMountPoint(dir string) string {
	const instead = "; set ResourceDisk.MountPoint to a directory of its own, such as /mnt/resource"
	switch clean := path.Clean(dir); {
	case !path.IsAbs(dir):
		return "it does not begin with /" + instead
	case clean == "/tmp":
		// What programs have in /tmp by now would disappear: sockets, and the
		// private directories of services.
		return "running programs have files in /tmp that a mount would hide" + instead + ", and mount that on /tmp with a unit that is started earlier (mount --bind)"
	case slices.Contains([]string{"/", "/boot", "/usr", "/etc", "/var", "/home", "/root", "/dev", "/proc", "/sys", "/run"}, clean):
		return "it is a directory of the system, and a mount would hide what is in it" + instead
	}
	return ""
}

// partition returns the name of a partition. If the disk's name ends in a
// digit, a p precedes the number.
func partition(disk string, n int) string {
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		return disk + "p" + strconv.Itoa(n)
	}
	return disk + strconv.Itoa(n)
}

// Look finds disks by the platform's marks and examines them. The best
// candidate comes first.
func Look(r host.Root, o Options) ([]Disk, error) {
	var names []string
	found := map[string]string{}
	add := func(name, by string) {
		if name != "" && found[name] == "" {
			names = append(names, name)
			found[name] = by
		}
	}
	if target, err := r.Readlink("/dev/disk/azure/resource"); err == nil {
		add(path.Base(target), "/dev/disk/azure/resource")
	}
	for _, n := range vmbus(r) {
		add(n, "VMBus position")
	}
	for _, n := range localNVMe(r) {
		add(n, "NVMe model")
	}
	var out []Disk
	for _, n := range names {
		d, err := look(r, n, o)
		if err != nil {
			d = Disk{Name: n, Problem: err.Error()}
		}
		d.Found = found[n]
		out = append(out, d)
	}
	return out, nil
}

// vmbus finds the disk by its position: LUN 1 of the SCSI controller that has
// the OS disk (generation 2), or the second IDE disk (generation 1).
func vmbus(r host.Root) []string {
	dirs, err := r.Glob("/sys/bus/vmbus/devices/*")
	if err != nil {
		return nil
	}
	var out []string
	for _, dir := range dirs {
		b, err := r.ReadFile(dir + "/device_id")
		if err != nil {
			continue
		}
		id := strings.ToLower(strings.Trim(strings.TrimSpace(string(b)), "{}"))
		pattern := ""
		switch {
		case strings.HasPrefix(id, "00000000-0001"):
			pattern = dir + "/host*/target*/*:*:*:*/block/*"
		case id == "f8b3781a-1e82-4818-a1c3-63d806ec15bb":
			pattern = dir + "/host*/target*/*:*:*:1/block/*"
		default:
			continue
		}
		if found, err := r.Glob(pattern); err == nil && len(found) > 0 {
			out = append(out, path.Base(found[0]))
		}
	}
	return out
}

// localNVMe finds the raw local disks of newer VM sizes.
func localNVMe(r host.Root) []string {
	models, err := r.Glob("/sys/class/nvme/nvme*/model")
	if err != nil {
		return nil
	}
	var out []string
	for _, m := range models {
		b, err := r.ReadFile(m)
		if err != nil || !strings.HasPrefix(strings.TrimSpace(string(b)), "Microsoft NVMe Direct Disk") {
			continue
		}
		ctrl := path.Base(path.Dir(m))
		if ns, err := r.Glob("/sys/block/" + ctrl + "n*"); err == nil {
			for _, n := range ns {
				out = append(out, path.Base(n))
			}
		}
	}
	return out
}

func look(r host.Root, name string, o Options) (Disk, error) {
	d := Disk{Name: name}
	sys := "/sys/block/" + name
	b, err := r.ReadFile(sys + "/size")
	if err != nil {
		return d, fmt.Errorf("read size: %w", err)
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || sectors <= 0 {
		return d, errors.New("size is 0")
	}
	d.Size = sectors * sector
	if b, err := r.ReadFile(sys + "/ro"); err == nil && strings.TrimSpace(string(b)) == "1" {
		d.Busy = "it is read-only"
	}
	if err := d.uses(r, kernelName(r, o.MountPoint)); err != nil {
		return d, err
	}
	f, err := r.OpenMedium("/dev/"+name, os.O_RDONLY)
	if err != nil {
		return d, fmt.Errorf("open: %w", err)
	}
	defer func() { _ = f.Close() }()
	d.making = readMaking(r, o.Note)
	if err := d.read(f); err != nil {
		return d, err
	}
	if d.making.Dev != "" && !slices.ContainsFunc(d.Nodes, d.interrupted) {
		// The file system is complete, or the disk has other content by now:
		// the note is obsolete.
		return d, madeWhole(r, o.Note)
	}
	return d, nil
}

// read examines the content of the disk: partition table and file systems.
func (d *Disk) read(f io.ReaderAt) error {
	if halfGPT(f, d.Size) {
		d.Nodes = []Node{{Dev: "/dev/" + d.Name, FS: FSNone}}
		return nil
	}
	var err error
	d.id = diskID(f)
	if d.Table, err = ReadTable(f, d.Size); err != nil {
		return err
	}
	if d.Table.Kind == "" {
		fs, err := Probe(f, d.Size)
		d.Nodes = []Node{{Dev: "/dev/" + d.Name, FS: fs}}
		return err
	}
	if len(d.Table.Parts) == 0 {
		// An empty partition table counts as user data.
		d.Nodes = []Node{{Dev: "/dev/" + d.Name, FS: FSUnknown}}
	}
	for _, p := range d.Table.Parts {
		part := io.NewSectionReader(f, p.Start, p.Len)
		fs, err := Probe(part, p.Len)
		if err != nil {
			return err
		}
		d.Nodes = append(d.Nodes, Node{Dev: "/dev/" + partition(d.Name, p.Number), Number: p.Number, FS: fs})
		if fs == FSNTFS {
			why := unreadable
			if v, err := readNTFS(part); err == nil {
				why = v.fresh()
			}
			d.ntfs = &why
		}
	}
	return nil
}

// kernelName returns the name that the kernel's tables have for one that may lead
// through links.
func kernelName(r host.Root, name string) string {
	if full, err := r.Resolve(path.Clean(name)); err == nil {
		return full
	}
	return path.Clean(name) // it does not exist yet
}

// uses finds out what the disk and its partitions are used for. It compares
// device numbers, because names in mount tables can be anything.
func (d *Disk) uses(r host.Root, want string) error {
	numbers := map[string]bool{}
	dirs := []string{"/sys/block/" + d.Name}
	parts, err := r.Glob("/sys/block/" + d.Name + "/" + d.Name + "*")
	if err != nil {
		return err
	}
	names := []string{d.Name}
	for _, dir := range append(dirs, parts...) {
		if b, err := r.ReadFile(dir + "/dev"); err == nil {
			numbers[strings.TrimSpace(string(b))] = true
			names = append(names, path.Base(dir))
		}
		if holders, err := r.Glob(dir + "/holders/*"); err == nil && len(holders) > 0 {
			d.Busy = "it is part of " + path.Base(holders[0])
		}
	}
	b, err := r.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 || !numbers[f[2]] {
			continue
		}
		if at := host.Unescape(f[4]); at == want {
			d.Mounted = want
		} else if d.Mounted == "" {
			d.Busy = "it is mounted on " + at
		}
	}
	if b, err := r.ReadFile("/proc/swaps"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 0 && slices.Contains(names, path.Base(f[0])) && strings.HasPrefix(f[0], "/dev/") {
				d.Busy = "it is swap"
			}
		}
	}
	// Other file systems on the mount point are not considered here.
	return nil
}

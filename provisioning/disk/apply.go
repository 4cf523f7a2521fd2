package disk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

const toolTimeout = 5 * time.Minute

// warning is the text of the file in the mount point.
const warning = `WARNING: THIS IS A TEMPORARY DISK.

Any data stored on this drive is SUBJECT TO LOSS and THERE IS NO WAY TO RECOVER IT.

Please do not use this disk for storing any personal or application data.
`

// Apply applies the planned actions and stops at the first failure, because
// each action relies on the ones before it. log, which may be nil, is called
// before each action.
func Apply(ctx context.Context, r host.Root, run host.Runner, actions []Action, log func(Action)) error {
	for _, a := range actions {
		if log != nil {
			log(a)
		}
		if err := apply(ctx, r, run, a); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return nil
}

func apply(ctx context.Context, r host.Root, run host.Runner, a Action) error {
	switch a.Kind {
	case Partition:
		return withDisk(r, a.Disk, func(f *os.File, size int64) error {
			// Checked again right before writing.
			if empty, err := blank(f, size); err != nil || !empty {
				return errors.Join(err, errors.New("the disk is no longer blank"))
			}
			return writeGPT(f, size)
		})
	case Retype:
		return withDisk(r, a.Disk, func(f *os.File, size int64) error { return retype(f, size) })
	case Mkfs:
		return mkfs(ctx, r, run, a)
	case Mount:
		return mount(ctx, r, run, a)
	case Readme:
		return r.WriteFile(path.Join(a.Dir, readme), []byte(warning), 0o644)
	case Swap:
		return swap(ctx, r, run, a)
	}
	return fmt.Errorf("unknown action %q", a.Kind)
}

// withDisk opens a disk for writing. O_EXCL on a block device fails if the
// disk or a partition of it is mounted or otherwise in use.
func withDisk(r host.Root, name string, fn func(*os.File, int64) error) error {
	f, err := r.OpenMedium("/dev/"+name, os.O_RDWR|os.O_EXCL)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = fn(f, size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		// A regular file, in tests, has no table to read again.
		if e := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0); e != nil && !errors.Is(e, unix.ENOTTY) && !errors.Is(e, unix.EINVAL) {
			err = fmt.Errorf("reread partition table: %w", e)
		}
	}
	return errors.Join(err, f.Close())
}

// linuxData is the GPT type of Linux file systems,
// 0FC63DAF-8483-4772-8E79-3D69D8477DE4.
const linuxData = "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4"

// gptSectors is the length of the partition entry array, in sectors.
const gptSectors = 32

// gptRange is the first and the last sector of the one partition.
func gptRange(size int64) (first, end int64) {
	return 2048, (size/sector-2-gptSectors)/2048*2048 - 1
}

// writeGPT writes a protective MBR and both copies of a GPT with one
// partition, aligned to 1 MiB.
func writeGPT(w io.WriterAt, size int64) error {
	const entries, each = 128, 128
	const tableSectors = gptSectors
	last := size/sector - 1
	first, end := gptRange(size)
	if end <= first {
		return errors.New("the disk is too small for a partition")
	}
	table := make([]byte, entries*each)
	diskID, partID := newUUID(), newUUID()
	copy(table, linuxData)
	copy(table[16:], partID[:])
	binary.LittleEndian.PutUint64(table[32:], uint64(first))
	binary.LittleEndian.PutUint64(table[40:], uint64(end))
	header := func(self, other, tableAt int64) []byte {
		h := make([]byte, sector)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		binary.LittleEndian.PutUint64(h[24:], uint64(self))
		binary.LittleEndian.PutUint64(h[32:], uint64(other))
		binary.LittleEndian.PutUint64(h[40:], 2+tableSectors)
		binary.LittleEndian.PutUint64(h[48:], uint64(last-1-tableSectors))
		copy(h[56:], diskID[:])
		binary.LittleEndian.PutUint64(h[72:], uint64(tableAt))
		binary.LittleEndian.PutUint32(h[80:], entries)
		binary.LittleEndian.PutUint32(h[84:], each)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	mbr := make([]byte, sector)
	copy(mbr[446:], "\x00\x00\x02\x00\xee\xff\xff\xff\x01\x00\x00\x00")
	binary.LittleEndian.PutUint32(mbr[458:], uint32(min(last, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
	// The backup at the end is written first and the MBR last: an interrupted
	// write must not look like a complete table.
	for _, part := range []struct {
		at int64
		b  []byte
	}{
		{last - tableSectors, table},
		{last, header(last, 1, last-tableSectors)},
		{2, table},
		{1, header(1, last, 2)},
		{0, mbr},
	} {
		if _, err := w.WriteAt(part.b, part.at*sector); err != nil {
			return err
		}
	}
	return nil
}

// retype changes the type of the only partition of an MBR from NTFS to
// Linux.
func retype(f io.ReaderAt, size int64) error {
	t, err := ReadTable(f, size)
	if err != nil {
		return err
	}
	if t.Kind != "mbr" || len(t.Parts) != 1 {
		return errors.New("the partition table has changed")
	}
	w, ok := f.(io.WriterAt)
	if !ok {
		return errors.New("not writable")
	}
	_, err = w.WriteAt([]byte{0x83}, 446+16*int64(t.Parts[0].Number-1)+4)
	return err
}

func mkfs(ctx context.Context, r host.Root, run host.Runner, a Action) error {
	if err := waitFor(ctx, r, a.Dev); err != nil {
		return err
	}
	if f, err := r.OpenMedium("/dev/"+a.Disk, os.O_RDONLY); err == nil {
		making{Dev: a.Dev, Disk: diskID(f)}.begin(r, a.Note)
		_ = f.Close()
	}
	force := "-F"
	if a.FS == "xfs" || a.FS == "btrfs" {
		force = "-f"
	}
	// In tests the device is below the root.
	if _, err := run.Run(ctx, host.Cmd{Name: "mkfs." + a.FS, Args: []string{force, r.Path(a.Dev)}, Timeout: toolTimeout}); err != nil {
		return err
	}
	return madeWhole(r, a.Note)
}

// waitFor waits for udev to make the node of a new partition.
func waitFor(ctx context.Context, r host.Root, dev string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, fmt.Errorf("%s does not appear", dev))
	defer cancel()
	for !r.Exists(dev) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func mount(ctx context.Context, r host.Root, run host.Runner, a Action) error {
	if err := waitFor(ctx, r, a.Dev); err != nil {
		return err
	}
	if err := r.MkdirAll(a.Dir, 0o755); err != nil {
		return err
	}
	if err := hidesNothing(r, a.Dir); err != nil {
		return err
	}
	opts := "nodev,nosuid"
	if a.Options != "" {
		opts = a.Options
	}
	c := host.Cmd{Name: "mount", Args: []string{"-o", opts, r.Path(a.Dev), r.Path(a.Dir)}, Timeout: toolTimeout}
	if a.FS != "" {
		c.Args = append([]string{"-t", a.FS}, c.Args...)
	}
	_, err := run.Run(ctx, c)
	return err
}

// readme is the file in the mount point.
const readme = "DATALOSS_WARNING_README.txt"

// maxHidden is how many names below a mount point are looked at.
const maxHidden = 1000

// hidesNothing returns an error if a mount on the directory would hide data.
// Empty directories, also nested ones, are none: services create them before
// the disk is mounted, and so do images. Neither is our own warning.
func hidesNothing(r host.Root, dir string) error {
	b, err := r.ReadFile("/proc/self/mountinfo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read mounts: %w", err)
	}
	dir = kernelName(r, dir)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(host.Unescape(f[4]), dir+"/") {
			return fmt.Errorf("the mount point is not empty: something is mounted on %s", host.Unescape(f[4]))
		}
	}
	return r.Walk(dir, maxHidden, func(rel string, in *host.Dir, fi fs.FileInfo, err error) error {
		switch {
		case err != nil:
			return err
		case fi.IsDir():
			return nil
		case rel == readme && fi.Mode().IsRegular():
			if b, _, err := in.ReadBounded(readme, int64(len(warning))); err == nil && string(b) == warning {
				return nil
			}
		}
		return fmt.Errorf("the mount point is not empty: it contains %s", rel)
	})
}

const swapName = "swapfile"

// swap makes the swap file and switches it on. No other swap is touched. The
// file has mode 0600 from the moment it exists, because it will hold the
// memory of every process.
func swap(ctx context.Context, r host.Root, run host.Runner, a Action) error {
	name := path.Join(a.Dir, swapName)
	size := int64(a.MiB) << 20
	on, err := swapOn(r, name)
	if err != nil {
		return err
	}
	fi, err := r.Lstat(name)
	switch {
	case err == nil && !fi.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", name)
	case err == nil && fi.Size() == size:
		if err := r.Chmod(name, 0o600); err != nil {
			return err
		}
		if on {
			return nil
		}
		if whole(r, name, size) {
			_, err := run.Run(ctx, host.Cmd{Name: "swapon", Args: []string{r.Path(name)}, Timeout: toolTimeout})
			return err
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if on {
		if _, err := run.Run(ctx, host.Cmd{Name: "swapoff", Args: []string{r.Path(name)}, Timeout: toolTimeout}); err != nil {
			return err
		}
	}
	if err := r.Remove(name); err != nil {
		return err
	}
	if err := room(r.Path(a.Dir), size); err != nil {
		return err
	}
	if err := makeSwap(r, name, size); err != nil {
		return errors.Join(err, r.Remove(name))
	}
	if _, err := run.Run(ctx, host.Cmd{Name: "swapon", Args: []string{r.Path(name)}, Timeout: toolTimeout}); err != nil {
		return errors.Join(err, r.Remove(name))
	}
	return nil
}

func swapOn(r host.Root, name string) (bool, error) {
	b, err := r.ReadFile("/proc/swaps")
	if err != nil {
		return false, fmt.Errorf("read swaps: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && host.Unescape(f[0]) == r.Path(kernelName(r, name)) {
			return true, nil
		}
	}
	return false, nil
}

// room refuses a swap file that would fill the disk.
func room(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("check %s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	if free-size < 64<<20 {
		return fmt.Errorf("%d MiB free, not enough for %d MiB of swap", free>>20, size>>20)
	}
	return nil
}

// whole reports whether a swap file was finished: it has its signature,
// which is written last, and no holes.
func whole(r host.Root, name string, size int64) bool {
	f, err := r.Open(name)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 10)
	if _, err := f.ReadAt(b, int64(os.Getpagesize())-10); err != nil || string(b) != "SWAPSPACE2" {
		return false
	}
	hole, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE)
	return err == nil && hole >= size
}

// makeSwap writes a swap file without holes; the header comes last.
func makeSwap(r host.Root, name string, size int64) error {
	page := int64(os.Getpagesize())
	if size < 10*page {
		return errors.New("the swap size is " + strconv.FormatInt(size, 10) + " bytes")
	}
	f, err := r.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fillSwap(f, size, page)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// fsNoCOW is FS_NOCOW_FL of linux/fs.h.
const fsNoCOW = 0x00800000

func fillSwap(f *os.File, size, page int64) error {
	// btrfs swaps only to files that are not copied on write; elsewhere the
	// flag is unknown.
	if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|fsNoCOW))
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		zeros := make([]byte, 1<<20)
		for at := int64(0); at < size; at += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
				return err
			}
		}
	}
	h := make([]byte, page)
	binary.LittleEndian.PutUint32(h[1024:], 1)
	binary.LittleEndian.PutUint32(h[1028:], uint32(size/page-1))
	id := newUUID()
	copy(h[1036:], id[:])
	copy(h[page-10:], "SWAPSPACE2")
	_, err := f.WriteAt(h, 0)
	return err
}

// newUUID is a random UUID; its bytes serve for GPT and swap alike.
func newUUID() [16]byte {
	var u [16]byte
	_, _ = rand.Read(u[:])  // never fails
	u[7] = u[7]&0x0f | 0x40 // the version, in GPT's byte order
	u[8] = u[8]&0x3f | 0x80
	return u
}

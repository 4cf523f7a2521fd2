package ovf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
)

// ioctls of linux/cdrom.h.
const (
	cdromEject       = 0x5309
	cdromDriveStatus = 0x5326
	cdromLockDoor    = 0x5329
	cdslCurrent      = 1<<31 - 1 // the slot that is in use
)

// Answers to cdromDriveStatus; 0 means that the drive has no information.
const (
	discNone     = 1
	discTrayOpen = 2
	discNotReady = 3
	discOK       = 4
)

var (
	errNoMedium = errors.New("no medium in the drive")
	errNotReady = errors.New("drive is not ready")
	errDataDisk = errors.New("writable disk, not a provisioning medium")
)

// maxSeed is the largest size, in bytes, of a writable device other than an
// optical drive that is examined. Data disks on these platforms begin at
// 1 GiB.
const maxSeed = 64 << 20

// candidate is a device that may hold the medium.
type candidate struct {
	name    string // as in /dev
	optical bool   // by sysfs or by its name; a disc status confirms it
	named   bool   // named by the operator: need not look like a drive
}

// candidates lists devices in the order in which they are worth trying:
// drives that sysfs knows as such, drives by their names, other whole disks.
// The same device is listed once, however many links lead to it.
func candidates(root host.Root) []candidate {
	var list []candidate
	seen := map[string]bool{}
	add := func(optical bool, names ...string) {
		slices.SortFunc(names, func(a, b string) int { // sr2 before sr10
			if d := len(a) - len(b); d != 0 {
				return d
			}
			return strings.Compare(a, b)
		})
		for _, n := range names {
			id, ok := identity(root, n)
			if ok && !seen[id] {
				seen[id] = true
				list = append(list, candidate{name: n, optical: optical})
			}
		}
	}
	glob := func(pattern string) []string {
		l, err := root.Glob(pattern)
		if err != nil {
			return nil // only a malformed pattern
		}
		return l
	}
	var drives, disks []string
	for _, dir := range glob("/sys/block/*") {
		name := filepath.Base(dir)
		if b, err := root.ReadFile(dir + "/device/type"); err == nil && strings.TrimSpace(string(b)) == "5" {
			drives = append(drives, "/dev/"+name)
			continue
		}
		if !virtual(name) && len(glob(dir+"/"+name+"*/partition")) == 0 {
			disks = append(disks, "/dev/"+name)
		}
	}
	add(true, drives...)
	for _, p := range []string{"/dev/sr[0-9]*", "/dev/scd[0-9]*", "/dev/cdrom*", "/dev/dvd*", "/dev/cd[0-9]"} {
		add(true, glob(p)...)
	}
	add(false, disks...)
	if len(disks) == 0 && len(drives) == 0 { // no sysfs
		for _, p := range []string{"/dev/hd[c-z]", "/dev/vd[b-z]", "/dev/xvd[b-z]", "/dev/sd[b-z]"} {
			add(false, glob(p)...)
		}
	}
	return list
}

// virtual reports whether name belongs to a kind of block device that is not
// searched as a disk.
func virtual(name string) bool {
	for _, p := range []string{"loop", "ram", "zram", "dm-", "md", "nbd", "fd", "sr"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// identity returns a key that all names of one device or file have in common;
// false if name is neither a block device nor a regular file.
func identity(root host.Root, name string) (string, bool) {
	fi, err := root.Stat(name)
	if err != nil {
		return "", false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return "", false
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		return fmt.Sprintf("dev %d", st.Rdev), true
	case unix.S_IFREG:
		return fmt.Sprintf("file %d %d", st.Dev, st.Ino), true
	}
	return "", false
}

// device is a candidate, opened.
type device struct {
	candidate
	file   *os.File
	size   int64
	major  uint32
	minor  uint32
	status int // answer to cdromDriveStatus; 0 if unknown
}

// openDevice opens a candidate and asks the drive whether it has a disc. A
// device that does not support the question (a loop device, a plain file, a
// disk) is accepted without an answer.
func openDevice(root host.Root, c candidate) (_ *device, err error) {
	// OpenMedium adds O_NONBLOCK, so that a drive without a disc can be opened
	// too.
	f, err := root.OpenMedium(c.name, os.O_RDONLY)
	if err != nil {
		if errors.Is(err, unix.ENOMEDIUM) {
			return nil, errNoMedium
		}
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	d := &device{candidate: c, file: f}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		d.major, d.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		d.status = driveStatus(f)
		// A device node may have any name; the type in sysfs decides.
		kind, err := root.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/device/type", d.major, d.minor))
		if err == nil && strings.TrimSpace(string(kind)) != "5" {
			d.optical = false
		}
	default:
		return nil, errors.New("neither a block device nor a file")
	}
	switch d.status {
	case discNone, discTrayOpen:
		return nil, errNoMedium
	case discNotReady:
		return nil, errNotReady
	case discOK:
		d.optical = true
	}
	if d.size, err = f.Seek(0, 2); err != nil {
		return nil, fmt.Errorf("read size of medium: %w", err)
	}
	if d.size == 0 {
		return nil, errNoMedium
	}
	if !d.optical && !d.named && d.size > maxSeed && !readOnly(root, c.name) {
		return nil, errDataDisk
	}
	return d, nil
}

// driveStatus returns the answer to cdromDriveStatus; 0 if the file is not a
// drive.
func driveStatus(f *os.File) int {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), cdromDriveStatus, cdslCurrent)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func readOnly(root host.Root, name string) bool {
	b, err := root.ReadFile("/sys/block/" + filepath.Base(name) + "/ro")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

// Eject opens the door of the drive, which on a virtual machine tells the
// platform that the medium is no longer needed. Call it last, after the
// provisioned marker is on disk (provisioning/SPEC.md §4.10). A source that is
// not a drive, and a drive that cannot eject, is not an error.
func Eject(root host.Root, s Source) error {
	if !s.Optical || s.Device == "" {
		return nil
	}
	f, err := root.OpenMedium(s.Device, os.O_RDONLY)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOMEDIUM) {
			return nil
		}
		return fmt.Errorf("eject %s: %w", s.Device, err)
	}
	defer f.Close() //nolint:errcheck // the file was only read
	// Unlocking the door may be unsupported; the error does not matter.
	_ = unix.IoctlSetInt(int(f.Fd()), cdromLockDoor, 0)
	err = unix.IoctlSetInt(int(f.Fd()), cdromEject, 0)
	for _, ok := range []error{unix.ENOTTY, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.ENOMEDIUM} {
		if errors.Is(err, ok) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("eject %s: %w", s.Device, err)
	}
	return nil
}

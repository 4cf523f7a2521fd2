package ovf

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/agent/host"
	"github.com/azguest/azguest/ovf/iso9660"
	"github.com/azguest/azguest/ovf/udf"
)

// DVD finds the provisioning medium among the machine's devices.
//
// A device is accepted if it is an optical drive, according to sysfs and the
// drive, or by its name if neither decides. Any other whole disk is accepted
// only if it is read-only or too small for a data disk. In every case the
// medium must hold a provisioning document in its root directory.
//
// A device is read in user space; if that fails, through an existing mount;
// finally, for drives only, through a read-only mount made for the purpose.
type DVD struct {
	Root host.Root // devices, /sys, /proc and /run are below it

	// Path overrides the search: a device, an image file or a directory,
	// below Root.
	Path string

	// Wait limits how long Open looks again for a device or a medium that
	// appears late; 0 means one look. If there is a medium but it cannot be
	// used, Open returns without waiting, or after a few seconds if the drive
	// reported an I/O error.
	Wait time.Duration
}

// mountDir is the directory on which trial.mount mounts a device.
const mountDir = "/run/azguest/media"

// lookEvery is the pause between two looks. A look is cheap: usually a glob
// without a match.
const lookEvery = 200 * time.Millisecond

// Open implements Media.
func (d DVD) Open(ctx context.Context) (*Medium, error) {
	start := time.Now()
	deadline := start.Add(d.Wait)
	for {
		m, err := d.look(ctx)
		if err == nil {
			return m, nil
		}
		if e, ok := errors.AsType[*MediaError](err); !ok || !e.worthWaiting(time.Since(start)) || !time.Now().Before(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		case <-time.After(min(lookEvery, time.Until(deadline))):
		}
	}
}

// look goes once through all candidates.
func (d DVD) look(ctx context.Context) (*Medium, error) {
	list := candidates(d.Root)
	if d.Path != "" {
		st, err := d.Root.Stat(d.Path)
		if err != nil {
			return nil, &MediaError{Tried: []Attempt{{d.Path, "open", err, true}}}
		}
		if st.IsDir() {
			return Dir(d.Root.Path(d.Path)).Open(ctx)
		}
		list = []candidate{{name: d.Path, named: true}}
	}
	t := &trial{root: d.Root}
	for _, c := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if m := t.device(c); m != nil {
			return m, nil
		}
	}
	return nil, &MediaError{Tried: t.tried}
}

// trial goes through the devices and records what failed.
type trial struct {
	root  host.Root
	tried []Attempt
}

func (t *trial) failed(c candidate, step string, err error) {
	t.tried = append(t.tried, Attempt{c.name, step, err, c.optical || c.named})
}

var errNotVolume = errors.New("neither UDF nor ISO 9660")

// device tries all ways of reading one device; nil if none worked.
func (t *trial) device(c candidate) *Medium {
	d, err := openDevice(t.root, c)
	if err != nil {
		t.failed(c, "open", err)
		return nil
	}
	m, understood := t.userSpace(d)
	if m != nil {
		return m
	}
	if err := d.file.Close(); err != nil {
		t.failed(c, "close", err)
	}
	if understood {
		return nil // another reader would find the same files
	}
	if m = t.mounted(d); m != nil {
		return m
	}
	// Only drives and devices that the operator named are mounted: the kernel
	// should not parse the content of an arbitrary disk.
	if d.optical || d.named {
		return t.mount(d)
	}
	return nil
}

// userSpace reads the device with the packages udf and iso9660. The second
// result reports whether one of them could read the volume, even if it holds
// no provisioning document.
func (t *trial) userSpace(d *device) (_ *Medium, understood bool) {
	type volume struct {
		kind string
		open func() (fs.FS, error)
		none error
	}
	none := 0
	for _, v := range []volume{
		{"udf", func() (fs.FS, error) { return udf.Open(d.file, d.size) }, udf.ErrNotUDF},
		{"iso9660", func() (fs.FS, error) { return iso9660.Open(d.file, d.size) }, iso9660.ErrNotISO9660},
	} {
		f, err := v.open()
		if errors.Is(err, v.none) {
			none++
			continue
		}
		if err != nil {
			t.failed(d.candidate, "read "+v.kind, err)
			continue
		}
		// On a bridge disc (UDF and ISO 9660) the other file system has the
		// same files and may be intact where this one is damaged.
		if err := accept(f); err != nil {
			t.failed(d.candidate, "read "+v.kind, err)
			understood = understood || errors.Is(err, errNoDocument) || errors.Is(err, errSCVMM) || isForeign(err)
			continue
		}
		return &Medium{
			FS:     f,
			Source: Source{d.name, MethodUserSpace, v.kind, d.optical},
			close:  d.file.Close,
		}, true
	}
	if none == 2 {
		t.failed(d.candidate, "read", errNotVolume)
	}
	return nil, understood
}

// accept looks for a provisioning document. A damaged one is accepted too;
// Load reports what is wrong with it.
func accept(f fs.FS) error {
	c, err := readDocument(f)
	if err != nil {
		return whyMissing(f, err)
	}
	if _, err := Parse(c.rest.Bytes()); isForeign(err) {
		return err
	}
	return nil
}

func isForeign(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == KindForeign
}

// openTree opens a directory as a file system whose symlinks cannot lead out
// of it. Otherwise the medium could choose which files of the machine are
// read.
func openTree(root host.Root, dir string) (fs.FS, func() error, error) {
	r, err := root.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	f := r.FS()
	if err := accept(f); err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return f, r.Close, nil
}

// mounted reads the device through an existing mount, wherever that is.
func (t *trial) mounted(d *device) *Medium {
	b, err := t.root.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // no /proc: then nothing can be known about mounts
	}
	for _, mp := range parseMounts(b) {
		same := d.major != 0 && mp.major == d.major && mp.minor == d.minor
		if !same || mp.root != "/" {
			continue
		}
		f, closer, err := openTree(t.root, mp.point)
		if err != nil {
			t.failed(d.candidate, "read mount "+mp.point, err)
			continue
		}
		return &Medium{FS: f, Source: Source{d.name, MethodMounted, mp.fstype, d.optical}, close: closer}
	}
	return nil
}

// mount mounts the device read-only and reads it through the kernel.
func (t *trial) mount(d *device) *Medium {
	dir := t.root.Path(mountDir)
	if err := t.root.MkdirAll(mountDir, 0o700); err != nil {
		t.failed(d.candidate, "make "+mountDir, err)
		return nil
	}
	// The directory may exist from an earlier run, with another mode.
	if err := t.root.Chmod(mountDir, 0o700); err != nil {
		t.failed(d.candidate, "make "+mountDir, err)
		return nil
	}
	for _, kind := range []string{"udf", "iso9660", "vfat"} {
		err := unix.Mount(t.root.Path(d.name), dir, kind, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		if errors.Is(err, unix.ENODEV) {
			err = fmt.Errorf("the kernel does not support %s%s: %w", kind, forbidden(t.root, kind), err)
		}
		if err != nil {
			t.failed(d.candidate, "mount "+kind, err)
			continue
		}
		f, closer, err := openTree("", dir)
		if err == nil {
			return &Medium{
				FS:     f,
				Source: Source{d.name, MethodMount, kind, d.optical},
				close:  func() error { return errors.Join(closer(), unmount(dir)) },
			}
		}
		t.failed(d.candidate, "read "+kind+" mount", errors.Join(err, unmount(dir)))
	}
	return nil
}

// unmount unmounts dir. If it is busy, the mount is detached and ends with its
// last user.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if err != nil {
		err = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// forbidden describes the line of modprobe.d that keeps a module from being
// loaded, the most frequent reason why a mount fails
// (provisioning/SPEC.md §4.9); empty if there is none.
func forbidden(root host.Root, module string) string {
	for _, dir := range []string{"/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"} {
		files, err := root.Glob(dir + "/modprobe.d/*.conf")
		if err != nil {
			continue
		}
		for _, name := range files {
			b, err := root.ReadFile(name)
			if err != nil {
				continue
			}
			for i, line := range strings.Split(string(b), "\n") {
				w := strings.Fields(line)
				if len(w) >= 2 && (w[0] == "install" || w[0] == "blacklist") && w[1] == module {
					return fmt.Sprintf(", disabled by %q in %s line %d", strings.Join(w, " "), name, i+1)
				}
			}
		}
	}
	return ""
}

// mountPoint is a line of mountinfo.
type mountPoint struct {
	major, minor        uint32
	root, point, fstype string
}

// parseMounts reads /proc/self/mountinfo (proc(5)): mount id, parent, device,
// root, mount point, options, optional fields, "-", type, source, options.
// Lines it does not understand are skipped. The last mount on a point is the
// one that is seen, so later ones come first.
func parseMounts(b []byte) []mountPoint {
	var out []mountPoint
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 2 {
			continue
		}
		maj, mnr, _ := strings.Cut(f[2], ":")
		major, err1 := strconv.ParseUint(maj, 10, 32)
		minor, err2 := strconv.ParseUint(mnr, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		m := mountPoint{uint32(major), uint32(minor), unescape(f[3]), unescape(f[4]), g[0]}
		out = append([]mountPoint{m}, out...)
	}
	return out
}

// unescape undoes the octal escapes of mountinfo: blank, tab, newline and
// backslash as \040, \011, \012, \134.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

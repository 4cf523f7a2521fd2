package host

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mount is one line of /proc/self/mountinfo.
type Mount struct {
	Point   string
	Type    string
	Options []string // of the file system
}

// Mounts lists what is mounted at a directory or below it, the innermost first.
func (r Root) Mounts(below string) ([]Mount, error) {
	b, err := r.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []Mount
	for line := range strings.Lines(string(b)) {
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		point := Unescape(f[4])
		if point == below || strings.HasPrefix(point, below+"/") {
			out = append(out, Mount{Point: point, Type: g[0], Options: strings.Split(g[2], ",")})
		}
	}
	slices.SortStableFunc(out, func(a, b Mount) int { return cmp.Compare(len(b.Point), len(a.Point)) })
	return out, nil
}

// Unescape returns a name as it is. The kernel's tables of mounts and of swap
// write the characters that separate their fields in octal.
func Unescape(name string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(name)
}

// Detach unmounts a file system lazily: files that are open in it stay usable,
// but no more can be opened.
func (r Root) Detach(m Mount) error {
	d, err := r.OpenDir(path.Dir(m.Point), nil)
	if err != nil {
		return err
	}
	err = unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", d.fd(), path.Base(m.Point)), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil {
		err = fmt.Errorf("unmount %s: %w", m.Point, err)
	}
	return errors.Join(err, d.Close())
}

// OpenMedium opens a device without waiting for it, or a regular file that
// stands for one.
func (r Root) OpenMedium(name string, flag int) (*os.File, error) {
	if fi, err := r.Stat(name); err == nil && fi.Mode().IsRegular() {
		return r.OpenFile(name, flag&^os.O_EXCL, 0)
	}
	return r.OpenDevice(name, flag)
}

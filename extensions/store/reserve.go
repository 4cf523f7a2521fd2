package store

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/azguest/azguest/extensions/fault"
	"github.com/azguest/azguest/extensions/folder"
)

// On a full disk the one thing that must still work is the command that makes
// CheckRoom. What the agent needs for it is little: settings, a record,
// a job with its output, and later the status. It is set aside while there is
// plenty, and given up slice by slice when a write finds no room or is about
// to: who fills the disk takes what is freed, and there must be more commands
// than one.
const (
	reserveFiles = 128
	reserveFile  = 32 << 10 // bytes of each
	reserveSlice = 16       // files given up at a time
	// lowBytes and lowFiles are when a command is not begun without more room:
	// its supervisor and the handler itself write too.
	lowBytes = 256 << 10
	lowFiles = reserveSlice
)

// A FreeSpace is what a file system has left for us. Inodes are -1 where they
// are not counted.
type FreeSpace struct {
	bytes, inodes int64
	ok            bool
}

// Space is what the file system of the store has left.
func (s Store) Space() FreeSpace {
	var st unix.Statfs_t
	if unix.Statfs(s.Sub(), &st) != nil {
		return FreeSpace{}
	}
	sp := FreeSpace{bytes: int64(st.Bavail) * st.Bsize, inodes: -1, ok: true}
	if st.Files > 0 {
		sp.inodes = int64(st.Ffree)
	}
	return sp
}

// Low says that a command should not begin without more room.
func (sp FreeSpace) Low() bool {
	return sp.ok && (sp.bytes < lowBytes || sp.inodes >= 0 && sp.inodes < lowFiles)
}

// FillReserve makes what is missing of the reserve, if there is plenty.
func (s Store) FillReserve() {
	dir := s.Sub("reserve")
	if left, err := folder.Root.ReadDir(dir); err == nil && len(left) >= reserveFiles {
		return
	}
	sp := s.Space()
	if !sp.ok || sp.bytes < 2*reserveFiles*reserveFile || sp.inodes >= 0 && sp.inodes < 4*reserveFiles {
		return
	}
	if err := folder.Root.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return
	}
	for i := range reserveFiles {
		f, err := folder.Root.OpenFile(dir+"/"+strconv.Itoa(i), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, reserveFile)
		if errors.Is(err, unix.EOPNOTSUPP) {
			_, err = f.Write(make([]byte, reserveFile))
		}
		if errors.Join(err, f.Close()) != nil {
			return
		}
	}
}

// UseReserve frees a slice of the reserve and reports whether there was one.
func (s Store) UseReserve() bool {
	dir := s.Sub("reserve")
	left, err := folder.Root.ReadDir(dir)
	if err != nil {
		return false
	}
	freed := false
	for _, e := range left[:min(len(left), reserveSlice)] {
		freed = folder.Root.Remove(dir+"/"+e.Name()) == nil || freed
	}
	return freed
}

// writable lets the caller go on where only the disk says no: what was to be
// written is written with the next change.
func writable(err error) error {
	if fault.NoRoom(err) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

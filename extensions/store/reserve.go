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

// On a full disk, commands must still work, because one of them may free space.
// The agent needs little for that: settings, a record, a job with its output,
// and later the status. This space is reserved while there is plenty, and freed
// in slices when a write fails for lack of space, or before it would: whoever
// fills the disk uses the freed space, too, and it must last for several
// commands.
const (
	reserveFiles = 128
	reserveFile  = 32 << 10 // size of each in bytes
	reserveSlice = 16       // files freed at a time
	// With less than lowBytes or lowFiles, space is freed before a command is
	// started, because its supervisor and the handler write, too.
	lowBytes = 256 << 10
	lowFiles = reserveSlice
	// This much more may be enough for what had too little.
	moreBytes = 1 << 20
	moreFiles = 64
)

// A FreeSpace is the free space of a file system. inodes is -1 if the file
// system does not count them.
type FreeSpace struct {
	bytes, inodes int64
	ok            bool
}

// Space returns the free space of the store's file system.
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

// Low reports whether space should be freed before a command is started.
func (sp FreeSpace) Low() bool {
	return sp.ok && (sp.bytes < lowBytes || sp.inodes >= 0 && sp.inodes < lowFiles)
}

// More reports whether there is considerably more space than before.
func (sp FreeSpace) More(before FreeSpace) bool {
	return sp.ok && before.ok && (sp.bytes >= before.bytes+moreBytes || sp.inodes >= before.inodes+moreFiles)
}

// Max returns the larger one of each number.
func (sp FreeSpace) Max(other FreeSpace) FreeSpace {
	return FreeSpace{max(sp.bytes, other.bytes), max(sp.inodes, other.inodes), sp.ok || other.ok}
}

// FillReserve creates the missing files of the reserve, if there is plenty of
// space.
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

// UseReserve frees a slice of the reserve and reports whether it freed anything.
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

// writable ignores errors of a full or read-only disk and missing directories.
// The data is written with the next change.
func writable(err error) error {
	if fault.NoRoom(err) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

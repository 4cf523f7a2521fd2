package host

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// programPiece is how much of a program is written at once. Starting another
// process waits for no more than that.
const programPiece = 256 << 10

// WriteProgram appends r to a file that may be started as soon as this has
// returned. f is a descriptor for reading, as CreateProgram gives one.
//
// The kernel does not start a file that somebody has open for writing
// (ETXTBSY), and closing it before it is started is not enough: a process that
// another goroutine has just forked has a copy of each of our descriptors
// until its exec. So no such descriptor exists while anything is forked: it is
// opened and closed again for each piece, under the lock that forks take. It
// does not matter then who starts the file, under which name, or whether a
// shell does. A new name does not help, and neither does trying again: what a
// shell could not start is an exit code of the handler.
//
// Reading r and syncing f may wait for networks and disks and happen outside
// of the lock. The file must be on a file system of this machine.
func WriteProgram(f *os.File, r io.Reader) (int64, error) {
	// The buffer bounds the pieces, so r must not write itself.
	return io.CopyBuffer(programWriter{f}, struct{ io.Reader }{r}, make([]byte, programPiece))
}

type programWriter struct{ f *os.File }

func (w programWriter) Write(p []byte) (n int, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	// By descriptor and not by name: it is this file, whatever has become of
	// its name.
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(w.f.Fd())), unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	runtime.KeepAlive(w.f)
	if err != nil {
		return 0, &fs.PathError{Op: "write", Path: w.f.Name(), Err: err}
	}
	out := os.NewFile(uintptr(fd), w.f.Name())
	n, err = out.Write(p)
	return n, errors.Join(err, out.Close())
}

var errOpenProgram = errors.New("program is open for writing")

// isProgram reports whether a file with this mode may be executed.
func isProgram(perm fs.FileMode) bool { return perm&0o111 != 0 }

// newFlags are the flags for creating a file that fill will write.
func newFlags(perm fs.FileMode) int {
	if isProgram(perm) {
		return os.O_RDONLY | os.O_CREATE | os.O_EXCL
	}
	return os.O_WRONLY | os.O_CREATE | os.O_EXCL
}

// fill writes the content of a new file that will have perm.
func fill(f *os.File, data []byte, perm fs.FileMode) error {
	if isProgram(perm) {
		_, err := WriteProgram(f, bytes.NewReader(data))
		return err
	}
	_, err := f.Write(data)
	return err
}
